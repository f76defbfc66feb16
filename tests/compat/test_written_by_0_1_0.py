"""What 0.1.0 wrote still opens and gives the same boxes: a checkpoint, a quantized folder and two bundles.

`written_by_0.1.0.tar.xz` holds one of each, of a yolov7-nano at 128 pixels most of whose weights are zero, a picture,
and the boxes that 0.1.0 found in it with each of them. Engines of another version or processor may round elsewhere, so
a few boxes near a rounding edge may differ.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeyolo import verbs
from edgeyolo.nn.fold import fold_model
from edgeyolo.runtime import Detections, Detector
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.training.checkpoint import load_checkpoint
from edgeyolo.training.torch_session import TorchSession

ARCHIVE = Path(__file__).with_name("written_by_0.1.0.tar.xz")
MARGIN = 0.05  # of score above the threshold: nearer ones may fall on its other side
MOST_OFF = 0.1  # part of the boxes of an int8 network that another processor may round elsewhere


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def check_boxes(found: Detections, written: Path, name: str, *, most_off: float) -> None:
    """Each box that 0.1.0 found has its like: same class, score within 0.02, sides within half a pixel."""
    expected = json.loads((written / "expected.json").read_text())
    wanted = expected["detections"][name]
    boxes, scores, classes = (np.array(wanted[key]) for key in ("boxes_xyxy", "scores", "class_ids"))
    sure = scores > expected["score_threshold"] + MARGIN
    assert sure.sum() > 20
    missing = 0
    for box, score, class_id in zip(boxes[sure], scores[sure], classes[sure], strict=True):
        near = np.abs(found.boxes_xyxy - box).max(axis=1) < 0.5
        missing += not (near & (np.abs(found.scores - score) < 0.02) & (found.class_ids == class_id)).any()
    assert missing <= most_off * sure.sum()


def read(written: Path) -> tuple[np.ndarray, float]:
    threshold = json.loads((written / "expected.json").read_text())["score_threshold"]
    return cv2.imread(str(written / "picture.png")), threshold


def test_checkpoint(written: Path) -> None:
    image, threshold = read(written)
    loaded = load_checkpoint(written / "checkpoint.safetensors")
    session = TorchSession(fold_model(loaded.model))
    detector = Detector(session, loaded.record.model, Thresholds(score_threshold=threshold))
    check_boxes(detector.detect(image), written, "checkpoint", most_off=0.0)


@pytest.mark.parametrize("name", ["host-cpu.eyb", "host-onnx.eyb"])
def test_bundle(written: Path, name: str) -> None:
    image, threshold = read(written)
    with Detector.load(written / name, score_threshold=threshold) as detector:
        check_boxes(detector.detect(image), written, name, most_off=MOST_OFF)


@pytest.mark.parametrize("target", ["host-cpu", "host-onnx"])
def test_quantized_folder(written: Path, target: str, tmp_path: Path) -> None:
    image, threshold = read(written)
    verbs.deploy(written / "quantized", target, tmp_path / "again.eyb")
    with Detector.load(tmp_path / "again.eyb", score_threshold=threshold) as detector:
        check_boxes(detector.detect(image), written, f"{target}.eyb", most_off=MOST_OFF)
