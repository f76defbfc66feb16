"""Receptive fields by the graph against what the gradient of a cell reaches when every weight is positive."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeyolo.export.onnx import trace_onnx
from edgeyolo.graph.receptive_field import receptive_fields

SIDE = 160


class Pyramid(nn.Module):
    """Slices, strides, dilation, even kernels, pools, both ways up, and ways of different length that meet."""

    def __init__(self, *, is_gated: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, 2, 3, padding=1)
        self.down_4 = nn.Conv2d(2, 2, (5, 3), stride=2, padding=(2, 1))
        self.wide = nn.Conv2d(2, 2, 3, padding=2, dilation=2)
        self.down_8 = nn.Conv2d(2, 2, 2, stride=2)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.up = nn.ConvTranspose2d(2, 2, 2, stride=2)
        self.nearest = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.out = nn.Conv2d(6, 2, 1)
        self.is_gated = is_gated

    def forward(self, images: Tensor) -> list[Tensor]:
        parts = [images[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        at_4 = self.down_4(self.stem(torch.cat(parts, dim=1)))
        at_8 = self.pool(self.down_8(at_4 + self.wide(at_4)))
        fine = self.out(torch.cat((at_4, self.up(at_8), self.nearest(at_8)), dim=1))
        return [fine * fine.mean((2, 3), keepdim=True) if self.is_gated else fine, at_8]


def reach_of(module: nn.Module, level: int) -> tuple[int, int]:
    """Height and width of what the cells in the middle see, the largest of four neighbours."""
    sizes = []
    for row in (0, 1):
        for column in (0, 1):
            images = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
            pooled = [m for m in module.modules() if isinstance(m, nn.MaxPool2d)]
            handles = [m.register_forward_hook(lambda m, x, _: nn.functional.avg_pool2d(x[0], 3, 1, 1)) for m in pooled]
            map_ = module(images)[level]
            for handle in handles:
                handle.remove()
            map_[0, :, map_.shape[2] // 2 + row, map_.shape[3] // 2 + column].sum().backward()
            assert images.grad is not None
            seen = images.grad[0].sum(0) > 0
            rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
            sizes.append((int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1))
    return max(h for h, _ in sizes), max(w for _, w in sizes)


@pytest.mark.parametrize("is_gated", [False, True])
def test_is_what_the_gradient_reaches(is_gated: bool) -> None:
    module = Pyramid().eval()
    for parameter in module.parameters():
        nn.init.constant_(parameter, 0.5)
    graph = trace_onnx(Pyramid(is_gated=is_gated).eval(), (SIDE, SIDE), 2)
    fine, coarse = receptive_fields(graph, (4, 8))
    assert (fine.stride, coarse.stride) == (4, 8)
    assert coarse.theoretical_hw == reach_of(module, 1)
    height, width = reach_of(module, 0)
    # of cells that come from one coarse cell, the first and the last see less than all together
    assert 0 <= fine.theoretical_hw[0] - height <= 4 and 0 <= fine.theoretical_hw[1] - width <= 4
    assert (fine.sees_all, coarse.sees_all) == (is_gated, False)
