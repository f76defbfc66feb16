"""The tables of docs/models.md, made by `make tables`: what small models learn, cost, and lose as int8."""

from __future__ import annotations

import json
import statistics
from typing import Any

from record import RESULTS, ROOT

LEARNED_BY_ALL = ("bccd", "white-cells")
ENGINES = {"onnxruntime": "ONNX Runtime", "ncnn": "NCNN", "openvino": "OpenVINO"}
STAND_INS = {"tensorrt": "TensorRT's graph", "rknn": "RKNN, simulated", "cortex-a76": "A76, emulated"}
ALL_ENGINES = ENGINES | STAND_INS
ORDER = ("int8-mse", "int8-depthwise-all", "int8-depthwise", "int8-qat", "int8-depthwise-qat")
OURS, PLAIN = ("ours, fp32", "ours, bf16"), "plain loop, fp32"

Table = tuple[list[str], list[list[str]]]


def little() -> Table:
    """What small models learn from few pictures: means over seeds, and the lowest and highest AP on test."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in _load("little")["runs"]:
        if run["balance"] == "ours" and run["dataset"] in LEARNED_BY_ALL:
            groups.setdefault((run["dataset"], run["model"]), []).append(run)
    rows = []
    for (name, model), runs in sorted(groups.items(), key=lambda group: (group[0][0], -_on_test(group[1]))):
        scores = [[run[key][split] for run in runs] for key in ("ap", "ap50") for split in ("val", "test")]
        ends = [f"{end(run['ap']['test'] for run in runs):.1f}" for end in (min, max)]
        first = [name, model, f"{runs[0]['parameters'] / 1e6:.1f}", str(len(runs))]
        means = [f"{statistics.fmean(column):.1f}" for column in scores]
        seconds = statistics.fmean(run["seconds"] for run in runs)
        rows.append([*first, *means, " to ".join(ends), f"{seconds:.0f}"])
    headings = ["set", "model", "million parameters", "seeds", "AP on val", "on test", "AP50 on val", "on test"]
    return [*headings, "AP of seeds on test", "s"], rows


def balances() -> Table:
    """What some models learn where objects are rare, with the authors' loss and with ours: each seed, and the mean."""
    runs = [run for run in _load("little")["runs"] if run["dataset"] != "bccd"]
    compared = {(run["dataset"], run["model"]) for run in runs if run["balance"] == "published"}
    rows = []
    for name, model in sorted(compared, reverse=True):
        for balance in ("published", "ours"):
            own = [run for run in runs if (run["dataset"], run["model"], run["balance"]) == (name, model, balance)]
            row = [name, model, balance]
            for split in ("val", "test"):
                aps = [run["ap"][split] for run in sorted(own, key=lambda run: int(run["seed"]))]
                row += [" / ".join(f"{ap:.1f}" for ap in aps), f"{statistics.fmean(aps):.1f}"]
            rows.append(row)
    return ["set", "model", "loss", "AP of each seed on val", "mean", "of each seed on test", "mean"], rows


def repopt() -> Table:
    """AP on test of a RepVGG network trained with branches and as plain convolutions, float and by int8 engine."""
    rows = []
    for run in sorted(_load("repopt")["runs"], key=lambda run: (run["form"], run["seed"])):
        aps = [run["scores"][name]["ap"] for name in ("float torch", "onnxruntime int8", "ncnn int8", "openvino int8")]
        lost = aps[0] - statistics.fmean(aps[1:])
        rows.append([run["form"], str(run["seed"]), *(f"{ap:.1f}" for ap in (*aps, lost)), f"{run['kernel_peak']:.1f}"])
    return ["trained as", "seed", "float", *ENGINES.values(), "mean loss", "peak of a kernel"], rows


def costs() -> Table:
    """What each small model costs by kind of board, and the AP that its authors publish."""
    published = json.loads((ROOT / "benchmarks/published_ap.json").read_text(encoding="utf-8"))["models"]
    found = _load("small_models")
    rows = []
    for row in sorted(found["rows"], key=lambda row: row["millions"][found["cores"][0]]["mixed"]):
        theirs = published.get(row["model"])
        counts = [f"{count:.0f}" for core in found["cores"] for count in row["millions"][core].values()]
        sizes = [f"{row['parameters'] / 1e6:.1f}", f"{row['gflops']:.1f}", f"{row['ncnn_bytes'] / 1e6:.1f}"]
        times = [f"{row['ms'][engine]:.1f}" for engine in ("OpenVINO", "ncnn")]
        rows.append([row["model"], *sizes, *times, *counts, f"{theirs['ap']} at {theirs['size']}" if theirs else ""])
    cores = [f"{core.removeprefix('cortex-').upper()} {way}" for core in found["cores"] for way in ("mixed", "float")]
    headings = ["model", "million parameters", "GFLOPs", "int8, MB", "OpenVINO, ms", "ncnn, ms"]
    return [*headings, *cores, "their COCO AP"], rows


def int8() -> Table:
    """What each recipe costs on every engine, the largest loss of an engine, and how far apart artefacts are."""
    rows = []
    for model, found in _quantized().items():
        whole = found["float"]["ap"]
        for i, (recipe, row) in enumerate(found["recipes"].items()):
            first = [model, recipe, f"{whole:.2f}"] if i == 0 else ["", recipe, ""]
            cells = [f"{row[name]['ap']:.2f}" if name in row else "" for name in ("fake-quant", *ALL_ENGINES)]
            rows.append([*first, *cells, f"{max(_losses(found, recipe)):.2f}", f"{_apart(row):.2f}"])
    return ["model", "recipe", "float", "fake-quant", *ALL_ENGINES.values(), "largest loss", "apart"], rows


def int8_in_words() -> str:
    """The mean loss over engines and models, and how far apart artefacts are, by recipe."""
    models = _quantized().values()
    parts = []
    for recipe in ("int8-mse", "int8-qat"):
        losses = [statistics.fmean(_losses(model, recipe)) for model in models]
        apart = [_apart(model["recipes"][recipe]) for model in models]
        parts.append(
            f"`{recipe}` {_mean_and_ends(losses)}, artefacts of a model being apart by {_mean_and_ends(apart)}"
        )
    return f"Mean loss of AP over the engines, and over these models: {'; '.join(parts)}.\n"


def _quantized() -> dict[str, dict[str, Any]]:
    """By model, with what was measured apart of the same checkpoint by the recipe that there is now."""
    models, apart = (_load(name)["models"] for name in ("quantization_small", "quantization_depthwise"))
    for name, found in apart.items():
        if found["checkpoint_sha256"] == models[name]["checkpoint_sha256"]:
            rows = models[name]["recipes"] | found["recipes"]
            models[name]["recipes"] = {recipe: rows[recipe] for recipe in sorted(rows, key=ORDER.index)}
    return dict(models)


def _losses(model: dict[str, Any], recipe: str) -> list[float]:
    row = model["recipes"][recipe]
    return [model["float"]["ap"] - row[name]["ap"] for name in ALL_ENGINES if name in row]


def _apart(row: dict[str, Any]) -> float:
    aps = [row[name]["ap"] for name in ("fake-quant", *ALL_ENGINES) if name in row]
    return float(max(aps) - min(aps))


def _mean_and_ends(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def training() -> Table:
    """Milliseconds of a training step beside a plain loop's, and speed as a part of its own."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _load("train_small")["rows"]:
        found.setdefault(row["model"], {})[row["what"]] = row
    rows = [
        [
            model,
            *(f"{by_way[way]['step_ms']:.0f}" for way in (PLAIN, *OURS)),
            *(f"{1 / by_way[way]['of_plain']:.2f}" for way in OURS),
        ]
        for model, by_way in found.items()
    ]
    return ["model", "plain, ms", "float32, ms", "bfloat16, ms", "speed, float32", "bfloat16"], rows


def strides() -> Table:
    """Which stride finds the one object of a picture, beside what the run is worth."""
    found = _load("answering")
    rows = []
    for row in found["rows"]:
        shares = [f"{100 * share:.0f} %" for share in row["strides"]]
        aps = [f"{row['ap'][split]:.1f}" for split in ("val", "test")]
        rows.append([row["model"], row["balance"], str(row["seed"]), *shares, *aps])
    return ["model", "loss", "seed", *(f"stride {stride}" for stride in found["strides"]), "AP on val", "on test"], rows


def _on_test(runs: list[dict[str, Any]]) -> float:
    return statistics.fmean(run["ap"]["test"] for run in runs)


def _load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found
