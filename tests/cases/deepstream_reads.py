"""What DeepStream's nvinfer and the parser of DeepStream-Yolo do, written again from their documentation.

The frame keeps its aspect, stands in the middle (`symmetric-padding`) of a black canvas, and every channel becomes
`net-scale-factor * (x - offset)`. Of each row (left, top, right, bottom, score, class) the parser keeps scores from the
class's `pre-cluster-threshold`, clips to the input and drops what is under one pixel; `cluster-mode=2` suppresses
class by class at `nms-iou-threshold` and keeps `topk` of each.
"""

from __future__ import annotations

import configparser
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from frigate_reads import suppress

from edgeyolo.spec.detections import Detections


@dataclasses.dataclass
class DeepStreamReads:
    """nvinfer with the files of one folder.

    Attributes:
        changes: settings of [class-attrs-all] in the place of the file's.
    """

    folder: Path
    changes: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        config = configparser.ConfigParser()
        config.read(self.folder / "config_infer_primary.txt")
        self.properties = dict(config["property"])
        self.limits = {name: float(value) for name, value in config["class-attrs-all"].items()} | self.changes
        assert self.properties["network-type"] == "0" and self.properties["cluster-mode"] == "2"
        assert self.properties["parse-bbox-func-name"] == "NvDsInferParseYolo"
        self.labels = (self.folder / self.properties["labelfile-path"]).read_text().splitlines()
        assert len(self.labels) == int(self.properties["num-detected-classes"])
        path = self.folder / self.properties["onnx-file"]
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def detect(self, image: np.ndarray) -> Detections:
        """Boxes of a frame (H, W, 3) BGR."""
        return self.detect_batch([image])[0]

    def detect_batch(self, images: list[np.ndarray]) -> list[Detections]:
        """All frames in one batch."""
        prepared = [self.prepare(image) for image in images]
        (rows,) = self.session.run(None, {"images": np.stack([tensor for tensor, *_ in prepared])})
        places = [place for _, *place in prepared]
        return [self.parse(*one) for one in zip(rows, places, images, strict=True)]

    def prepare(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(3, H, W) float32; scale and offset (x, y) of the frame on the canvas."""
        _, height, width = map(int, self.properties["infer-dims"].split(";"))
        assert self.properties["maintain-aspect-ratio"] == "1"
        size = np.array((width, int(width * image.shape[0] / image.shape[1])))
        if size[1] > height:
            size = np.array((int(height * image.shape[1] / image.shape[0]), height))
        spare = np.array((width, height)) - size
        offset = spare // 2 if self.properties["symmetric-padding"] == "1" else spare * 0
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = cv2.resize(image, size.tolist())
        if self.properties["model-color-format"] == "0":
            canvas = cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB)
        means = np.array([float(mean) for mean in self.properties["offsets"].split(";")])
        tensor = float(self.properties["net-scale-factor"]) * (canvas - means)
        return tensor.astype(np.float32).transpose(2, 0, 1), size / image.shape[1::-1], offset

    def parse(self, rows: np.ndarray, place: list[np.ndarray], image: np.ndarray) -> Detections:
        """The rows of one frame."""
        (scale, offset), (_, height, width) = place, map(int, self.properties["infer-dims"].split(";"))
        rows = rows[rows[:, 4] >= self.limits["pre-cluster-threshold"]]
        boxes = rows[:, :4].clip(0, (width, height) * 2)
        rows, boxes = (part[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)] for part in (rows, boxes))
        scores, class_ids = rows[:, 4], rows[:, 5].astype(np.int64)
        kept = suppress(boxes, scores, class_ids, self.limits["nms-iou-threshold"])
        rank = np.array([np.sum(class_ids[kept][:i] == class_ids[k]) for i, k in enumerate(kept)])
        kept = kept[rank < self.limits["topk"]] if len(kept) else kept
        found = ((boxes[kept] - np.tile(offset, 2)) / np.tile(scale, 2)).clip(0, np.tile(image.shape[1::-1], 2))
        return Detections(found.astype(np.float32), scores[kept], class_ids[kept])
