"""The order of the pictures: a pure function of seed, epoch and step, so that a run is repeated, shared and resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.records import Objects
from edgeyolo.spec.detections import Int64
from edgeyolo.spec.model import ModelSpec
from edgeyolo.spec.training import TrainConfig

_SIZE_STREAM = 1  # keeps the draws of input sizes apart from those of the order


class PictureKey(NamedTuple):
    """All that an augmented picture depends on, beside the seed; what the main process sends to a worker.

    Attributes:
        epoch: counted from 0.
        picture: index into the data set.
        mosaic: False leaves mosaic and mixup out.
        input_hw: height and width of this step's network input, pixels; None for the loader's own.
        repeat: how often the picture has come up before in this epoch.
    """

    epoch: int
    picture: int
    mosaic: bool
    input_hw: tuple[int, int] | None = None
    repeat: int = 0

    @property
    def entropy(self) -> tuple[int, ...]:
        """What its augmentation is seeded with, beside the seed of the run."""
        return (self.epoch, self.picture, self.repeat) if self.repeat else (self.epoch, self.picture)


class EpochOrder:
    """The order of one epoch, batch by batch; stays in the main process, so persistent workers need no news.

    Every process of a distributed run walks through the same batches and takes its own share of each.

    Args:
        count: pictures of the data set.
        batch: pictures of a step, over all processes. An incomplete last one is left out, unless it is the only one.
        repeats: (count,) how often each picture is wanted in an epoch, at least 1; None for once.
        sizes: heights and widths of the input, pixels, one of which is drawn for each step; empty for the loader's own.
        rank: of this process, of `world_size`.

    Attributes:
        seed: of the order, and of whatever goes by its keys.
        epoch: which one the next iteration gives.
        mosaic: whether its pictures may be mosaics.
        first_step: steps of it to leave out, when the epoch was begun before.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int = 0,
        *,
        repeats: NDArray[np.float64] | None = None,
        sizes: Sequence[tuple[int, int]] = (),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._count = count
        self._repeats = repeats
        self._length = count if repeats is None else int(repeats.sum())
        self._batch = min(batch, self._length)
        self.seed = seed
        self._sizes = tuple(sizes)
        self._first, self._last = (self._batch * part // world_size for part in (rank, rank + 1))
        self.epoch = 0
        self.mosaic = True
        self.first_step = 0

    def __len__(self) -> int:
        """Steps of a whole epoch; the pictures that are left over make none, unless it is the only one."""
        return self._length // self._batch

    @property
    def share(self) -> int:
        """Pictures of each batch that are this process's; where it is 0, one comes all the same, not to be used."""
        return self._last - self._first

    @property
    def batch(self) -> int:
        """Pictures of each step, over all processes."""
        return self._batch

    def __iter__(self) -> Iterator[list[PictureKey]]:
        pictures, times = self._shuffled()
        for step in range(self.first_step, len(self)):
            start = step * self._batch
            input_hw = self._input_hw(step)
            share = slice(start + self._first, start + self._last) if self.share else slice(start, start + 1)
            yield [
                PictureKey(self.epoch, picture, self.mosaic, input_hw, again)
                for picture, again in zip(pictures[share].tolist(), times[share].tolist(), strict=True)
            ]

    def _shuffled(self) -> tuple[Int64, Int64]:
        """Of the whole epoch the pictures, and how often each came before.

        A picture comes as often as `repeats` says, rounded up or down by chance so that the mean over epochs is exact
        and their length always the same (systematic sampling).
        """
        rng = np.random.default_rng([self.seed, self.epoch])
        shuffled = rng.permutation(self._count)
        if self._repeats is None:
            return shuffled, np.zeros_like(shuffled)
        ends = np.floor(np.cumsum(self._repeats[shuffled]) + rng.random()).astype(np.int64)
        times = np.diff(ends, prepend=0)
        again = np.arange(ends[-1]) - np.repeat(ends - times, times)
        order = rng.permutation(int(ends[-1]))[: self._length]
        return np.repeat(shuffled, times)[order], again[order]

    def _input_hw(self, step: int) -> tuple[int, int] | None:
        if not self._sizes:
            return None
        rng = np.random.default_rng([self.seed, self.epoch, step, _SIZE_STREAM])
        return self._sizes[int(rng.integers(len(self._sizes)))]


def make_order(config: TrainConfig, spec: ModelSpec, data: Dataset, rank: int = 0, world_size: int = 1) -> EpochOrder:
    """The order of a run's pictures, or of the share that the process `rank` of `world_size` has of them."""
    balance = config.class_balance
    return EpochOrder(
        len(data),
        max(1, config.batch),
        config.seed,
        repeats=repeat_factors(data.records.objects, balance) if balance else None,
        sizes=input_sizes(spec.input.image_hw, config.multi_scale, max(spec.decode.strides)),
        rank=rank,
        world_size=world_size,
    )


def repeat_factors(objects: Objects, threshold: float) -> NDArray[np.float64]:
    """How often each picture should come up in an epoch so that rare classes are seen.

    Args:
        threshold: a class in a smaller part of the pictures than this is rare, in (0, 1].

    Returns:
        (pictures,) at least 1: of the picture's rarest class, `max(1, sqrt(threshold / part))`.

    Source: Gupta et al., LVIS, arXiv 1908.03195, appendix B.
    """
    count, classes = len(objects.counts), int(objects.class_ids.max(initial=0)) + 1
    pictures, present = np.divmod(np.unique(objects.pictures * classes + objects.class_ids), classes)
    part = np.maximum(np.bincount(present, minlength=1), 1) / max(1, count)
    factor = np.maximum(1.0, np.sqrt(threshold / part))
    repeats = np.ones(count)
    np.maximum.at(repeats, pictures, factor[present])
    return repeats


def input_sizes(image_hw: tuple[int, int], ratio: float, stride: int) -> list[tuple[int, int]]:
    """Heights and widths for multi-scale training, pixels, multiples of `stride`.

    The longer side takes each multiple in [1 - ratio, 1 + ratio] of its own, the shorter one that which is nearest to
    the same shape.
    """
    if not ratio:
        return []
    shorter, longer = sorted(image_hw)
    low, high = -(-longer * (1 - ratio) // stride), longer * (1 + ratio) // stride
    sizes = []
    for count in range(max(1, int(low)), int(high) + 1):
        sides = (max(1, (2 * count * shorter + longer) // (2 * longer)) * stride, count * stride)  # halves up
        sizes.append(sides if image_hw[0] == shorter else sides[::-1])
    return sizes
