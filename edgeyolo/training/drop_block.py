"""DropBlock in a model of any family: on what its backbone hands to its neck, or its neck to its heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgeyolo.models import DetectorNetwork
from edgeyolo.nn.drop_block import drop_block
from edgeyolo.spec.training import TrainConfig

_LEVELS = 2  # the coarsest ones, as in the paper


class DropBlock:
    """A hook that drops blocks of the two coarsest maps while the part that it hangs on is in train mode.

    The probability rises in a line, epoch by epoch, to the one of the settings.

    Source: arXiv 1810.12890, section 3, scheduled DropBlock; the last two groups of the backbone as in section 4.2.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.settings = config.drop_block
        self.epochs = config.epochs
        self.probability = torch.zeros(())  # a tensor, so that a compiled network is not compiled again

    def start_epoch(self, epoch: int) -> None:
        """Chooses the probability by `epoch`, counted from 0."""
        self.probability.fill_(self.settings.probability * min(1.0, (epoch + 1) / self.epochs))

    def __call__(self, part: nn.Module, _inputs: object, output: Any) -> Any:
        """Maps, finest first, or a tuple that begins with them -> the same with blocks dropped."""
        if not part.training:
            return output
        if not isinstance(output[0], Tensor):  # beside them, maps for auxiliary heads
            return (self(part, _inputs, output[0]), *output[1:])
        dropped = [drop_block(level, self.probability, self.settings.size) for level in output[-_LEVELS:]]
        return type(output)((*output[:-_LEVELS], *dropped))


def attach_drop_block(network: DetectorNetwork, config: TrainConfig) -> DropBlock | None:
    """Hang it on the part of the network that the settings name; None where they switch it off."""
    if not config.drop_block.probability:
        return None
    hook = DropBlock(config)
    part: nn.Module = getattr(network, config.drop_block.place)
    part.register_forward_hook(hook)
    return hook
