"""Small detectors as other programs export them: none of our layers, the decode inside the graph, older opsets.

Written from the published layouts of YOLOv8, YOLOX, YOLOv5 and SSD; their weights are random, unless a test fits them.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
CLASSES = 6  # as pictures are drawn of
SIDE = 64


class Act(nn.Module):
    """SiLU as older exporters write it: Sigmoid and Mul."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


def block(ins: int, outs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """BatchNorm is exported on its own, because exporting does not put the network into another mode."""
    return nn.Sequential(nn.Conv2d(ins, outs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outs), Act())


class Trunk(nn.Module):
    """Three levels, with a split, a sum, pools, an upsampling and a concatenation on the way."""

    def __init__(self, chs: int, *, focus: bool) -> None:
        super().__init__()
        self.focus = focus
        self.stem = block(12, chs, 3) if focus else block(3, chs, 3, 2)
        self.second, self.third = block(chs, chs, 3, 2), block(chs, chs, 3, 2)
        self.inner = block(chs // 2, chs // 2)
        self.fourth, self.fifth = block(chs, chs, 3, 2), block(chs, chs, 3, 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.mix, self.merge = block(2 * chs, chs, 1), block(2 * chs, chs, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.focus:
            corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
            x = torch.cat(corners, dim=1)
        x = self.third(self.second(self.stem(x)))
        first, second = x.chunk(2, dim=1)
        x = torch.cat([first, second + self.inner(second)], dim=1)
        middle = self.fourth(x)
        deep = self.fifth(middle)
        deep = self.mix(torch.cat([deep, self.pool(deep)], dim=1))
        up = functional.interpolate(deep, scale_factor=2.0, mode="nearest")
        return [x, self.merge(torch.cat([middle, up], dim=1)), deep]


def cells(maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(1, N, 2) columns and rows, (1, N, 1) strides; folded into constants by the exporter."""
    points, strides = [], []
    for found, stride in zip(maps, STRIDES, strict=True):
        height, width = found.shape[2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points.append(torch.stack([x, y], 2).reshape(1, -1, 2).float())
        strides.append(torch.full((1, height * width, 1), float(stride)))
    return torch.cat(points, 1), torch.cat(strides, 1)


class DflStyle(nn.Module):
    """(1, 4 + K, N): centre and size in pixels, then scores."""

    bins = 8

    def __init__(self, chs: int = 16) -> None:
        super().__init__()
        self.trunk = Trunk(chs, focus=False)
        self.box = nn.ModuleList(nn.Sequential(block(chs, chs), nn.Conv2d(chs, 4 * self.bins, 1)) for _ in STRIDES)
        self.cls = nn.ModuleList(nn.Sequential(block(chs, chs), nn.Conv2d(chs, CLASSES, 1)) for _ in STRIDES)
        self.dfl = nn.Conv2d(self.bins, 1, 1, bias=False)
        self.dfl.weight.data = torch.arange(self.bins).float().reshape(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = self.trunk(x)
        maps = [torch.cat([box(f), cls(f)], 1) for box, cls, f in zip(self.box, self.cls, levels, strict=True)]
        points, strides = (part.transpose(1, 2) for part in cells(maps))
        flat = torch.cat([found.view(1, 4 * self.bins + CLASSES, -1) for found in maps], 2)
        box, cls = flat.split((4 * self.bins, CLASSES), 1)
        distances = self.dfl(box.view(1, 4, self.bins, -1).transpose(2, 1).softmax(1)).view(1, 4, -1)
        left_top, right_bottom = distances.chunk(2, 1)
        low, high = points + 0.5 - left_top, points + 0.5 + right_bottom
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * strides, cls.sigmoid()], 1)


class PointStyle(nn.Module):
    """(1, N, 4 + 1 + K): raw box values, objectness and scores; what reads them decodes the boxes."""

    def __init__(self, chs: int = 16) -> None:
        super().__init__()
        self.trunk = Trunk(chs, focus=True)
        self.stems = nn.ModuleList(block(chs, chs, 1) for _ in STRIDES)
        self.reg, self.obj, self.cls = (
            nn.ModuleList(nn.Conv2d(chs, count, 1) for _ in STRIDES) for count in (4, 1, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for i, found in enumerate(self.trunk(x)):
            f = self.stems[i](found)
            rows.append(torch.cat([self.reg[i](f), self.obj[i](f).sigmoid(), self.cls[i](f).sigmoid()], 1).flatten(2))
        return torch.cat(rows, 2).permute(0, 2, 1)


class AnchorStyle(nn.Module):
    """(1, N, 5 + K): centre and size in pixels, objectness and scores."""

    anchors = (((10.0, 13.0), (16.0, 30.0)), ((30.0, 61.0), (62.0, 45.0)), ((59.0, 119.0), (116.0, 90.0)))

    def __init__(self, chs: int = 16) -> None:
        super().__init__()
        self.trunk = Trunk(chs, focus=False)
        self.m = nn.ModuleList(nn.Conv2d(chs, 2 * (5 + CLASSES), 1) for _ in STRIDES)

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for conv, found, stride, anchors in zip(self.m, self.trunk(x), STRIDES, self.anchors, strict=True):
            raw = conv(found)
            height, width = raw.shape[2:]
            y = raw.view(1, 2, 5 + CLASSES, height, width).permute(0, 1, 3, 4, 2).sigmoid()
            rows_y, columns_x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            xy = (y[..., 0:2] * 2.0 - 0.5 + torch.stack([columns_x, rows_y], 2).float()) * stride
            wh = (y[..., 2:4] * 2.0) ** 2 * torch.tensor(anchors).view(1, 2, 1, 1, 2)
            rows.append(torch.cat([xy, wh, y[..., 4:]], -1).view(1, -1, 5 + CLASSES))
        return torch.cat(rows, 1)


class PairStyle(nn.Module):
    """(1, N, 4) corners as shares of the picture, and (1, N, K) logits."""

    def __init__(self, chs: int = 16) -> None:
        super().__init__()
        self.trunk = Trunk(chs, focus=False)
        self.box, self.cls = (nn.ModuleList(nn.Conv2d(chs, n, 3, 1, 1) for _ in STRIDES) for n in (4, CLASSES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.trunk(x)
        box, cls = (
            torch.cat([conv(f).permute(0, 2, 3, 1).reshape(1, -1, n) for conv, f in zip(convs, levels, strict=True)], 1)
            for convs, n in ((self.box, 4), (self.cls, CLASSES))
        )
        points, strides = cells(levels)
        centre = (points + 0.5) * strides / SIDE + 0.05 * box[..., :2].tanh()
        half = box[..., 2:].sigmoid() / 4
        return torch.cat([centre - half, centre + half], 2), cls


def make_foreign(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """Random, with statistics of batches that have gone through it, in eval mode."""
    torch.manual_seed(seed)
    network = kind()
    with torch.no_grad():
        for _ in range(3):
            network.trunk(torch.rand(2, 3, SIDE, SIDE))
    return network.eval()


def export_foreign(network: nn.Module, path: Path, *, opset: int, open_size: bool = False) -> Path:
    """As `torch.onnx.export` writes it by default, constants and batch norms as they are."""
    outputs = ["boxes", "scores"] if isinstance(network, PairStyle) else ["output0"]
    axes = {"input.1": {0: "batch", 2: "height", 3: "width"}} if open_size else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, SIDE, SIDE),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["input.1"],
            output_names=outputs,
            dynamic_axes=axes,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return path
