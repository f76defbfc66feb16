"""A small detector that 4-bit weights hurt, and drawn pictures labelled by the float detector itself.

Float AP is 100 by construction, so that what quantization costs and training regains shows in AP without a trained
model. As a program, `qat_case.py OUT` trains it for `LONG`; `test_qat.py` kills that.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeyolo.data.dataset import Dataset, open_dataset
from edgeyolo.data.drawn import draw_dataset
from edgeyolo.nn.fold import fold_model
from edgeyolo.quantization import Quantized, calibration_pictures, quantize
from edgeyolo.quantization.recover.qat import QatResult, QatStart, train_quantized
from edgeyolo.runtime.detector import Detector
from edgeyolo.spec.detecting import Thresholds
from edgeyolo.spec.model import AnchorDecode, InputSpec, ModelSpec
from edgeyolo.spec.recipe import QatRecipe, Recipe
from edgeyolo.training.torch_session import TorchSession

SIDE = 64
RECIPE = QatRecipe(epochs=3, batch=4, learning_rate=3e-3, ema_decay=0.5)
LONG = msgspec.structs.replace(RECIPE, epochs=5)


@dataclass(frozen=True)
class Case:
    """Everything that a training starts from."""

    model: nn.Module
    spec: ModelSpec
    train: Dataset
    val: Dataset
    quantized: Quantized
    inputs: Tensor

    def run(self, out: Path, recipe: QatRecipe = RECIPE, **settings: object) -> QatResult:
        how = {name: settings.pop(name) for name in ("resume", "progress") if name in settings}
        start = QatStart(self.quantized, self.model, self.spec, self.train, self.val)
        return train_quantized(replace(start, **settings), recipe, out, **how)


class Shallow(nn.Module):
    """Six int8 convolutions around a concat, a pool and a residual; the head of one anchor, stride 8."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 4, 1)
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.join, self.down = nn.Conv2d(48, 24, 1), nn.Conv2d(24, 24, 3, 2, 1)
        self.last = nn.Conv2d(24, 24, 3, padding=1)
        self.head = nn.Conv2d(24, 5 + num_classes, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.leaky_relu(self.stem(x), 0.1)
        right = F.leaky_relu(self.right(x), 0.1) + x
        joined = torch.cat([F.leaky_relu(self.left(x), 0.1), right, F.max_pool2d(right, 3, 1, 1)], 1)
        down = F.leaky_relu(self.down(F.leaky_relu(self.join(joined), 0.1)), 0.1)
        return [self.head(F.leaky_relu(self.last(down), 0.1))]


def make_case(folder: Path, **recipe: object) -> Case:
    draw_dataset(folder, {"train": 16, "val": 6, "test": 2}, seed=1)
    train, val = (open_dataset(folder, split) for split in ("train", "val"))
    decode = AnchorDecode(strides=(8,), anchors_wh=(((20.0, 20.0),),))
    spec = ModelSpec(
        name="shallow",
        activation="leaky_relu",
        class_names=train.class_names,
        input=InputSpec(image_hw=(SIDE, SIDE)),
        decode=decode,
    )
    pictures, hashes = calibration_pictures(train, spec.input, count=16)
    inputs = torch.cat(list(pictures))
    torch.manual_seed(0)
    model = Shallow(len(train.class_names)).eval()
    spread(model, inputs)
    settings = Recipe(title="", observer="max", weight_bits=4, weight_bits_3x3=4)
    settings = msgspec.structs.replace(settings, **recipe)
    quantized = quantize(model, pictures, settings, recipe_name="test", picture_hashes=hashes)
    return Case(model, spec, train, label_with(model, spec, val), quantized, inputs)


@torch.no_grad()
def spread(model: nn.Module, inputs: Tensor) -> None:
    """Give every convolution outputs of mean 0 and variance 1 per channel, as a trained one has; the head 3."""

    def scale(layer: nn.Conv2d, _: tuple[Tensor, ...], out: Tensor) -> Tensor:
        mean, std = out.mean((0, 2, 3)), out.std((0, 2, 3)) / (3.0 if layer is model.head else 1.0)
        layer.weight /= std[:, None, None, None]
        layer.bias.copy_((layer.bias - mean) / std)
        return (out - mean[:, None, None]) / std[:, None, None]

    hooks = [layer.register_forward_hook(scale) for layer in model.children()]
    model(inputs)
    for hook in hooks:
        hook.remove()


def label_with(model: nn.Module, spec: ModelSpec, data: Dataset) -> Dataset:
    """The same pictures with the model's own surest detections as their objects."""
    detector = Detector(TorchSession(fold_model(model)), spec, Thresholds(score_threshold=0.2, max_detections=8))
    records = []
    for index, record in enumerate(data.records):
        found = detector.detect(data[index].image)
        boxes_xyxy, class_ids = found.boxes_xyxy.astype(np.float32), found.class_ids.astype(np.int64)
        records.append(replace(record, boxes_xyxy=boxes_xyxy, class_ids=class_ids))
    assert sum(len(record.class_ids) for record in records) > 2 * len(records)
    return replace(data, records=records)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as drawn:
        make_case(Path(drawn)).run(Path(sys.argv[1]), LONG)
