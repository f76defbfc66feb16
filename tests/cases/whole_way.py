"""The main job in small.

The pictures are easy, so that some seconds of training give a detector whose AP means something.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from shared import make_once

from edgeyolo import verbs
from edgeyolo.spec.training import AugmentConfig, TrainConfig

TARGETS = ("host-cpu", "raspberry-pi-5", "host-onnx")
PICTURES = {"train": 48, "val": 16, "test": 16}

_CLASSES = {"brick": (40, 40, 230), "coin": (230, 120, 30), "leaf": (40, 200, 60)}  # name -> colour, blue green red
_SIDE_PX = 160


@dataclass(frozen=True)
class WholeWay:
    """Everything that the main job leaves behind."""

    data: Path
    run: Path
    quantized: Path
    bundles: dict[str, Path]


@pytest.fixture(scope="session")
def whole_way(tmp_path_factory: pytest.TempPathFactory) -> WholeWay:
    """A detector trained for seconds, quantized, and deployed for every target."""
    folder = make_once(tmp_path_factory, "whole-way", make_whole_way)
    bundles = {target: folder / f"{target}.eyb" for target in TARGETS}
    return WholeWay(folder / "data", folder / "run", folder / "int8", bundles)


def make_whole_way(folder: Path) -> None:
    draw_shapes(folder / "data")
    config = TrainConfig(
        model="yolov7-nano",
        epochs=24,
        image_size=128,
        batch=4,
        learning_rate=3e-3,
        workers=0,
        device="cpu",
        evaluate_every=24,
        augment=AugmentConfig(mosaic=0, mixup=0, scale=0.2, hsv_h=0),
    )
    verbs.train(config, folder / "data", folder / "run", report=False)
    verbs.quantize(folder / "run", folder / "data", folder / "int8", options=verbs.QuantizeOptions(report=False))
    for target in TARGETS:
        verbs.deploy(folder / "int8", target, folder / f"{target}.eyb")


def draw_shapes(folder: Path) -> None:
    """A data set in YOLO layout: up to four plain shapes on a soft background, each class of one colour."""
    for number, (split, count) in enumerate(PICTURES.items()):
        images, labels = (folder / kind / split for kind in ("images", "labels"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(count):
            image, rows = draw_picture(np.random.default_rng((number, i)))
            cv2.imwrite(str(images / f"{i:03d}.png"), image)
            (labels / f"{i:03d}.txt").write_text("\n".join(rows))
    lines = ["path: .", *(f"{split}: images/{split}" for split in PICTURES), f"names: [{', '.join(_CLASSES)}]"]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n")


def draw_picture(rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """A BGR picture and the lines of its label file."""
    image = cv2.resize(rng.integers(60, 190, (10, 10, 3)).astype(np.uint8), (_SIDE_PX, _SIDE_PX))
    boxes_xywh: list[tuple[int, int, int, int]] = []
    rows = []
    for _ in range(4):
        w, h = rng.integers(24, 60, 2).tolist()
        x, y = rng.integers(0, (_SIDE_PX - w, _SIDE_PX - h)).tolist()
        if any(x < bx + bw and bx < x + w and y < by + bh and by < y + h for bx, by, bw, bh in boxes_xywh):
            continue
        boxes_xywh.append((x, y, w, h))
        class_id = int(rng.integers(len(_CLASSES)))
        name, colour = list(_CLASSES.items())[class_id]
        if name == "coin":
            cv2.ellipse(image, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, colour, -1)
        else:
            cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), colour, -1)
        centre_and_size = np.array([x + w / 2, y + h / 2, w, h]) / _SIDE_PX
        rows.append(" ".join([str(class_id), *(f"{value:.6f}" for value in centre_and_size)]))
    return image, rows
