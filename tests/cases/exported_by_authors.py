"""Networks of other people's layers with weights that were trained here, exported as their repositories do it.

The weights of one of our checkpoints are placed under the authors' names; the decode that those programs add is in the
graph. So a graph that none of our code has written has an AP that means something.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from foreign_detectors import Act
from ppyoloe_by_its_authors import PaddleNet
from torch import Tensor, nn
from yolov7_by_its_authors import official_yolov7

from edgeyolo.models import ppyoloe
from edgeyolo.models.yolov7 import official as yolov7
from edgeyolo.training.checkpoint import Checkpoint


def _cells(found: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = found.shape[2:]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return x.float(), y.float()


class AnchorsDecoded(nn.Module):
    """YOLOv7 with its `Detect` in export: (1, N, 5 + K)."""

    def __init__(self, network: nn.Module, strides: tuple[int, ...], anchors: Any) -> None:
        super().__init__()
        self.network, self.strides, self.anchors = network, strides, anchors

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for raw, stride, anchors in zip(self.network(x), self.strides, self.anchors, strict=True):
            count, (height, width) = len(anchors), raw.shape[2:]
            y = raw.view(1, count, -1, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            cells = torch.stack(_cells(raw), 2)
            xy = (y[..., 0:2] * 2.0 - 0.5 + cells) * stride
            wh = (y[..., 2:4] * 2.0) ** 2 * torch.tensor(anchors).view(1, count, 1, 1, 2)
            rows.append(torch.cat([xy, wh, y[..., 4:]], -1).view(1, -1, y.shape[-1]))
        return torch.cat(rows, 1)


class DistributionsDecoded(nn.Module):
    """PP-YOLOE with a tail as YOLOv8's: (1, 4 + K, N)."""

    def __init__(self, network: nn.Module, strides: tuple[int, ...], bins: int) -> None:
        super().__init__()
        self.network, self.strides, self.bins = network, strides, bins
        self.dfl = nn.Conv2d(bins, 1, 1, bias=False)
        self.dfl.weight.data = torch.arange(bins).float().reshape(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.network(x)
        classes, boxes = (torch.cat([found.flatten(2) for found in maps[start::2]], 2) for start in (0, 1))
        points = torch.cat([torch.stack(_cells(found)).reshape(1, 2, -1) + 0.5 for found in maps[0::2]], 2)
        scale = torch.cat([
            torch.full((1, 1, found.shape[2] * found.shape[3]), float(stride))
            for found, stride in zip(maps[0::2], self.strides, strict=True)
        ], 2)  # fmt: skip
        sides = self.dfl(boxes.view(1, 4, self.bins, -1).transpose(2, 1).softmax(1)).view(1, 4, -1)
        low, high = points - sides[:, :2], points + sides[:, 2:]
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * scale, classes.sigmoid()], 1)


def export_yolov7(checkpoint: Checkpoint, path: Path) -> Path:
    """Opset 12."""
    model: Any = checkpoint.model
    network = official_yolov7(model.config, kind="IDetect" if _has_implicit(model) else "Detect")
    _place(network, model, yolov7.PUBLISHED)
    return _export(AnchorsDecoded(network, model.config.strides, model.config.anchors_wh), model, path, checkpoint, 12)


def export_ppyoloe(checkpoint: Checkpoint, path: Path) -> Path:
    """Opset 17."""
    model: Any = checkpoint.model
    config = model.config
    network = PaddleNet(config.depth, config.width, False, config.num_classes)
    _place(network, model, ppyoloe.PUBLISHED, {"_mean": "running_mean", "_variance": "running_var"})
    decode = model.decode
    return _export(DistributionsDecoded(network, decode.strides, decode.bins), model, path, checkpoint, 17)


def _has_implicit(model: nn.Module) -> bool:
    return any(name.endswith(".offset") for name in model.state_dict())


def _place(network: nn.Module, model: Any, published: Any, leaves: dict[str, str] | None = None) -> None:
    own = network.state_dict()
    names = published.names(model.config, own, "the authors' network")
    placed = {}
    for here, value in model.state_dict().items():
        there = names.official(here)
        head, _, leaf = there.rpartition(".")
        placed[f"{head}.{(leaves or {}).get(leaf, leaf)}"] = value
    missing = [name for name in own if name not in placed and not name.endswith(names.ignored)]
    assert not [name for name in missing if not name.endswith("num_batches_tracked")], missing[:3]
    network.load_state_dict({name: placed[name] for name in own if name in placed}, strict=False)


def _export(network: nn.Module, model: Any, path: Path, checkpoint: Checkpoint, opset: int) -> Path:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU):  # as exporters of that time write it
                setattr(module, name, Act())
    height, width = checkpoint.record.model.input.image_hw
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 3, height, width),), path, dynamo=False, opset_version=opset,
            input_names=["images"], output_names=["output"], do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
    return path
