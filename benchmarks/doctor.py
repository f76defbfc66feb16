"""What the calibration doctor says of good sets, and of eight faults planted in one; and what it costs.

    python benchmarks/doctor.py --data ../shared/data/bccd --runs runs/tiny/run runs/ppyoloe/run
        --good drawn demo/data demo/train --good white-cells runs/little/white-cells runs/little/runs/white-cells

Faults are planted in BCCD's training pictures, and looked at with each of the models that were trained on it. Seconds
are of processors: those of looking, for each second of calibrating on the same pictures. Writes
benchmarks/results/doctor.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import msgspec
import numpy as np
from record import RESULTS, save_result

from edgeyolo.data.dataset import list_splits, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.quantization import calibration_pictures, quantize
from edgeyolo.quantization.doctor import examine
from edgeyolo.spec.recipe import load_recipe
from edgeyolo.training.checkpoint import Checkpoint, load_checkpoint

RESULT = RESULTS / "doctor.json"
RECIPE = load_recipe("int8-mse")

Image: TypeAlias = np.ndarray
Change: TypeAlias = Callable[[Image], Image]

CHANGES: dict[str, Change] = {
    "BGR for RGB": lambda image: image[..., ::-1],
    "all dark": lambda image: (image * 0.06).astype(np.uint8),
    "a dead channel": lambda image: image * np.array([0, 1, 1], np.uint8),
}


def main() -> None:
    """Look at everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BCCD, as a VOC folder")
    parser.add_argument("--runs", nargs="+", type=Path, required=True, help="models that were trained on it")
    parser.add_argument("--good", nargs=3, action="append", default=[], metavar=("NAME", "DATA", "RUN"))
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        sets = plant_all(args.data, Path(work))
        for run in args.runs:
            source = load_checkpoint(run)
            rows.append(look(source, "bccd", args.data, is_timed=True))
            rows += [look(source, name, data) for name, data in sets.items()]
            rows.append(look(source, "ten pictures", args.data, count=10))
            rows.append(look(source, "0-255 for 0-1", args.data, range_factor=255.0))
        rows += [look(load_checkpoint(Path(run)), name, Path(data)) for name, data, run in args.good]
    save_result(RESULT, {"rows": rows})


def plant_all(data: Path, work: Path) -> dict[str, Path]:
    """A copy of the set for each fault that is one of its pictures."""
    sets = {name: copy_set(data, work / str(i)) for i, name in enumerate(CHANGES)}
    for name, folder in sets.items():
        for path in training_pictures(folder):
            cv2.imwrite(str(path), CHANGES[name](cv2.imread(str(path))))
    sets["another domain"] = copy_set(data, work / "domain")
    pictures = training_pictures(sets["another domain"])
    draw_dataset(work / "drawn", {"train": len(pictures)}, image_hw=(480, 640), kind="easy")
    for path, other in zip(pictures, sorted((work / "drawn/images/train").iterdir()), strict=True):
        cv2.imwrite(str(path), cv2.imread(str(other)))
    sets["val as calibration"] = copy_set(data, work / "val")
    names = sets["val as calibration"] / "ImageSets" / "Main"
    shutil.copy(names / "val.txt", names / "train.txt")
    sets["duplicates"] = copy_set(data, work / "copies")
    pictures = training_pictures(sets["duplicates"])
    for i, path in enumerate(pictures):
        cv2.imwrite(str(path), cv2.imread(str(pictures[i % 20])), [cv2.IMWRITE_JPEG_QUALITY, 70 + i // 20])
    return sets


def copy_set(data: Path, folder: Path) -> Path:
    """A copy that may be written to."""
    shutil.copytree(data, folder, copy_function=shutil.copyfile)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def training_pictures(folder: Path) -> list[Path]:
    """In the order of the split's list."""
    names = (folder / "ImageSets" / "Main" / "train.txt").read_text().split()
    return [folder / "JPEGImages" / f"{name}.jpg" for name in names]


def look(
    source: Checkpoint, name: str, data: Path, *, count: int = 256, range_factor: float = 1.0, is_timed: bool = False
) -> dict[str, Any]:
    """Findings of one set, and with `is_timed` the part of calibration's processor time that they take."""
    spec = source.record.model.input
    spec = msgspec.structs.replace(spec, std=tuple(value / range_factor for value in spec.std))
    held_out = [open_dataset(data, split) for split in ("val", "test") if split in list_splits(data)]
    pictures, hashes = calibration_pictures(open_dataset(data, "train"), spec, count=count)
    examine(source.model, pictures, spec, held_out)  # files and kernels are warm
    started = processor_seconds()
    examined = examine(source.model, pictures, spec, held_out)
    looked = processor_seconds() - started
    row = {
        "model": source.record.model.name,
        "set": name,
        "pictures": len(pictures),
        "findings": [msgspec.to_builtins(found) for found in examined.findings],
    }
    if is_timed:
        started = processor_seconds()
        quantize(source.model, pictures, RECIPE, recipe_name="int8-mse", picture_hashes=hashes)
        row["part_of_calibration"] = looked / (processor_seconds() - started)
    sys.stderr.write(f"{row}\n")
    return row


def processor_seconds() -> float:
    """Of this process so far."""
    return sum(os.times()[:2])


if __name__ == "__main__":
    main()
