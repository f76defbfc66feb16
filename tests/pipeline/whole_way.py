"""The main job in small, for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeyolo import verbs
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.training.config import TrainConfig

TARGETS = ("host-cpu", "raspberry-pi-5", "host-onnx")


@dataclass(frozen=True)
class WholeWay:
    """Everything that the main job leaves behind, made once."""

    data: Path
    run: Path
    quantized: Path
    bundles: dict[str, Path]


def make_whole_way(folder: Path) -> WholeWay:
    """Train for seconds, quantize, deploy for every target."""
    draw_dataset(folder / "data", train=48, val=8, test=8, seed=3)
    config = TrainConfig(
        model="yolov7-nano", epochs=24, image_size=128, batch=8, workers=0, device="cpu", evaluate_every=24
    )
    verbs.train(config, folder / "data", folder / "run")
    verbs.quantize(folder / "run", folder / "data", folder / "int8", recipe="int8-mse")
    bundles = {target: folder / f"{target}.eyb" for target in TARGETS}
    for target, bundle in bundles.items():
        verbs.deploy(folder / "int8", target, bundle)
    return WholeWay(folder / "data", folder / "run", folder / "int8", bundles)
