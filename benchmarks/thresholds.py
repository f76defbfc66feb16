"""Precision and recall at a user's threshold: the float model, int8 at the same number, and int8 at what stands for it.

    python benchmarks/thresholds.py --data ../shared/data/bccd --case yolov7-tiny runs/tiny/int8
        --case ppyoloe-s runs/ppyoloe/int8 --planted ppyoloe-s runs/ppyoloe/int8 head_.*class_attention 0.3

Thresholds are found on val and measured on test, pictures that had no part in them. A planted case is a folder whose
scales of the inputs of some layers are made so much smaller that their values clip: scores move, and AP hardly does.
Two other ways to find thresholds stand beside ours: where precision on val is nearest to the float model's, and where
int8 has as many detections. Writes benchmarks/results/thresholds.json.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from record import RESULTS, load_reusable, save_result

from edgeyolo.data.dataset import open_dataset
from edgeyolo.evaluation.coco_map import score_detections
from edgeyolo.evaluation.judged import Judged, judge_detections
from edgeyolo.evaluation.measure import detect_twice
from edgeyolo.evaluation.transfer import find_transfer
from edgeyolo.spec.qparams import load_qparams
from edgeyolo.spec.strict import encode_json
from edgeyolo.spec.target import Precision
from edgeyolo.verbs._artefacts import open_built

RESULT = RESULTS / "thresholds.json"
THRESHOLDS = (0.25, 0.5)
ENGINES = {"host-onnx": "ONNX Runtime", "host-ncnn": "NCNN"}

Measured: TypeAlias = dict[str, tuple[float, list[Judged]]]  # split -> AP, and detections of each class
Finder: TypeAlias = Callable[[Judged, Judged, float], float]


def main() -> None:
    """Measure every case that this code has not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--case", nargs=2, action="append", default=[], metavar=("NAME", "FOLDER"))
    parser.add_argument("--planted", nargs=4, action="append", default=[], metavar=("NAME", "FOLDER", "LAYERS", "PART"))
    args = parser.parse_args()
    report: dict[str, Any] = load_reusable(RESULT, thresholds=THRESHOLDS) or {"thresholds": THRESHOLDS, "rows": []}
    for name, folder, *plant in [*args.case, *args.planted]:
        with planted(Path(folder), *plant) as source:
            reference = measure(source, "host-onnx", "fp32", args.data)
            for target, engine in list(ENGINES.items())[: 1 if plant else None]:
                case = {
                    "model": name,
                    "artefact": f"{engine}, clipped to {plant[1]} of its ranges" if plant else engine,
                }
                if not any(case.items() <= row.items() for row in report["rows"]):
                    other = measure(source, target, "int8", args.data)
                    report["rows"] += [case | row for row in compare(reference, other)]
                    save_result(RESULT, {key: value for key, value in report.items() if key != "record"})


@contextlib.contextmanager
def planted(folder: Path, layers: str = "", part: str = "1") -> Iterator[Path]:
    """The folder, or a copy in which the inputs of layers have a smaller scale."""
    if not layers:
        yield folder
        return
    with tempfile.TemporaryDirectory() as work:
        copy = Path(shutil.copytree(folder, Path(work) / "int8"))
        qparams = load_qparams(copy / "qparams.json")
        chosen = {layer.group for path, layer in qparams.layers.items() if layer.group and re.match(layers, path)}
        groups = {
            name: msgspec.structs.replace(group, scale=float(np.float32(group.scale * float(part))))
            if name in chosen
            else group
            for name, group in qparams.groups.items()
        }
        (copy / "qparams.json").write_bytes(encode_json(msgspec.structs.replace(qparams, groups=groups)))
        yield copy


def measure(folder: Path, target: str, precision: Precision, data: Path) -> Measured:
    """An artefact on val and on test."""
    sys.stderr.write(f"{folder.name} {target} {precision}\n")
    found: Measured = {}
    with open_built(folder, target, precision) as built:
        for split in ("val", "test"):
            dataset = open_dataset(data, split)
            everything, everyday = detect_twice(built.session, built.spec, dataset)
            score = score_detections(everything, dataset, artefact=built.name)
            found[split] = (score.ap, judge_detections(everyday, dataset))
    return found


def compare(reference: Measured, other: Measured) -> Iterator[dict[str, Any]]:
    """One row for each threshold: on test, all classes together, percent."""
    names = [str(k) for k in range(len(reference["val"][1]))]
    for wanted in THRESHOLDS:
        transfer = find_transfer(
            reference["val"][1],
            other["val"][1],
            names,
            match="precision",
            score_threshold=wanted,
            measured=("int8", "bccd", "val"),
        )
        pairs = list(zip(reference["val"][1], other["val"][1], strict=True))
        ways = {
            "untransferred": [wanted] * len(names),
            "transferred": [transfer.maps[name].of(wanted) for name in names],
            "nearest precision": [nearest_precision(ours, theirs, wanted) for ours, theirs in pairs],
            "same count": [same_count(ours, theirs, wanted) for ours, theirs in pairs],
        }
        found = {way: at_thresholds(other["test"][1], thresholds) for way, thresholds in ways.items()}
        yield {
            "threshold": wanted,
            "ap": {"float": reference["test"][0], "int8": other["test"][0]},
            "float": at_thresholds(reference["test"][1], [wanted] * len(names)),
            "thresholds": ways["transferred"],
            **found,
        }


def at_thresholds(judged: Sequence[Judged], thresholds: Sequence[float]) -> dict[str, float]:
    """Precision and recall of all classes together, percent."""
    counts = [int(np.count_nonzero(one.scores >= t)) for one, t in zip(judged, thresholds, strict=True)]
    right = sum(int(one.right[:count].sum()) for one, count in zip(judged, counts, strict=True))
    objects = sum(one.objects for one in judged)
    return {"precision": 100 * right / max(sum(counts), 1), "recall": 100 * right / objects, "detections": sum(counts)}


def nearest_precision(reference: Judged, other: Judged, wanted: float) -> float:
    """Of all thresholds on val, the one with the precision nearest to the float model's; the nearest of equal ones."""
    count = np.count_nonzero(reference.scores >= wanted)
    aim = reference.right[:count].mean()
    reached = np.cumsum(other.right) / np.arange(1, len(other.scores) + 1)
    off = np.abs(reached - aim)
    best = np.flatnonzero(off <= off.min() + 1e-9)
    return float(other.scores[best[np.abs(other.scores[best] - wanted).argmin()]])


def same_count(reference: Judged, other: Judged, wanted: float) -> float:
    """The threshold on val with as many detections as the float model has."""
    count = np.count_nonzero(reference.scores >= wanted)
    return float(other.scores[max(count - 1, 0) : count + 1].mean())


if __name__ == "__main__":
    main()
