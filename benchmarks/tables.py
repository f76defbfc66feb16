"""The tables of README.md and docs/, made from benchmarks/results: `make tables`.

    python benchmarks/tables.py

A block between `<!-- table: NAME -->` and `<!-- end -->` is what the function NAME of `TABLES` says, byte for byte;
a test holds it. Numbers are rounded here and nowhere else.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import history_tables
import model_tables
from board_rows import list_rows, load_row
from record import RESULTS, ROOT

from edgeyolo.spec.benchmark import BenchRecord

DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MIB = 1 << 20

BOARD_MODELS = ("yolov7-tiny", "ppyoloe-s")
ENGINES = {"onnxruntime": "ONNX Runtime", "ncnn": "NCNN"}
MODES = ("mixed", "int8", "fp16", "bf16", "fp32", "onnxruntime fp32", "onnxruntime int8", "openvino")
OTHER_NUMBERS = ("float torch", "ONNX Runtime, outputs rounded too")  # than the other rows of engines.json
INSTALLERS = ("pip", "setuptools")


def main() -> None:
    """Fill every block of every document."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            document.write_text(filled, encoding="utf-8")


def fill(text: str) -> str:
    """The document with its blocks made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}{TABLES[block['name']]()}{block[3]}", text)


def deployed() -> str:
    """AP of every artefact on photographs of blood cells."""
    rows = []
    for model in BOARD_MODELS:
        for row in load(f"bccd-{model}")["rows"]:
            if row["split"] == "test" and row["artefact"] != "fake-quant torch":
                classes = [f"{ap:.1f}" for ap in row["per_class"].values()]
                name = "" if any(other[0] == model for other in rows) else model
                rows.append([name, _artefact(row), f"{row['ap']:.1f}", f"{row['ap50']:.1f}", *classes])
    names = next(iter(load(f"bccd-{BOARD_MODELS[0]}")["rows"]))["per_class"]
    return markdown(["model", "artefact", "AP", "AP50", *names], rows, words=2)


def _artefact(row: dict[str, Any]) -> str:
    engine, _, precision = row["artefact"].partition(" ")
    target = f" ({row['target']})" if engine == "ncnn" else ""
    return f"{ENGINES.get(engine, engine)} {precision}{target}, {row['bytes'] / 1e6:.1f} MB"


def figures() -> str:
    """The other things that were measured, one line each, with the script that does it."""
    return markdown(
        ["what", "measured", "by"], [[what, found, f"`{name}`"] for what, found, name in _figures()], words=3
    )


def _figures() -> Iterable[tuple[str, str, str]]:
    nano, peer = load("bccd-yolov7-nano"), load("peers")["rows"][0]
    by_split = {row["split"]: row["ap"] for row in nano["rows"] if row["artefact"] == "float torch"}
    yield "yolov7-nano (1.6 million parameters) trained as long: AP on val, test", _pair(by_split), "bccd.py"
    yield f"{peer['what']}: AP on val, test", _pair(peer["ap"]), "results/peers.json"
    teaching = load("distill")
    means = {(row["taught"], row["split"]): row["mean"] for row in teaching["summary"] if row["field"] == "ap"}
    alone, taught = ({split: means[is_taught, split] for split in ("val", "test")} for is_taught in (False, True))
    teacher = teaching["teacher"]["model"]
    what = f"{teaching['student']} after {teaching['epochs']} epochs, alone and taught by {teacher}: AP on val, test"
    yield what, f"{_pair(alone)} and {_pair(taught)}", "distill.py"
    hard = load("hard_case")
    what = f"outlier channels planted in the weights: AP float, int8, int8 with `--max-drop {hard['max_drop']}`"
    kept = f"({hard['floated_layers']} of {hard['layers']} layers float)"
    yield what, f"{hard['float_ap']:.1f}, {hard['int8_max_ap']:.1f}, {hard['met_ap']:.1f} {kept}", "hard_case.py"
    train = load("train")
    steps = {row["what"]: row["step_ms"] / 1e3 for row in train["rows"] if row["image_size"] == 320}
    what = f"a training step of {train['batch']} pictures at 320 on {train['threads']} cores: float32, bfloat16"
    yield what, f"{steps['ours, fp32']:.2f} s, {steps['ours, bf16']:.2f} s", "train.py"
    overhead = load("overhead")
    height, width = overhead["picture_hw"]
    what = f"`detect` around the network, {width} x {height} with {overhead['detections']} objects"
    yield what, f"{overhead['parts']['all but the network']['median_ms']:.1f} ms", "overhead.py"
    foot = load("footprint")
    size = sum(size for name, size in foot["installed_bytes"].items() if name not in INSTALLERS) / MIB
    first, last = foot["memory"][0], foot["memory"][-1]
    yield "installed on a board, with ncnn", f"{size:.0f} MiB", "footprint.py"
    what = f"memory after {first['detections']:,} and {last['detections']:,} pictures"
    yield what, f"{first['rss_mib']:.0f} and {last['rss_mib']:.0f} MiB", "footprint.py"
    fuzz = load("fuzz")
    what = "altered bundles: refused or ran; crashed or hung"
    yield what, f"{fuzz['cases'] - len(fuzz['findings']):,}; {len(fuzz['findings'])}", "fuzz.py"
    builds = load("tensorrt_build")["builds"]
    compiled = {row["model"] for row in builds} - {row["model"] for row in builds if not row["builds"]}
    what = "models that TensorRT's compiler builds in float32, float16 and int8"
    yield what, f"{len(compiled)} of {len({row['model'] for row in builds})}", "tensorrt_build.py"


def _pair(ap: dict[str, float]) -> str:
    return f"{ap['val']:.1f}, {ap['test']:.1f}"


def recipes() -> str:
    """What each recipe costs, on every engine."""
    rows = []
    for model, found in load("quantization")["models"].items():
        for i, (recipe, row) in enumerate(found["recipes"].items()):
            first = [model, recipe, f"{found['float']['ap']:.2f}"] if i == 0 else ["", recipe, ""]
            rows.append([*first, *(f"{row[name]['ap']:.2f}" for name in ("fake-quant", *ENGINES))])
    return markdown(["model", "recipe", "float", "fake-quant", *ENGINES.values()], rows, words=2)


def calibration() -> str:
    """What calibration alone loses on drawn pictures and on photographs: mean and spread over seeds, and seconds."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in load("calibration")["rows"]:
        epochs = f", epochs: {row['qat_epochs']}" if "qat_epochs" in row else ""
        found.setdefault((row["case"], row["model"]), {}).setdefault(row["recipe"] + epochs, []).append(row)
    rows = []
    for (case, model), by_recipe in found.items():
        [whole] = by_recipe.pop("float")
        for i, (recipe, measured) in enumerate(by_recipe.items()):
            first = [case, model, recipe, f"{whole['ap']['torch']:.2f}"] if i == 0 else ["", "", recipe, ""]
            aps = [_mean_and_spread([row["ap"][name] for row in measured]) for name in ENGINES]
            layers, seconds = (
                statistics.fmean(row[key] for row in measured) for key in ("int8_layers", "processor_seconds")
            )
            rows.append([*first, *aps, f"{layers:.0f}", f"{seconds:.0f}"])
    headings = ["pictures", "model", "recipe", "float", *ENGINES.values(), "int8 layers", "processor s"]
    return markdown(headings, rows, words=3)


def _mean_and_spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def engines_apart() -> str:
    """The largest distance between the AP of fake-quant and an engine, over all recipes and models."""
    apart = [
        abs(row[name]["ap"] - row["fake-quant"]["ap"])
        for found in load("quantization")["models"].values()
        for row in found["recipes"].values()
        for name in ENGINES
    ]
    return f"Over the models and recipes below, AP of an engine is within {max(apart):.2f} of that of fake-quant.\n"


def clipping() -> str:
    """AP by how much clipping counts, and how far from float; the last row is the mean distance."""
    rows, apart = [], []
    for row in load("clipping")["rows"]:
        whole, *aps = row["ap"].values()
        apart.append([abs(ap - whole) for ap in aps])
        rows.append([row["model"], f"{whole:.2f}", *(f"{ap:.2f} ({ap - whole:+.2f})" for ap in aps)])
    rows.append(["mean distance", "", *(f"{statistics.fmean(column):.2f}" for column in zip(*apart, strict=True))])
    weights = [f"clipping counts {weight:g}" for weight in load("clipping")["weights"]]
    return markdown(["model", "float", *weights, "largest magnitude"], rows, words=1)


def ablation() -> str:
    """AP of each seed, and against the default of the same seed."""
    aps: dict[str, dict[int, float]] = {}
    for run in load("ablation")["runs"]:
        aps.setdefault(run["variant"], {})[run["seed"]] = statistics.fmean(run["ap"].values())
    seeds = sorted({seed for by_seed in aps.values() for seed in by_seed})
    rows = []
    for variant, by_seed in aps.items():
        gains = [f"{ap - aps['default'][seed]:+.1f}" for seed, ap in by_seed.items() if seed in aps["default"]]
        cells = [f"{by_seed[seed]:.1f}" if seed in by_seed else "" for seed in seeds]
        rows.append([variant, *cells, "" if variant == "default" else ", ".join(gains)])
    return markdown(["change", *(f"seed {seed}" for seed in seeds), "against the default"], rows, words=1)


def foreign() -> str:
    """AP of weights that went three ways, and what int8 loses of the float graph's on each engine."""
    rows, found = [], load("foreign")
    for model in dict.fromkeys(row["model"] for row in found["rows"]):
        for read in dict.fromkeys(row["read"] for row in found["rows"]):
            aps = {row["artefact"]: row["ap"] for row in found["rows"] if (row["model"], row["read"]) == (model, read)}
            if aps:
                whole = aps.pop("onnxruntime fp32")
                losses = [f"{ap:.2f} ({ap - whole:+.2f})" for ap in aps.values()]
                rows.append([model if read == "our own export" else "", read, f"{whole:.2f}", *losses])
    return markdown(["model", "read as", "float", *(f"{name} int8" for name in ENGINES.values())], rows, words=2)


def host_cpu() -> str:
    """Engines on a desktop processor; beside it the same while one core is taken, where that was measured."""
    headings = ["engine", "ms", "of ncnn float32"]
    rows = [[row["name"], f"{row['median_ms']:.1f}", f"{row['ratio']:.2f}"] for row in load("host_cpu")["rows"]]
    if (RESULTS / "host_cpu_busy.json").is_file():
        headings.append("of it on a busy core")
        busy = {row["name"]: f"{row['ratio']:.2f}" for row in load("host_cpu_busy")["rows"]}
        rows = [[*row, busy.get(row[0], "")] for row in rows]
    return markdown(headings, rows, words=1)


def thresholds() -> str:
    """Precision on test at a threshold of the float model, by how the int8 one was found on val."""
    ways = ("untransferred", "transferred", "nearest precision", "same count")
    rows = []
    for row in load("thresholds")["rows"]:
        aim = row["float"]["precision"]
        apart = [f"{row[way]['precision'] - aim:+.2f}" for way in ways]
        recall = [f"{row[way]['recall']:.1f}" for way in ("float", *ways[:2])]
        aps = [f"{row['ap'][key]:.1f}" for key in ("float", "int8")]
        rows.append([row["model"], row["artefact"], f"{row['threshold']:g}", *aps, f"{aim:.2f}", *apart, *recall])
    headings = ["model", "artefact", "threshold", "AP float", "int8", "precision float", "same number", "transferred"]
    headings += ["nearest precision", "same count", "recall float", "same number", "transferred"]
    return markdown(headings, rows, words=2)


def non_square() -> str:
    """A square input and one of the pictures' shape; or one picture at a time and four."""
    rows = []
    for row in load("non_square")["rows"]:
        aps = [f"{row[f'ap_{size}']:.1f}" for size in ("640x640", "384x640")]
        aps = ["", aps[1]] if "at a time" in row["engine"] else aps
        times = [f"{row['before_ms']:.1f}", f"{row['after_ms']:.1f}", f"{row['ratio']:.2f}"]
        engine, comma, how = row["engine"].partition(",")
        rows.append([f"{engine} {row['precision']}{comma}{how}", *aps, *times, f"{row['network_ratio']:.2f}"])
    headings = ["bundle", "AP at 640x640", "AP at 384x640", "ms before", "ms after", "ratio", "of the network alone"]
    return markdown(headings, rows, words=1)


def engines() -> str:
    """AP of one quantized folder on every engine, and how far apart those are that compute the same numbers."""
    models = load("engines")["models"]
    ways = list(dict.fromkeys(way for rows in models.values() for way in rows))
    table = [[way, *(f"{rows[way]:.2f}" if way in rows else "" for rows in models.values())] for way in ways]
    return markdown(["AP on val and test together", *models], [*table, _spread(models)], words=1)


def _spread(models: dict[str, dict[str, float]]) -> list[str]:
    alike = [[ap for way, ap in rows.items() if way not in OTHER_NUMBERS] for rows in models.values()]
    return ["largest difference between engines", *(f"{max(aps) - min(aps):.2f}" for aps in alike)]


def arm() -> str:
    """AP on ARM's kernels."""
    found = load("arm")
    places = list(dict.fromkeys(row["on"] for row in found["rows"]))
    models = list(dict.fromkeys(row["model"] for row in found["rows"]))
    ap = {(row["model"], row["on"]): f"{row['ap']:.2f}" for row in found["rows"]}
    target = {row["on"]: row["target"] for row in found["rows"]}
    rows = [[place, target[place], *(ap.get((model, place), "") for model in models)] for place in places]
    return markdown(["on", "target", *models], rows, words=2)


def arm_cost() -> str:
    """Millions of instructions of one picture on emulated cores."""
    found = load("arm_cost")["rows"]
    modes = list(dict.fromkeys(row["mode"] for row in sorted(found, key=lambda row: MODES.index(row["mode"]))))
    counts = {(row["core"], row["model"], row["mode"]): f"{row['millions']:.0f}" for row in found}
    networks = sorted({(row["core"], row["model"]) for row in found})
    rows = [[core, model, *(counts.get((core, model, mode), "") for mode in modes)] for core, model in networks]
    return markdown(["core", "network", *modes], rows, words=2)


def large_set() -> str:
    """What a set costs by the number of its pictures."""
    formats = {"coco": "COCO JSON", "yolo": "YOLO", "shards": "shards"}
    rows = []
    for row in load("large_set")["rows"]:
        rows.append(
            [
                formats[row["format"]],
                f"{row['pictures']:,}",
                f"{row['open_s']:.1f}",
                f"{row['peak_mib']:.0f}",
                f"{row['order_s']:.2f}",
                *(f"{row[way]['uss_mib'] - row[way]['uss_without_mib']:.1f}" for way in ("fork", "spawn")),
            ]
        )
    headings = ["format", "pictures", "open, s", "most memory, MiB", "order, s", "forked, MiB", "spawned, MiB"]
    return markdown(headings, rows, words=1)


def rknn_accuracy() -> str:
    """AP of both splits: float, ONNX Runtime's int8 and the NPU's simulator."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in load("rknn_accuracy")["rows"]:
        found.setdefault(row["model"], {}).setdefault(row["artefact"], {})[row["split"]] = row["ap"]
    rows = []
    for model, artefacts in found.items():
        reference = artefacts["onnxruntime int8"]
        for artefact, ap in artefacts.items():
            name = model if artefact == next(iter(artefacts)) else ""
            apart = [f"{ap[split] - reference[split]:+.2f}" for split in ("val", "test")]
            rows.append([name, artefact, f"{ap['val']:.2f}", f"{ap['test']:.2f}", *apart])
    return markdown(["model", "artefact", "AP val", "test", "less ONNX Runtime's int8: val", "test"], rows, words=2)


def handoffs() -> str:
    """What other programs find, beside our own runtime."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in load("handoffs")["rows"]:
        found.setdefault((row["model"], row["reader"], row["limits"]), {})[row["split"]] = row["ap"]
    models = [model for model, _, _ in found]
    rows = [
        ["" if model in models[:i] else model, reader, limits, f"{ap['val']:.2f}", f"{ap['test']:.2f}"]
        for i, ((model, reader, limits), ap) in enumerate(found.items())
    ]
    return markdown(["model", "who reads the network", "limits", "AP val", "test"], rows, words=3)


def input_bytes() -> str:
    """Preparing a picture as floats and as bytes."""
    rows = []
    for row in load("input_bytes")["rows"]:
        ms, size = row["median_ms"], row["bytes"]
        cells = [f"{ms['float32']:.2f}", f"{ms['uint8']:.2f}", f"{ms['uint8'] / ms['float32']:.2f}"]
        sizes = [f"{size[name] / 1e6:.2f}" for name in ("float32", "uint8")]
        rows.append([f"{row['side']} x {row['side']}", *cells, *sizes])
    headings = ["input", "floats, ms", "bytes, ms", "ratio", "floats, MB", "bytes, MB"]
    return markdown(headings, rows, words=1)


def doctor() -> str:
    """What the calibration doctor says of each set, by the model that looks at it; and what looking costs."""
    rows = load("doctor")["rows"]
    found = {(row["set"], row["model"]): row for row in rows}
    trained = list(dict.fromkeys(row["model"] for row in rows if row["set"] == "bccd"))
    cells = []
    for name in dict.fromkeys(row["set"] for row in rows):
        looked = [found.get((name, model)) for model in trained]
        if not any(looked):  # a good set with a model of its own
            looked = [row for row in rows if row["set"] == name]
        cells.append([name, *(_said(row) for row in looked), *[""] * (len(trained) - len(looked))])
    parts = [f"{100 * found['bccd', model]['part_of_calibration']:.0f} %" for model in trained]
    return markdown(["pictures", *trained], [*cells, ["looking, of calibrating's processor time", *parts]], words=3)


def _said(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    return ", ".join(f"{one['verdict']}: {one['fault']}, {one['value']:.3g}" for one in row["findings"]) or "nothing"


def fp8() -> str:
    """AP of a model in FP8 beside int8 and float32, from pictures and from whole frames."""
    rows = load("fp8")["rows"]
    ways = list(dict.fromkeys(row["way"] for row in rows))
    found = {(row["model"], row["split"], row["way"]): f"{row['ap']:.1f}" for row in rows}
    kinds = dict.fromkeys((row["model"], row["split"]) for row in rows)
    cells = [[model, split, *(found[model, split, way] for way in ways)] for model, split in kinds]
    return markdown(["model", "split", *ways], cells, words=2)


def rknn_zoo() -> str:
    """Every model compiled for an NPU, or what the toolkit says."""
    rows = []
    for row in load("rknn_zoo")["builds"]:
        if not row["builds"]:
            rows.append([row["model"], "no: " + row["error"].splitlines()[0], "", "", "", "", ""])
            continue
        layers = row["layers"]
        sizes = [f"{row[key] / 1e6:.1f}" for key in ("onnx_bytes", "rknn_bytes")]
        rows.append([row["model"], "yes", str(layers["int8"]), str(layers["float"]), *sizes, f"{row['seconds']:.0f}"])
    return markdown(["model", "compiles", "int8 layers", "float", "graph, MB", ".rknn, MB", "s"], rows, words=2)


def arm_ap() -> str:
    """AP of bundles for those cores."""
    rows = [
        [row["core"], row["model"], row["mode"], f"{row['val']:.2f}", f"{row['test']:.2f}"]
        for row in load("arm_cost")["ap"]
    ]
    return markdown(["core", "network", "bundle", "AP on val", "AP on test"], rows, words=3)


def board_rows() -> str:
    """What was measured on boards and computers, by whoever sent it."""
    rows = []
    for found in map(load_row, list_rows()):
        record = found.record
        network, total = record.spread["network"], record.spread["total"]
        low, high = record.interval_ms["total"]
        board = f"{found.board} ({found.conditions})" if found.conditions else found.board
        size = " x ".join(map(str, record.image_hw))
        slowed = f"; slowed down by {', '.join(record.throttled)}" if record.throttled else ""
        threads = f", {record.threads_used} thread{'s' * (record.threads_used > 1)}" if record.threads_used else ""
        figures = [f"{network.median_ms:.1f}", f"{total.median_ms:.1f} ({low:.1f} to {high:.1f})"]
        figures += [f"{total.p90_ms:.1f}", f"{record.per_second:.0f}", _int8_share(record), _watts(record)]
        rows.append(
            [f"{board}{slowed}", f"{record.model}, {size}", f"{record.engine} {record.precision}{threads}", *figures]
        )
    names = ["board", "model", "engine", "network ms", "whole call ms (95 %)", "p90 ms", "per second", "int8 time", "W"]
    return markdown(names, sorted(rows), words=3)


def _int8_share(record: BenchRecord) -> str:
    """Of the time of all layers, those in int8."""
    shares = record.layers.time_shares if record.layers is not None else {}
    return f"{100 * shares.get('int8', 0.0):.0f} %" if shares else "-"


def _watts(record: BenchRecord) -> str:
    """Of the line that takes most, which others are parts of."""
    return f"{max(rail.mean_w for rail in record.power):.1f}" if record.power else "-"


def latency() -> str:
    """How far estimates of networks are off that others measured, each left out."""
    found = load("estimate")
    rows = []
    for row in sorted(found["left_out"], key=lambda row: (row["method"] != "timed here", row["board"] == "all")):
        if row["threads"] != "1" or row["board"] == "all":
            rows.append([row["board"], row["threads"], row["method"], *_off(row)])
    rows += [["all", "all", "timed on another x86 computer", *_off(row)] for row in found["elsewhere"]]
    rows += [[f"{row['board']}, older ncnn", row["threads"], row["method"], *_off(row)] for row in found["older"]]
    rows += [[row["board"], "", row["method"], *_off(row)] for row in found["points"] if row["board"] != "all"]
    headings = ["board", "threads", "way", "times", "median error", "nine of ten", "in the range", "range, times"]
    return markdown(headings, rows, words=3)


def _off(row: dict[str, Any]) -> list[str]:
    shares = [f"{100 * row[key]:.0f} %" for key in ("median", "p90", "covered")]
    return [str(row["cells"]), *shares, f"{row['factor']:.2f}"]


def latency_detectors() -> str:
    """What others published of detectors beside what was estimated."""
    rows = []
    for row in load("estimate")["detectors"]:
        is_inside = row["low_ms"] <= row["stock_ms"] <= row["high_ms"]
        numbers = [f"{row[key]:.0f}" for key in ("published_ms", "stock_ms")]
        span = f"{row['low_ms']:.0f} to {row['high_ms']:.0f}"
        rows.append([row["board"], f"{row['model']}, {row['side']}", *numbers, span, "yes" if is_inside else "no"])
    headings = ["board", "network, pixels", "published ms", "at stock clock", "estimated", "in the range"]
    return markdown(headings, sorted(rows), words=2)


def compare_bundles() -> str:
    """How often a comparison was right, of the network and of the whole call."""
    rows = []
    for case in load("compare_bundles")["cases"]:
        second = f"{100 * case['planted']:.0f} % slower" if case["planted"] else "the same"
        network, total = case["network"], case["total"]
        right = [f"{part['right']} of {case['comparisons']}" for part in (network, total)]
        figures = [f"{network['ratio']:.3f}", f"{network['width']:.3f}", f"{case['seconds']:.1f}"]
        rows.append([second, "one core of two busy" if case["busy"] else "idle", *right, *figures])
    headings = ["the second", "machine", "right, network", "right, call", "ratio", "width of its interval", "seconds"]
    return markdown(headings, rows, words=2)


def serve() -> str:
    """Frames per second of the detector without clients and with many."""
    rows = []
    for row in load("serve")["rows"]:
        rates = [f"{row[f'fps_{when}']:.1f}" for when in ("alone", "crowded")]
        cores = [f"{row[f'cores_{when}']:.2f}" for when in ("alone", "crowded")]
        low, high = row["ratio_95"]
        rows.append([row["mode"], str(row["sources"]), *rates, f"{row['ratio']:.3f} ({low:.2f} to {high:.2f})", *cores])
    headings = [
        "frames come",
        "sources",
        "per second alone",
        "with 50 clients",
        "ratio (95 %)",
        "cores busy alone",
        "with 50",
    ]
    return markdown(headings, rows, words=1)


def keypoints() -> str:
    """OKS AP of each artefact of a network that finds joints, and what is lost of the float network's."""
    found = load("keypoints")["rows"]
    whole = found["float torch"]["ap"]
    rows = [[name, f"{row['ap']:.2f}", f"{row['ap'] - whole:+.2f}"] for name, row in found.items()]
    return markdown(["artefact", "OKS AP", "of the float network's"], rows, words=1)


def tracking() -> str:
    """Milliseconds of a tracker for a frame."""
    rows = [
        [
            row["method"],
            str(row["objects"]),
            f"{row['median_ms']:.1f}",
            f"{row['p90_ms']:.1f}",
            f"{row['plain_ms']:.1f}",
            f"{row['plain_ms'] / row['median_ms']:.1f}",
        ]
        for row in load("tracking")["rows"]
    ]
    rows.append(["movement of the camera, 1280 x 720", "", f"{load('tracking')['camera_ms']:.1f}", "", "", ""])
    headings = ["method", "objects", "ms, median", "p90", "one track after the other", "ratio"]
    return markdown(headings, rows, words=1)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: int) -> str:
    """A Markdown table whose first `words` columns are text and whose others are numbers."""
    ruler = "|".join("---" if i < words else "---:" for i in range(len(headings)))
    lines = [f"| {' | '.join(cells)} |".replace("  ", " ") for cells in (headings, *rows)]
    return "\n".join([lines[0], f"|{ruler}|", *lines[1:], ""])


def load(name: str) -> dict[str, Any]:
    """One file of results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


TABLES: dict[str, Callable[[], str]] = {
    "rknn-accuracy": rknn_accuracy,
    "rknn-zoo": rknn_zoo,
    "handoffs": handoffs,
    "input-bytes": input_bytes,
    "doctor": doctor,
    "fp8": fp8,
    "deployed": deployed,
    "figures": figures,
    "foreign": foreign,
    "recipes": recipes,
    "calibration": calibration,
    "clipping": clipping,
    "engines-apart": engines_apart,
    "ablation": ablation,
    "host-cpu": host_cpu,
    "non-square": non_square,
    "arm": arm,
    "arm-cost": arm_cost,
    "arm-ap": arm_ap,
    "large-set": large_set,
    "board-rows": board_rows,
    "latency": latency,
    "latency-detectors": latency_detectors,
    "engines": engines,
    "thresholds": thresholds,
    "tracking": tracking,
    "keypoints": keypoints,
    "compare-bundles": compare_bundles,
    "serve": serve,
    "models-learn": lambda: markdown(*model_tables.little(), words=2),
    "models-cost": lambda: markdown(*model_tables.costs(), words=1),
    "models-int8": lambda: markdown(*model_tables.int8(), words=2),
    "models-int8-in-words": model_tables.int8_in_words,
    "models-train": lambda: markdown(*model_tables.training(), words=1),
    "models-rare": lambda: markdown(*model_tables.balances(), words=3),
    "models-repopt": lambda: markdown(*model_tables.repopt(), words=1),
    "models-strides": lambda: markdown(*model_tables.strides(), words=2),
    "history-generations": lambda: markdown(*history_tables.generations(), words=1),
    "history-swaps": lambda: markdown(*history_tables.swaps(), words=3),
    "history-weights": lambda: markdown(*history_tables.weights(), words=0),
    "history-rules": lambda: markdown(*history_tables.rules(), words=2),
    "history-fields": lambda: markdown(*history_tables.fields(), words=4),
    "history-missing": history_tables.missing,
    "history-sweep": history_tables.sweep,
}

if __name__ == "__main__":
    main()
