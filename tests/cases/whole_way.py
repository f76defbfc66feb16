"""The main job in small.

The pictures are easy, so that some seconds of training give a detector whose AP means something.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from shared import make_once

from edgeyolo import verbs
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.spec.training import AugmentConfig, TrainConfig

TARGETS = ("host-ncnn", "host-openvino", "raspberry-pi-5", "host-onnx")
PICTURES = {"train": 48, "val": 16, "test": 16}


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
    draw_dataset(folder / "data", PICTURES, image_hw=(160, 160), kind="easy")
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
