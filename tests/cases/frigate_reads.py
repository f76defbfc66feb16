"""What Frigate does with a model of `model_type: yolo-generic`, written again from its documentation.

A square piece of the frame is resized to the input (where it reaches over the frame's edge it is black), its channels
ordered by `input_pixel_format`, and for `input_dtype: float` divided by 255. Of the output, (1, 4 + K, N) or its
transpose, boxes of a best score over 0.4 are kept, suppressed at 0.4 over all classes together, and the first 20 given.
OpenCV's NMSBoxes takes left, top, width and height there; Frigate hands it left, top, right and bottom.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import yaml

from edgeyolo.spec.detections import Detections


@dataclasses.dataclass
class FrigateReads:
    """Frigate with the files of one folder.

    Attributes:
        has_limits: as it is; False reports every class of every box from a score of 0.001, suppressed as mAP is
            measured, so that the model itself is seen.
    """

    folder: Path
    has_limits: bool = True

    def __post_init__(self) -> None:
        self.config: dict[str, Any] = yaml.safe_load((self.folder / "frigate.yml").read_text())
        model = self.config["model"]
        assert (model["model_type"], model["input_tensor"], model["input_dtype"]) == ("yolo-generic", "nchw", "float")
        self.size_wh = (model["width"], model["height"])
        self.labels = read_labels(self.folder / Path(model["labelmap_path"]).name)
        path = self.folder / Path(model["path"]).name
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def detect(self, image: np.ndarray) -> Detections:
        """Boxes of a frame (H, W, 3) BGR that is one piece, from its upper left corner."""
        side = max(image.shape[:2])
        piece = np.zeros((side, side, 3), np.uint8)
        piece[: image.shape[0], : image.shape[1]] = image
        small = cv2.resize(piece, self.size_wh)
        if self.config["model"]["input_pixel_format"] == "rgb":
            small = cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
        tensor = (small.astype(np.float32) / 255)[None].transpose(0, 3, 1, 2)
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: tensor})
        assert len(outputs) == 1
        shares, scores, class_ids = (self.limited if self.has_limits else everything)(outputs[0], self.size_wh)
        boxes = (shares * side).clip(0, np.tile(image.shape[1::-1], 2))
        return Detections(boxes.astype(np.float32), scores.astype(np.float32), class_ids.astype(np.int64))

    @staticmethod
    def limited(output: np.ndarray, size_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares of the piece, scores and class ids, with all of Frigate's limits."""
        boxes, scores = boxes_and_scores(output)
        best = scores.max(axis=1)
        boxes, scores, best = boxes[best > 0.4], scores[best > 0.4], best[best > 0.4]
        kept = np.asarray(cv2.dnn.NMSBoxes(boxes, best, 0.4, 0.4), np.int64)[:20]
        return boxes[kept] / np.tile(size_wh, 2), best[kept], scores[kept].argmax(axis=1)


def everything(output: np.ndarray, size_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same without limits, best first, 300 at most."""
    boxes, scores = boxes_and_scores(output)
    row, class_ids = np.nonzero(scores >= 0.001)
    found = suppress(boxes[row], scores[row, class_ids], class_ids, 0.65)[:300]
    return boxes[row][found] / np.tile(size_wh, 2), scores[row, class_ids][found], class_ids[found]


def boxes_and_scores(output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) left, top, right, bottom in input pixels, and (N, K)."""
    rows = np.squeeze(output)
    rows = rows.T if rows.shape[0] < rows.shape[1] else rows
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate((centre - half, centre + half), axis=1), rows[:, 4:]


def suppress(boxes_xyxy: np.ndarray, scores: np.ndarray, class_ids: np.ndarray, threshold: float) -> np.ndarray:
    """Indices that are left when each class is suppressed by itself, best first."""
    ltwh = np.concatenate((boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]), axis=1)
    kept = cv2.dnn.NMSBoxesBatched(ltwh, scores, class_ids.astype(np.int32), 0.0, threshold)
    kept = np.asarray(kept, np.int64)
    return kept[np.argsort(-scores[kept], kind="stable")]


def read_labels(path: Path) -> dict[int, str]:
    """Number -> name; lines have numbers if the first begins with one."""
    lines = path.read_text().splitlines()
    if lines[0].split(" ", 1)[0].isdigit():
        return {int(number): name.strip() for number, name in (line.split(" ", 1) for line in lines)}
    return dict(enumerate(line.strip() for line in lines))
