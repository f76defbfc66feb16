"""What every criterion takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Loss:
    """A loss and where it comes from.

    Attributes:
        total: scalar, float32, differentiable: the sum of `parts`. A mean per picture: it does not grow with the batch.
        parts: name -> detached scalar, already weighted.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Criterion(nn.Module, ABC):
    """Raw maps and objects -> Loss. Computed in float32 whatever the maps are."""

    @abstractmethod
    def forward(self, maps: list[Tensor], targets: Tensor, image_hw: tuple[int, int]) -> Loss:
        """The loss of one batch.

        Args:
            maps: as the model returns them, in the order of its decode; auxiliary maps, if any, after them.
            targets: (N, 6) float32 [index of the picture in the batch, class id, x1, y1, x2, y2 in input pixels];
                N may be 0.
            image_hw: of the input, pixels.
        """

    def start_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0; for criteria that change as training goes on."""
        return
