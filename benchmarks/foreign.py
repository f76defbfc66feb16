"""AP of detectors that others exported as ONNX, float and int8, beside the same weights on our own way.

    python benchmarks/foreign.py --yolov7 runs/tiny --ppyoloe runs/ppyoloe-s --data BCCD [--file detector.onnx ...]

The graphs are of the authors' layers, written again in tests/cases, with weights that were trained here, and end in the
decode that their repositories add: YOLOv7-tiny at opset 12, PP-YOLOE-s with YOLOv8's tail at opset 17. Other files, for
which there are no labels, are asked how many of the float graph's detections on the same pictures int8 finds again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from record import RESULTS, ROOT, save_result

from edgeyolo import verbs
from edgeyolo.data.dataset import open_dataset
from edgeyolo.geometry.boxes import box_iou
from edgeyolo.runtime import Detector
from edgeyolo.spec.importing import ImportOptions
from edgeyolo.spec.provenance import sha256_of
from edgeyolo.training.checkpoint import load_checkpoint

sys.path.insert(0, str(ROOT / "tests/cases"))
from exported_by_authors import export_ppyoloe, export_yolov7

RECIPE = "int8-mse"
TARGETS = ("host-onnx", "host-ncnn")
SCORE, OVERLAP = 0.1, 0.5  # of detections that are to be found again
IMAGENET = "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"


def main() -> None:
    """Import, quantize, deploy and score."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--yolov7", type=Path, required=True)
    parser.add_argument("--ppyoloe", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--file", type=Path, nargs="*", default=[])
    parser.add_argument("--splits", nargs="*", default=["val", "test"])
    parser.add_argument("--out", type=Path, default=RESULTS / "foreign.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    for checkpoint, export, told in ((args.yolov7, export_yolov7, ""), (args.ppyoloe, export_ppyoloe, IMAGENET)):
        for row in measure(checkpoint, export, told, args.data, args.splits):
            rows.append(row)
            save_result(args.out, {"recipe": RECIPE, "rows": rows, "found_again": again})
            sys.stderr.write(f"{row['model']} {row['read']} {row['artefact']} {row['split']}: {row['ap']:.2f}\n")
    for file in args.file:
        again += find_again(file, args.data, args.splits)
        save_result(args.out, {"recipe": RECIPE, "rows": rows, "found_again": again})


def measure(
    checkpoint: Path, export: Callable[..., Path], told: str, data: Path, splits: list[str]
) -> Iterator[dict[str, Any]]:
    """Scores of our own export, of the raw maps of the foreign graph, and of its boxes."""
    loaded = load_checkpoint(checkpoint)
    spec = loaded.record.model
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        folder = Path(work)
        names, describe = folder / "names.txt", folder / "detector.toml"
        names.write_text("\n".join(spec.class_names))
        describe.write_text(f"[input]\n{told}")
        file = export(loaded, folder / f"{spec.name}.onnx")
        for read, head in (("raw maps", None), ("boxes", "boxes")):
            options = ImportOptions(names=names, describe=describe, head=head)  # type: ignore[arg-type]
            verbs.import_graph(file, folder / read, options)
        sources = {"our own export": checkpoint, "raw maps": folder / "raw maps", "boxes": folder / "boxes"}
        for read, source in sources.items():
            quantized = folder / f"{read} int8"
            options_ = verbs.QuantizeOptions(evaluate=False, report=False)
            verbs.quantize(source, data, quantized, recipe=RECIPE, options=options_)
            for target, precision in (("host-onnx", "fp32"), *((target, "int8") for target in TARGETS)):
                bundle = verbs.deploy(quantized, target, folder / "bundle.eyb", precision=precision).bundle
                for split in splits:
                    score = verbs.evaluate(bundle, data, split=split)
                    yield {"model": spec.name, "read": read} | msgspec.to_builtins(score)


def find_again(file: Path, data: Path, splits: list[str]) -> list[dict[str, Any]]:
    """How many of the float graph's detections each int8 artefact has, with the same class."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        folder = Path(work)
        (folder / "names.txt").write_text("object")
        model = verbs.import_graph(file, folder / "run", ImportOptions(names=folder / "names.txt")).model
        options = verbs.QuantizeOptions(evaluate=False, report=False)
        verbs.quantize(folder / "run", data, folder / "int8", recipe=RECIPE, options=options)
        whole = verbs.deploy(folder / "run", "host-onnx", folder / "float.eyb", precision="fp32").bundle
        for target in TARGETS:
            bundle = verbs.deploy(folder / "int8", target, folder / f"{target}.eyb", precision="int8").bundle
            wanted = found = 0
            with (
                Detector.load(whole, score_threshold=SCORE) as exact,
                Detector.load(bundle, score_threshold=SCORE / 2) as ours,
            ):
                for split in splits:
                    dataset = open_dataset(data, split)
                    for index in range(len(dataset)):
                        image = dataset[index].image
                        theirs, mine = exact.detect(image), ours.detect(image)
                        overlaps = box_iou(theirs.boxes_xyxy, mine.boxes_xyxy)
                        same = theirs.class_ids[:, None] == mine.class_ids[None]
                        wanted += len(theirs.scores)
                        found += int(((overlaps >= OVERLAP) & same).any(axis=1).sum())
            rows.append(
                {
                    "file": file.name,
                    "sha256": sha256_of(file),
                    "head": str(type(model.decode).__struct_config__.tag),
                    "target": target,
                    "detections": wanted,
                    "found_again": found,
                }
            )
            sys.stderr.write(f"{file.name} {target}: {found} of {wanted}\n")
    return rows


if __name__ == "__main__":
    main()
