"""Whether the numbers of each step were finite, found out without waiting for a GPU.

What a GPU finds is copied out behind the step and looked at some steps later. Until then nothing is harmed: from a step
whose numbers are not finite on, the optimizer leaves the weights as they are, and all steps are looked at before
anything is saved.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeyolo.training.loader import Batch

LAG = 4  # steps that a GPU may have before it, while the pictures of all are kept


@dataclass(frozen=True)
class WatchedStep:
    """A step, to be looked at once its numbers are there.

    Attributes:
        numbers: (3,) whether all were finite, the loss, and the norm of the gradients.
        copied: has happened when the numbers are there; None where they are already.
    """

    batch: Batch
    numbers: Tensor
    copied: torch.cuda.Event | None


class Watch:
    """The steps that were not yet looked at.

    Attributes:
        is_bad: scalar on the device, 1.0 from the first step on whose numbers were not finite, before that 0.0; an
            optimizer that has it as `found_inf` changes nothing where it is 1.0.
        lag: steps that are not looked at yet; 0 on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_bad = torch.zeros((), device=device)
        self.lag = LAG if device.type == "cuda" else 0
        self._steps: deque[WatchedStep] = deque()

    def add(self, batch: Batch, loss: Tensor, norm: Tensor, *, norm_counts: bool) -> None:
        """Take the numbers of a step, scalars on the device, into account.

        Args:
            norm_counts: whether gradients that are not finite are bad, or are dealt with by the loss scaler.
        """
        is_finite = torch.isfinite(loss + norm if norm_counts else loss)
        self.is_bad = torch.maximum(self.is_bad, (~is_finite).float())
        numbers = torch.stack([is_finite.float(), loss.float(), norm.float()])
        copied = None
        if self.lag:
            numbers = numbers.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._steps.append(WatchedStep(batch, numbers, copied))

    def first_bad(self, *, lag: int = 0) -> WatchedStep | None:
        """The first step whose numbers were not finite, of all but the last `lag`; those are looked at later."""
        while len(self._steps) > lag:
            step = self._steps.popleft()
            if step.copied is not None:
                step.copied.synchronize()
            if not step.numbers[0]:
                return step
        return None
