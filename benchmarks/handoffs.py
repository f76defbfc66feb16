"""AP of what `deploy` writes for Frigate and DeepStream, read as those programs read it, beside our own runtime's.

    python benchmarks/handoffs.py runs/tiny-int8 runs/ppyoloe-s-int8 --data BCCD [--splits val test]

Each folder is one that `edgeyolo quantize` wrote. What the programs do before and after the network is written again
from their documentation in tests/cases; neither program was at hand. ONNX Runtime runs the networks of all rows.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from record import RESULTS, ROOT, save_result

from edgeyolo import verbs
from edgeyolo.bundle import open_bundle
from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.evaluation.coco_map import evaluate
from edgeyolo.evaluation.tasks.detection import make_detector
from edgeyolo.geometry.boxes import clip_boxes
from edgeyolo.runtime import Detections, Detector
from edgeyolo.runtime.processor import open_session
from edgeyolo.spec.detections import Image
from edgeyolo.spec.model import ModelRecord, Score
from edgeyolo.spec.strict import load_json

sys.path.insert(0, str(ROOT / "tests/cases"))
from deepstream_reads import DeepStreamReads
from frigate_reads import FrigateReads

AS_USUAL = "as mAP is measured"
AS_MAP = {"pre-cluster-threshold": 0.001, "nms-iou-threshold": 0.65}


def main() -> None:
    """Deploy and score."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", nargs="*", default=["val", "test"])
    parser.add_argument("--out", type=Path, default=RESULTS / "handoffs.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in args.folders:
        name = load_json(folder / "model.json", ModelRecord).model.name
        for split in args.splits:
            for reader, limits, score in measure(folder, open_dataset(args.data, split)):
                key = {"model": name, "reader": reader, "limits": limits}
                rows.append(key | msgspec.to_builtins(score))
                save_result(args.out, {"rows": rows})
                sys.stderr.write(f"{name} {split} {reader}, {limits}: {score.ap:.2f}\n")


def measure(folder: Path, dataset: Dataset) -> Iterator[tuple[str, str, Score]]:
    """Who reads the network, with which limits, and what it scores."""
    with tempfile.TemporaryDirectory(prefix="edgeyolo-") as work:
        ours, frigate, deepstream = (Path(work) / name for name in ("ours.eyb", "frigate", "deepstream"))
        for target, out in (("host-onnx", ours), ("frigate", frigate), ("deepstream", deepstream)):
            verbs.deploy(folder, target, out, precision="int8")
        with Detector.load(ours, score_threshold=0.001, iou_threshold=0.65, multi_label=True) as detector:
            yield "edgeyolo", AS_USUAL, evaluate(detector.detect, dataset, artefact="host-onnx")
            on_piece = functools.partial(detect_in_square, detector)
            yield "edgeyolo, in Frigate's square", AS_USUAL, evaluate(on_piece, dataset, artefact="host-onnx")
        free = FrigateReads(frigate, has_limits=False)
        yield "Frigate", AS_USUAL, evaluate(free.detect, dataset, artefact="frigate")
        held = FrigateReads(frigate)
        yield "Frigate", "fixed there: 0.4, 0.4, 20 boxes", evaluate(held.detect, dataset, artefact="frigate")
        with open_bundle(ours) as bundle:
            spec = bundle.manifest.model
            black = msgspec.structs.replace(spec, input=msgspec.structs.replace(spec.input, letterbox_value=0))
            with make_detector(open_session(bundle.folder, bundle.manifest), black, dataset) as detector:
                yield "edgeyolo, padded with black", AS_USUAL, evaluate(detector.detect, dataset, artefact="host-onnx")
        free_reads = DeepStreamReads(deepstream, AS_MAP)
        yield "DeepStream", AS_USUAL, evaluate(free_reads.detect, dataset, artefact="deepstream")
        as_written = DeepStreamReads(deepstream)
        yield "DeepStream", "as written: 0.25, 0.45", evaluate(as_written.detect, dataset, artefact="deepstream")


def detect_in_square(detector: Detector, image: Image) -> Detections:
    """Objects of a picture that stands in the upper left corner of a black square."""
    side = max(image.shape[:2])
    square = np.zeros((side, side, 3), np.uint8)
    square[: image.shape[0], : image.shape[1]] = image
    found = detector.detect(square)
    boxes_xyxy = clip_boxes(found.boxes_xyxy, (image.shape[0], image.shape[1]))
    return Detections(boxes_xyxy, found.scores, found.class_ids)


if __name__ == "__main__":
    main()
