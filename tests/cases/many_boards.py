"""What boards, simulators, emulators and others said of three models, as files that `edgeyolo report` reads."""

from __future__ import annotations

from pathlib import Path

import msgspec
from any_spec import any_spec

from edgeyolo.boards.fleet import FleetRow, FleetTable
from edgeyolo.bundle import write_bundle
from edgeyolo.latency import load_board
from edgeyolo.spec.benchmark import BenchRecord, Conditions, Minute, Rail, Spread
from edgeyolo.spec.figure import Figure, Kind, ScoreboardRow, Unit
from edgeyolo.spec.latency import Estimate
from edgeyolo.spec.layers import LayerRun, make_layer_report
from edgeyolo.spec.manifest import Artefact, Manifest
from edgeyolo.spec.model import Score
from edgeyolo.spec.strict import encode_json

SIZES = {"yolov7-nano": 1.0, "yolov7-tiny": 3.1, "ppyoloe-s": 4.4}  # times of the first one's
AP = {"yolov7-nano": 56.2, "yolov7-tiny": 54.3, "ppyoloe-s": 57.4}
BOARDS = {
    "raspberry-pi-5": ("Raspberry Pi 5 Model B Rev 1.0", 31.0),
    "raspberry-pi-4": ("Raspberry Pi 4 Model B", 142.0),
}
LOSS = {"fp16": 0.02, "int8": 0.31, "mixed": 0.12}


def figure(value: float, unit: Unit, kind: Kind = "measured", source: str = "") -> Figure:
    return Figure(value=value, unit=unit, kind=kind, source=source)


def score(artefact: str, ap: float, split: str = "test") -> Score:
    sizes = {"ap_small": 30.0, "ap_medium": 50.0, "ap_large": 60.0}
    return Score(
        artefact=artefact, data="bccd", split=split, images=72, boxes=904, ap=ap, ap50=87.0, ap75=60.0, **sizes
    )


def spread(median_ms: float) -> Spread:
    return Spread(round(median_ms, 3), round(median_ms * 1.06, 3), round(median_ms * 1.2, 3))


def make_record(model: str, precision: str, board: str, **changes: object) -> BenchRecord:
    """As `bench` gives it on an ncnn board."""
    device, ms = BOARDS[board]
    network_ms = ms * SIZES[model] * {"fp16": 1.0, "int8": 0.74, "mixed": 0.68}[precision]
    record = BenchRecord(
        bundle=f"/home/pi/{model}.eyb",
        bundle_sha256=f"{model}{precision}{board}".encode().hex().ljust(64, "0")[:64],
        model=model,
        licence="own weights",
        scores=(score("float torch", AP[model]), score(f"ncnn {precision}", AP[model] - LOSS[precision])),
        target=board,
        engine="ncnn 1.0.20261020",
        precision=precision,
        device=device,
        machine={"edgeyolo": "0.2.0", "machine": "aarch64"},
        date="2026-11-28T12:00:00+00:00",
        threads=4,
        runs=200,
        warmup=10,
        picture_hw=(480, 640),
        spread={
            "pre": spread(ms * 0.09),
            "network": spread(network_ms),
            "post": spread(ms * 0.04),
            "total": spread(network_ms + ms * 0.13),
        },
        interval_ms={"total": (network_ms + ms * 0.12, network_ms + ms * 0.14)},
        per_second=1e3 / (network_ms + ms * 0.13),
        load_ms=61.0,
        first_ms=140.0,
        peak_memory_mib=118.0,
        before=Conditions(temperature_c=48.0, clock_mhz=2400.0, governor="ondemand"),
        after=Conditions(temperature_c=63.0, clock_mhz=2400.0, governor="ondemand"),
    )
    return msgspec.structs.replace(record, **changes)


def make_layers() -> object:
    """Of an artefact with one float layer and two layers that only convert."""
    rows = [
        LayerRun(
            name=f"convrelu_{i}", kind="Convolution", precision="int8", takes="int8", gives="int8", ms=0.31 + i / 9
        )
        for i in range(9)
    ]
    rows += [
        LayerRun(name="conv_57", kind="Convolution", precision="fp32", takes="fp32", gives="fp32", ms=0.62),
        LayerRun(name="quantize_0", kind="Quantize", takes="fp32", gives="int8", is_conversion=True, ms=0.09),
        LayerRun(name="cast_1", kind="Cast", takes="int8", gives="fp32", is_conversion=True, ms=0.04),
    ]
    return make_layer_report(rows, method="ncnn's own times of each layer", runs=50)


def write_sources(folder: Path) -> list[Path]:
    """A fleet's table, a record of a sustained load, a bundle and what is estimated of it, and rows of other kinds."""
    bundle = write_tiny(folder)
    fleet = [
        FleetRow(board=f"lab-{board}", host="pi@lab", target=board, model=model, options=(), record=record)
        for board in BOARDS
        for model in SIZES
        for precision in ("fp16", "mixed")
        for record in [make_record(model, precision, board)]
    ]
    (folder / "fleet.json").write_bytes(encode_json(FleetTable(rows=tuple(fleet))))
    (folder / "bench.json").write_bytes(encode_json(make_hot_record()))
    (folder / "estimate.json").write_bytes(encode_json(make_estimates(bundle)))
    (folder / "rows.json").write_bytes(encode_json(make_rows()))
    return [bundle, *(folder / name for name in ("fleet.json", "bench.json", "estimate.json", "rows.json"))]


def write_tiny(folder: Path) -> Path:
    """A bundle of which only the manifest matters: what it scored, and for which board it is."""
    (folder / "model.param").write_text("")
    (folder / "model.bin").write_bytes(bytes(60_000))
    manifest = Manifest(
        model=msgspec.structs.replace(any_spec((320, 320)), name="yolov7-tiny"),
        target="raspberry-pi-4",
        artefact=Artefact(
            engine="ncnn",
            engine_version="1.0.20261020",
            precision="int8",
            files={"param": "model.param", "bin": "model.bin"},
            layers={"int8": 55, "float": 3},
        ),
        sha256={},
        scores=(score("float torch", AP["yolov7-tiny"]), score("ncnn int8", AP["yolov7-tiny"] - LOSS["int8"])),
        tools={"edgeyolo": "0.2.0"},
        created="2026-11-27T10:00:00+00:00",
    )
    write_bundle(folder / "tiny.eyb", manifest, folder)
    return folder / "tiny.eyb"


def make_hot_record() -> BenchRecord:
    """Of five minutes, in which the board became hot."""
    record = make_record("yolov7-tiny", "int8", "raspberry-pi-4", layers=make_layers())
    ms, state = record.spread["total"].median_ms, record.after
    minutes = tuple(
        Minute(calls=100, total=spread(ms * slower), network=spread(ms * slower * 0.85), conditions=state)
        for slower in (0.86, 0.9, 1.0, 1.22, 1.24)
    )
    hot = Conditions(temperature_c=84.0, clock_mhz=1100.0, gpu_clock_mhz=612.0, governor="ondemand")
    hot = msgspec.structs.replace(hot, throttled=("temperature limit",))
    power = (Rail(source="ina3221", name="VDD_IN", mean_w=5.13, joules_per_call=1.77),)
    return msgspec.structs.replace(record, minutes=minutes, after=hot, throttled=hot.throttled, power=power)


def make_estimates(bundle: Path) -> dict[str, object]:
    """What `estimate --json` says of a bundle on three boards."""
    estimates = [
        Estimate(
            board=board,
            title=load_board(board).title,
            engine=load_board(board).engine,
            precision="int8",
            threads=4,
            low_ms=ms / 1.4,
            middle_ms=ms,
            high_ms=ms * 1.4,
            coverage=0.9,
            method="by layers",
            rests_on=("published",),
            sources=("github.com/Tencent/ncnn, benchmark/README.md",),
        )
        for board, ms in (("raspberry-pi-3", 410.0), ("raspberry-pi-4", 190.0), ("rk3588", 66.0))
    ]
    return {"source": str(bundle), "model": "yolov7-tiny", "estimates": msgspec.to_builtins(estimates), "notes": []}


def make_rows() -> list[ScoreboardRow]:
    """One simulated, one counted, two published, and one of which little is known."""
    npu = "RK3588 boards by one core of the NPU"
    scored = {"data": "bccd", "split": "test", "pictures": 72, "image_hw": (320, 320), "date": "2026-11-28"}
    rows = [
        ScoreboardRow(
            model=model,
            target="rockchip-rk3588-npu",
            engine="rknn 2.3.2",
            precision="int8",
            ap_float=figure(AP[model], "AP"),
            ap=figure(AP[model] - 0.4, "AP", "simulated"),
            size=figure(7.1e6 * SIZES[model], "bytes"),
            costs=(figure(ms, "network ms", "published", npu),),
            licence="Apache-2.0",
            layers={"int8": 55, "float": 3},
            read_from=("airockchip/rknn_model_zoo, README",),
            **scored,
        )
        for model, ms in (("yolov7-tiny", 13.8), ("ppyoloe-s", 30.8))
    ]
    counted = figure(1.62e9, "instructions", "counted", "Cortex-A76, emulated")
    rows.append(
        ScoreboardRow(
            model="yolov7-nano",
            target="raspberry-pi-5",
            engine="ncnn",
            precision="mixed",
            ap=figure(56.1, "AP"),
            ap_float=figure(56.2, "AP"),
            costs=(counted,),
            **scored,
        )
    )
    rows.append(ScoreboardRow(model="yolov7-nano", target="jetson-orin-nano", precision="int8"))
    return rows
