"""What a network computes, convolution by convolution; told by running it without memory for its numbers."""

from __future__ import annotations

import torch
from torch import nn

from edgeyolo.nn.deform import DeformConv2d
from edgeyolo.spec.work import Convolution

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, DeformConv2d)


def list_convolutions(model: nn.Module, image_hw: tuple[int, int]) -> list[Convolution]:
    """Every convolution of a network on torch's meta device, in the order they run, for a picture of this size."""
    found: list[Convolution] = []

    def note(conv: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(conv, _CONVOLUTIONS)
        is_transposed = isinstance(conv, nn.ConvTranspose2d)
        height, width = conv.kernel_size
        found.append(
            Convolution(
                kernel_hw=(height, width),
                stride=1 if is_transposed else max(conv.stride),
                groups=conv.groups,
                in_chs=conv.in_channels,
                out_chs=conv.out_channels,
                positions=(inputs[0] if is_transposed else output)[0, 0].numel(),
            )
        )

    for module in model.modules():
        if isinstance(module, _CONVOLUTIONS):
            module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.empty(1, 3, *image_hw, device="meta"))
    return found
