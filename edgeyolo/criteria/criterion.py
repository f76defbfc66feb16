"""What every criterion takes and gives."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor, distributed, nn

from edgeyolo.losses.by_name import BOX_OVERLAPS, BoxOverlap
from edgeyolo.spec.errors import UsageError

_ALONE = ContextVar("alone", default=False)


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
    """Raw maps and objects -> Loss. Computed in float32 whatever the maps are.

    Attributes:
        unit: how much it counts a box that is wholly wrong; what is added to this loss is in proportion.
        box_overlap: of two (P, 4) boxes; the loss of a box is what it lacks of 1.
    """

    unit = 1.0
    box_overlap: BoxOverlap

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

    def expect(self, objects_per_picture: float) -> None:
        """Told before a training how many objects a picture of the set has on average, to balance its parts by.

        A criterion that is not told is as its authors have it.
        """
        return

    def choose_box_loss(self, name: str | None, alpha: float | None) -> None:
        """Train boxes by another overlap, a name of `losses.by_name`, or with another `alpha`; None for its own.

        Only the loss of boxes changes: predictions are matched, and asked how good they are, by the overlap they were.
        """
        overlap = self.box_overlap if name is None else BOX_OVERLAPS[name]
        self.box_overlap = overlap if alpha is None else functools.partial(overlap, alpha=alpha)

    @abstractmethod
    def choose_class_loss(self, name: str) -> None:
        """Train classes by another loss, a name of `losses.by_name`.

        Raises:
            UsageError: it is not for what is asked of the classes here.
        """

    def smooth_labels(self, amount: float) -> None:
        """Ask for `amount` / 2 of every other class and 1 - `amount` / 2 of the object's own; `amount` in [0, 1).

        Raises:
            UsageError: the loss asks for graded scores already.
        """
        if amount:
            raise UsageError(
                f"label_smoothing is {amount}, and the loss of this model asks for graded class scores already",
                hint="Set label_smoothing = 0",
            )


def mean_over_processes(value: Tensor, *, least: float = 0.0) -> Tensor:
    """What a sum over the batch is to be divided by, averaged over the processes of a distributed run.

    The gradients of the processes are averaged, so that a sum over each one's pictures, divided by this, gives them the
    gradient of the sum over all pictures divided by the whole. Every process must call it equally often.

    Args:
        value: not negative.
        least: what the whole, over all processes, counts as at least.
    """
    if world_size() == 1:
        return value.clamp(min=least) if least else value
    return sum_over_processes(value).clamp(min=least) / world_size()


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of what every process has, detached; the value itself where there is one."""
    total = value.detach().clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return total


def world_size() -> int:
    """Processes that compute a loss together: those of a distributed run, unless this one computes `alone`."""
    is_shared = distributed.is_available() and distributed.is_initialized() and not _ALONE.get()
    return distributed.get_world_size() if is_shared else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, a loss is of this process only, and waits for no other."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)
