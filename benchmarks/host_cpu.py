"""Engines on this processor, in int8 and in float: yolov7-tiny at 640, two threads.

    python benchmarks/host_cpu.py --data ../shared/data/bccd [--checkpoint runs/cells] [--busy] [--rounds 20]

All rows run in one process, in turns (A B C ... A B C ...), so that what else the computer does falls on all alike;
what is compared is the ratio to ncnn float32 within a round, its median. Without a checkpoint the weights are random,
with batch norms that normalise real pictures: time does not depend on them. "as written by deploy" is what `edgeyolo
deploy` writes for `host-ncnn`, `host-openvino` and `host-onnx`; their maps are compared, so that no wrong result is
called fast. "Outputs rounded too" is `host-onnx-fast`, whose numbers are others. "stock int8" is ncnn's network without
what this package does to it; "tuned" has engine options and the precision of each layer chosen by time, as listed.
Peers are OpenVINO and ONNX Runtime on the float graph, and on the int8 graph that ONNX Runtime's own quantizer makes.
"Detector" rows are whole calls, from picture to boxes.

`--busy` takes one core by a plain loop meanwhile, and writes host_cpu_busy.json. `--profile` adds the milliseconds of
every ncnn layer in each network. Goals are printed with whether they were held.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from record import RESULTS, save_result

from edgeyolo.backends import Session, build, open_artefact
from edgeyolo.backends.ncnn import NcnnSession
from edgeyolo.backends.ncnn.files import Layer, format_param, parse_param, read_bin, write_bin
from edgeyolo.backends.ncnn.int8 import quantize_network
from edgeyolo.backends.ncnn.mixed import float_layers, group_int8_layers, int8_layer_names
from edgeyolo.backends.ncnn.pnnx import convert
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.geometry.network_input import make_input
from edgeyolo.graph.qdq import insert_qdq, load_onnx
from edgeyolo.runtime import Detector
from edgeyolo.spec.manifest import Artefact
from edgeyolo.spec.model import InputSpec, ModelSpec
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.spec.target import Option, Precision, load_target

THREADS = 2
PICTURES = 8
REFERENCE = "ncnn float32"
OURS = "ncnn int8, as written by deploy"
OPENVINO, ORT = "OpenVINO int8, as written by deploy", "ONNX Runtime int8, as written by deploy"
ORT_FAST = "ONNX Runtime int8, outputs rounded too"
DETECTOR, DETECTOR_FLOAT = "Detector by OpenVINO, int8", "Detector by ncnn, float32"
THEIRS = "OpenVINO on ONNX Runtime's int8 graph"
# Row, what it is compared with, and how long it may take of that.
GOALS = (
    (DETECTOR, DETECTOR_FLOAT, 0.40),
    (OPENVINO, THEIRS, 1.0),
    (ORT_FAST, "ONNX Runtime float32", 0.65),
)
PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
FLOAT32: dict[str, Option] = {
    "use_fp16_packed": False,
    "use_fp16_storage": False,
    "use_fp16_arithmetic": False,
    "use_bf16_storage": False,
}
BFLOAT16 = FLOAT32 | {"use_bf16_storage": True}
STOCK = FLOAT32 | {"use_winograd43_convolution": False}  # full 8-bit weights overflow otherwise
TUNED: dict[str, dict[str, Option]] = {
    "float32, no winograd": STOCK | {"use_winograd_convolution": False},
    "bfloat16, winograd": STOCK | {"use_bf16_storage": True},
    "bfloat16, no winograd": STOCK | {"use_bf16_storage": True, "use_winograd_convolution": False},
}
Images = npt.NDArray[np.float32]


def main() -> None:
    """Build all, race them, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--model", default="yolov7-tiny")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or RESULTS / ("host_cpu_busy.json" if args.busy else "host_cpu.json")
    dataset = open_dataset(args.data, "train")
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        folder = Path(work)
        spec = write_quantized(args.checkpoint, args.model, args.image_size, dataset, folder)
        images, _ = make_input(dataset[0].image, spec.input)
        networks = write_networks(folder, spec)
        report: dict[str, Any] = {"threads": THREADS, "busy": args.busy}
        report |= {"model": spec.name, "image_hw": spec.input.image_hw, "rounds": args.rounds}
        sessions = {name: network.open(spec) for name, network in networks.items()}
        tuned, report["tuned"] = tune(networks[OURS], spec, images)
        if args.profile:
            report["layers"] = profile(networks[REFERENCE].layers(), sessions | tuned, images)
            report["by_kind_ms"] = add_up(report["layers"])
        runs = dict(make_runs(sessions | tuned, folder, spec, dataset))
        check_same(runs[REFERENCE](), [runs[name]() for name in (OURS, OPENVINO, ORT)])
        runs |= dict(make_peers(folder, dataset, spec.input, images))
        with burning() if args.busy else contextlib.nullcontext():
            report["rows"], report["goals"] = race_for_goals(runs, args.rounds)
    save_result(out, report)
    sys.stdout.write(table(report["rows"]) + "\n" + goals_table(report["goals"]))


def make_runs(
    sessions: Mapping[str, Session], folder: Path, spec: ModelSpec, dataset: Dataset
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and call of each row that is ours."""
    picture = dataset[0].image
    images, _ = make_input(picture, spec.input)
    qparams = load_qparams(folder / "qparams.json")
    others: dict[str, Session] = {}
    for name, target in ((OPENVINO, "host-openvino"), (ORT, "host-onnx"), (ORT_FAST, "host-onnx-fast")):
        artefact = build(folder / "model.onnx", spec, qparams, load_target(target), folder / target, precision="int8")
        others[name] = open_artefact(folder / target, artefact, spec, threads=THREADS)
    for name, session in (sessions | others).items():
        yield name, partial(session.run, images)
    for name, session in ((DETECTOR_FLOAT, sessions[REFERENCE]), (DETECTOR, others[OPENVINO])):
        yield name, partial(Detector(session, spec).detect, picture)


def check_same(in_float: Sequence[Images], found: Sequence[Sequence[Images]]) -> None:
    """End unless our engines are nearer to the first of them than float is: they give the same numbers."""
    allowed = farthest(in_float, found[0])
    for maps in found[1:]:
        if (far := farthest(maps, found[0])) > allowed:
            raise SystemExit(f"two engines differ by {far:.3f} standard deviations: their times say nothing")


def farthest(maps: Sequence[Images], reference: Sequence[Images]) -> float:
    """Largest rms difference of a map, in standard deviations."""
    return max(float(np.sqrt(np.mean((a - b) ** 2)) / b.std()) for a, b in zip(maps, reference, strict=True))


@contextlib.contextmanager
def burning() -> Iterator[None]:
    """One core is taken by a plain loop."""
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        burner.kill()
        burner.wait()


def write_quantized(checkpoint: Path | None, name: str, size: int, dataset: Dataset, folder: Path) -> ModelSpec:
    """model.onnx and qparams.json into `folder`."""
    import torch

    from edgeyolo import models
    from edgeyolo.export import export_model
    from edgeyolo.quantization import quantize
    from edgeyolo.quantization.calibrate.pictures import calibration_pictures
    from edgeyolo.training.checkpoint import load_checkpoint

    if checkpoint:
        loaded = load_checkpoint(checkpoint)
        model, spec = loaded.model, loaded.record.model
        spec = msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, image_hw=(size, size)))
    else:
        torch.manual_seed(0)
        model = models.create(name, len(dataset.class_names))
        spec = ModelSpec(
            name=name,
            activation=model.config.activation,
            class_names=dataset.class_names,
            input=model.make_input_spec((size, size)),
            decode=model.decode,
        )
    pictures, hashes = calibration_pictures(dataset, spec.input, count=PICTURES)
    if not checkpoint:
        normalise(model, pictures)
    recipe = load_recipe("int8-max")
    quantized = quantize(model.eval(), pictures, recipe, recipe_name="int8-max", picture_hashes=hashes)
    export_model(quantized, spec, folder)
    return spec


def normalise(model: Any, pictures: Any) -> None:
    """Batch norms take the statistics of the pictures."""
    import torch

    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain mean over all pictures
    model.train()
    with torch.no_grad():
        for picture in pictures:
            model(picture)


@dataclasses.dataclass(frozen=True)
class Network:
    """An ncnn network in a folder of its own."""

    folder: Path
    artefact: Artefact

    def layers(self) -> list[Layer]:
        """The layers with their weights."""
        layers = parse_param((self.folder / PARAM).read_text(), where=PARAM)
        return read_bin(layers, (self.folder / BIN).read_bytes(), where=BIN)

    def open(self, spec: ModelSpec) -> NcnnSession:
        """A session with the benchmark's number of threads."""
        session = open_artefact(self.folder, self.artefact, spec, threads=THREADS)
        assert isinstance(session, NcnnSession)
        return session


def write_network(
    folder: Path, layers: Sequence[Layer], options: Mapping[str, Option], precision: Precision
) -> Network:
    """Into a new folder."""
    folder.mkdir()
    (folder / PARAM).write_text(format_param(layers))
    (folder / BIN).write_bytes(write_bin(layers))
    files = {"param": PARAM, "bin": BIN}
    artefact = Artefact(engine="ncnn", engine_version="", precision=precision, files=files, options=dict(options))
    return Network(folder, artefact)


def write_networks(folder: Path, spec: ModelSpec) -> dict[str, Network]:
    """The ncnn rows but for the tuned one."""
    qparams = load_qparams(folder / "qparams.json")
    in_float = convert(folder / "model.onnx", spec.input.image_hw)
    stock = quantize_network(in_float, load_onnx(folder / "model.onnx"), qparams)
    target = load_target("host-ncnn")
    ours = build(folder / "model.onnx", spec, qparams, target, folder / "ours", precision="int8")
    return {
        REFERENCE: write_network(folder / "float32", in_float, FLOAT32, "fp32"),
        "ncnn bfloat16": write_network(folder / "bfloat16", in_float, BFLOAT16, "bf16"),
        "ncnn stock int8": write_network(folder / "stock", stock, STOCK, "int8"),
        OURS: Network(folder / "ours", ours),
    }


def tune(network: Network, spec: ModelSpec, images: Images) -> tuple[dict[str, NcnnSession], dict[str, Any]]:
    """The fastest of a few engine options, each with all layers in int8 and with several choices of them in float."""
    layers = network.layers()
    groups = group_int8_layers(layers)
    choices = {"": [], "1x1": groups["1x1"], "1x1 and the first": [*groups["1x1"], *groups["first layers"]]}
    candidates: dict[str, tuple[NcnnSession, list[str]]] = {}
    for number, (name, options) in enumerate(TUNED.items()):
        measured = {"those faster so": list_faster(network, options, spec, images)}
        for label, kept_float in (choices | measured).items():
            where = network.folder.with_name(f"tuned-{number}-{label or 'none'}")
            mixed = float_layers(layers, kept_float, half=False)
            session = write_network(where, mixed, options, "int8").open(spec)
            candidates[f"{name}; {label or 'no'} layers in float"] = (session, kept_float)
    runs = {label: partial(session.run, images) for label, (session, _) in candidates.items()}
    rows = race(runs, 8, reference=next(iter(runs)))
    best = min(rows, key=lambda row: float(row["ratio"]))["name"]
    session, kept_float = candidates[best]
    return {"ncnn int8, tuned": session}, {"chosen": best, "float_layers": kept_float, "candidates": rows}


def list_faster(network: Network, options: Mapping[str, Option], spec: ModelSpec, images: Images) -> list[str]:
    """Layers that took less time in float than in int8, each within its own whole network."""
    layers = network.layers()
    names = int8_layer_names(layers)
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        in_float = write_network(Path(work) / "float", float_layers(layers, names, half=False), options, "fp32")
        in_int8 = write_network(Path(work) / "int8", layers, options, "int8")
        times = time_both(in_float.open(spec), in_int8.open(spec), images)
    return [name for name in names if times[name][0] < times[name][1]]


def time_both(
    first: NcnnSession, second: NcnnSession, images: Images, rounds: int = 8
) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each layer in both, taken in turns."""
    taken = [(first.time_layers(images[0]), second.time_layers(images[0])) for _ in range(rounds)]
    return {
        name: (statistics.median(a[name] for a, _ in taken), statistics.median(b[name] for _, b in taken))
        for name in taken[0][0]
    }


def profile(layers: Sequence[Layer], sessions: dict[str, NcnnSession], images: Images) -> list[dict[str, Any]]:
    """Milliseconds of every layer in every ncnn row, medians of rounds taken in turns."""
    taken = [{name: session.time_layers(images[0]) for name, session in sessions.items()} for _ in range(10)]
    rows = []
    for layer in layers:
        if layer.kind != "Input":
            size = {"kernel": layer.integer(1), "out_chs": layer.integer(0)} if layer.kind == "Convolution" else {}
            times = {name: statistics.median(each[name][layer.name] for each in taken) for name in sessions}
            rows.append({"name": layer.name, "kind": layer.kind, **size, "ms": rounded(times)})
    return rows


def add_up(layers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Milliseconds of each kind of layer, convolutions by kernel."""
    totals: dict[str, dict[str, float]] = {}
    for row in layers:
        kind = f"{row['kind']} {row['kernel']}x{row['kernel']}" if "kernel" in row else row["kind"]
        sums = totals.setdefault(kind, dict.fromkeys(row["ms"], 0.0))
        for name, time_ms in row["ms"].items():
            sums[name] += time_ms
    return {kind: rounded(sums) for kind, sums in totals.items()}


def make_peers(
    folder: Path, dataset: Dataset, input_spec: InputSpec, images: Images
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name and call of each row of another engine."""
    path, ours, theirs = folder / "model.onnx", folder / "unsigned.onnx", folder / "theirs.onnx"
    onnx.save(insert_qdq(load_onnx(path), load_qparams(folder / "qparams.json"), unsigned=True), ours)
    pictures = [make_input(dataset[i].image, input_spec)[0] for i in range(min(PICTURES, len(dataset)))]
    quantize_by_onnxruntime(path, theirs, pictures)
    for name, file in (("float32", path), ("on our int8 graph, unsigned", ours), ("on its own int8 graph", theirs)):
        yield f"ONNX Runtime {name}", open_onnxruntime(file, images)
    yield "OpenVINO float, its default", open_openvino(path, images, "")
    yield "OpenVINO float32", open_openvino(path, images, "f32")
    yield THEIRS, open_openvino(theirs, images, "")


def quantize_by_onnxruntime(path: Path, out: Path, pictures: list[Images]) -> None:
    """ONNX Runtime's static quantization: unsigned activations, signed weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(pictures)

        def get_next(self) -> dict[str, Images] | None:
            picture = next(self._left, None)
            return None if picture is None else {"images": picture}

    quantize_static(
        str(path),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def open_onnxruntime(path: Path, images: Images) -> Callable[[], Any]:
    """One run of a file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})


def open_openvino(path: Path, images: Images, precision: str) -> Callable[[], Any]:
    """One run of a file; precision "" is the engine's own choice."""
    import openvino

    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        config["INFERENCE_PRECISION_HINT"] = precision
    request = openvino.Core().compile_model(str(path), "CPU", config).create_infer_request()
    return lambda: request.infer([images])


def race(runs: Mapping[str, Callable[[], Any]], rounds: int, *, reference: str = REFERENCE) -> list[dict[str, Any]]:
    """Median milliseconds of each, and the median of its ratio to the reference in the same round."""
    taken = take_turns(runs, rounds)
    return [describe(name, taken, reference) for name in runs]


def race_for_goals(runs: Mapping[str, Callable[[], Any]], rounds: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """The rows, and each goal with what was found, from the same rounds."""
    taken = take_turns(runs, rounds)
    goals = [{"row": row, "of": of, "most": most, "ratio": ratio(taken, row, of)} for row, of, most in GOALS]
    return [describe(name, taken, REFERENCE) for name in runs], goals


def take_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each in every round."""
    for run in runs.values():
        run()
    gc.collect()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(0.05)  # threads of the engine before spin for a while, on a core that this one needs
            run()  # brings its weights into the caches that the one before has filled
            started = time.perf_counter()
            run()
            taken[name].append(1000 * (time.perf_counter() - started))
    return taken


def ratio(taken: Mapping[str, list[float]], name: str, reference: str) -> float:
    """Median over the rounds of a row's time by another's."""
    pairs = zip(taken[name], taken[reference], strict=True)
    return round(statistics.median(mine / theirs for mine, theirs in pairs), 3)


def describe(name: str, taken: Mapping[str, list[float]], reference: str) -> dict[str, Any]:
    """A row of the results."""
    times = {"median_ms": statistics.median(taken[name]), "least_ms": min(taken[name])}
    return {"name": name, **rounded(times), "ratio": ratio(taken, name, reference)}


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """The number rounded to three places."""
    return {name: round(value, 3) for name, value in values.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| row | ms, median | ms, least | ratio to {REFERENCE} |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['name']} | {row['median_ms']:.1f} | {row['least_ms']:.1f} | {row['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


def goals_table(goals: list[dict[str, Any]]) -> str:
    """Each goal as a line of a Markdown table."""
    lines = ["| goal | at most | found | held |", "|---|---|---|---|"]
    for goal in goals:
        held = "yes" if goal["ratio"] <= goal["most"] else "no"
        lines.append(f"| {goal['row']} / {goal['of']} | {goal['most']:.2f} | {goal['ratio']:.2f} | {held} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
