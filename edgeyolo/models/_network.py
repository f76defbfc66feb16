"""What every family's `Network` is: a module that knows its config, its input, its decode and its loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, Protocol

import torch
from torch import nn

from edgeyolo.criteria.criterion import Criterion
from edgeyolo.models._companion import Companion
from edgeyolo.spec.errors import UsageError
from edgeyolo.spec.model import InputSpec, TrainedDecode


class NetworkConfig(Protocol):
    """The fields that every family's config has."""

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def activation(self) -> str:
        """Of the hidden layers."""

    @property
    def num_classes(self) -> int:
        """K."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the square input it is meant for."""


class DetectorNetwork(nn.Module):
    """(B, 3, H, W) float -> raw head maps, flat, in the order that `decode` states; in train and eval mode alike.

    Attributes:
        config: what it was made from.
        task: what it is for, a name of `evaluation.tasks`.
        decode: how its maps become boxes, or joints.
        neck: what runs before the heads; gives the maps that feed them, finest first, or these and more in a tuple.
    """

    task: ClassVar[str] = "detection"
    config: NetworkConfig
    decode: TrainedDecode
    neck: nn.Module

    @property
    def side_multiple(self) -> int:
        """What both sides of the input are multiples of, pixels."""
        return max(self.decode.strides)

    def make_input_spec(self, image_hw: tuple[int, int]) -> InputSpec:
        """The input this network was designed for, at this size: RGB in [0, 1], letterboxed in grey.

        Raises:
            UsageError: a side is not a positive multiple of the coarsest stride.
        """
        stride = self.side_multiple
        for side in image_hw:
            if side < stride or side % stride:
                near = (max(stride, round(given / stride) * stride) for given in image_hw)
                raise UsageError(
                    f"{side} is not a positive multiple of the coarsest stride, {stride}",
                    where=f"image size {image_hw[0]}x{image_hw[1]}",
                    hint=f"Nearest that works: {'x'.join(map(str, near))}",
                )
        return InputSpec(image_hw=image_hw)

    @abstractmethod
    def make_criterion(self, *, epochs: int | None = None) -> Criterion:
        """The loss it is trained with, in a training of so many epochs; None for its authors' schedule."""

    def make_companion(self) -> Companion | None:
        """The branch that its authors train beside it and throw away; None for none."""
        return None


def start_anchor_bias(conv: nn.Conv2d, stride: int, num_classes: int) -> None:
    """Let an anchor head start at about 8 objects per 640-pixel picture, and 0.6 of them spread over the classes.

    Source: Focal Loss, arXiv 1708.02002, section 3.3.
    """
    assert conv.bias is not None
    with torch.no_grad():
        bias = conv.bias.view(-1, 5 + num_classes)
        bias[:, 4] += math.log(8 / (640 / stride) ** 2)
        bias[:, 5:] += math.log(0.6 / (num_classes - 0.99))
