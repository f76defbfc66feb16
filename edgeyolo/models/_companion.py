"""What is trained beside a network and thrown away: a teacher's adapters, a branch that only helps it learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from edgeyolo.criteria.criterion import Loss


class Companion(nn.Module, ABC):
    """Sees what a network computes, makes maps of it, and adds a loss. Its parameters train with the network's.

    Attributes:
        count: maps that it makes, each with the batch first.
    """

    count: int

    def start_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0."""
        return

    @abstractmethod
    def watch(self, network: nn.Module) -> None:
        """See, from now on, what this network computes each time it runs."""

    @abstractmethod
    def forward(self) -> list[Tensor]:
        """Its maps, of the network's last run."""

    @abstractmethod
    def loss(self, seen: Sequence[Tensor], maps: Sequence[Tensor], targets: Tensor, images: Tensor) -> Loss:
        """What it adds for one batch.

        Args:
            seen: its own maps, float32.
            maps: the network's raw maps, float32; auxiliary ones after them are ignored.
            targets: (N, 6) float32, as `Criterion` takes them.
            images: (B, 3, H, W), normalised for the network; B may be 0 on a process of several.
        """


class Accompanied(nn.Module):
    """A network as training calls it: (B, 3, H, W) -> its raw maps, then those of each companion."""

    def __init__(self, network: nn.Module, companions: Sequence[Companion]) -> None:
        super().__init__()
        self.network = network
        self.companions = nn.ModuleList(companions)
        for companion in companions:
            companion.watch(network)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps."""
        maps: list[Tensor] = self.network(images)
        return [*maps, *(map_ for companion in self.companions for map_ in companion())]
