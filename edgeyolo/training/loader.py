"""Batches to train on: shuffled and augmented as a pure function of seed, epoch and picture."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.geometric import AffineRange, flip_left_right, flip_up_down
from edgeyolo.data.mosaic import affine, mixup, mosaic
from edgeyolo.data.photometric import jitter_hsv
from edgeyolo.data.picture_cache import PictureCache
from edgeyolo.data.sample import Sample
from edgeyolo.geometry.letterbox import letterbox_image, make_letterbox, resize_image
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError, ImageError, TrainingError, UsageError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges and probabilities of the augmentations; 0 switches one off.

    Attributes:
        hsv_h: largest turn of the hue, as a part of the circle, in [0, 0.5].
        hsv_s: largest relative change of the saturation, in [0, 1].
        hsv_v: largest relative change of the value, in [0, 1].
        degrees: largest rotation, either way, in [0, 180].
        translate: largest shift, as a part of the input's sides, in [0, 1].
        scale: the size factor is drawn from [1 - scale, 1 + scale]; in [0, 0.95].
        shear: largest shear along each axis, degrees, in [0, 60].
        flip_lr: probability of a mirror image, in [0, 1].
        flip_ud: probability of turning upside down, in [0, 1].
        mosaic: probability that four pictures are put into one, in [0, 1].
        mixup: probability that a mosaic is laid over another one, in [0, 1].
    """

    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    flip_lr: float = 0.5
    flip_ud: float = 0.0
    mosaic: float = 1.0
    mixup: float = 0.05


_SIGNS_OF_DEATH = ("exited unexpectedly", "is killed by signal")  # in torch's messages
_NOTICE_SECONDS = 0.2
_LARGEST = {"hsv_h": 0.5, "degrees": 180.0, "scale": 0.95, "shear": 60.0}  # of a field; 1 for the others


class Batch(NamedTuple):
    """Pictures and their objects, in the loader's own memory.

    Attributes:
        images: (B, 3, H, W) uint8, red green blue.
        targets: (N, 6) float32: image index in the batch, class id, x1, y1, x2, y2 in input pixels.
        image_ids: B ids; of a mosaic, its first picture's.
    """

    images: Tensor
    targets: Tensor
    image_ids: list[str]


class PictureKey(NamedTuple):
    """All that an augmented picture depends on, beside the seed; what the main process sends to a worker."""

    epoch: int
    picture: int
    mosaic: bool


class TrainLoader:
    """Iterates over one epoch's batches; made by `make_loader`."""

    def __init__(self, order: EpochOrder, batches: Iterable[Batch]) -> None:
        self._order = order
        self._batches = batches

    def __len__(self) -> int:
        return len(self._order)

    def start_epoch(self, epoch: int, *, mosaic: bool = True) -> None:
        """Choose the epoch that the next iteration gives: its order and augmentations follow from its number.

        Args:
            mosaic: False leaves mosaic and mixup out.
        """
        self._order.epoch = epoch
        self._order.mosaic = mosaic

    def __iter__(self) -> Iterator[Batch]:
        """Give the epoch's batches.

        Raises:
            DataError: no picture can be read. TrainingError: a worker process died.
        """
        try:
            yield from self._batches
        except (RuntimeError, EOFError, ConnectionError) as error:
            if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _SIGNS_OF_DEATH):
                raise
            with contextlib.suppress(RuntimeError):
                time.sleep(_NOTICE_SECONDS)  # torch's own notice follows by signal: met here, not in the caller
            raise TrainingError(
                f"a loader process died ({error or type(error).__name__})",
                hint="Most often memory: use fewer workers, a smaller batch or cache_mib, or enlarge /dev/shm",
            ) from error


def make_loader(
    dataset: Dataset,
    *,
    image_size: int | tuple[int, int],
    batch: int,
    augment: AugmentConfig | None,
    seed: int = 0,
    workers: int = 0,
    cache_mib: int = 2048,
) -> TrainLoader:
    """Make a loader that shuffles; an incomplete last batch is left out, unless it is the only one.

    What it gives does not depend on the number of workers, on what came before, or on the cache. A picture that
    turns out to be unreadable is logged once and replaced by the next one.

    Args:
        image_size: side of the input, or its height and width, pixels.
        batch: pictures per batch.
        augment: None for plain letterboxed pictures.
        seed: of order and augmentations, at least 0.
        workers: processes; 0 loads in this one.
        cache_mib: memory for decoded pictures, shared by all workers.

    Raises:
        DataError: the data set is empty. UsageError: an augmentation value out of its range.
    """
    if not len(dataset):
        raise DataError("no pictures to train on", where=f"{dataset.name} ({dataset.split})")
    if augment is not None:
        _check_augment(augment)
    input_hw = (image_size, image_size) if isinstance(image_size, int) else image_size
    forks = sys.platform == "linux"  # elsewhere, forking beside system libraries is not safe
    sizes_hw = [make_letterbox(record.image_hw, input_hw).resized_hw for record in dataset.records]
    cache = PictureCache(sizes_hw, cache_mib if forks else cache_mib // max(1, workers))
    order = EpochOrder(len(dataset), batch, seed)
    batches: DataLoader[Sample] = DataLoader(
        AugmentedPictures(dataset, input_hw, augment, seed, cache),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if forks and workers else None,
        persistent_workers=workers > 0,
    )
    return TrainLoader(order, batches)


class EpochOrder:
    """The order of one epoch, batch by batch; stays in the main process, so persistent workers need no news."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self._count = count
        self._batch = min(batch, count)
        self._seed = seed
        self.epoch = 0
        self.mosaic = True

    def __len__(self) -> int:
        return self._count // self._batch

    def __iter__(self) -> Iterator[list[PictureKey]]:
        shuffled = np.random.default_rng([self._seed, self.epoch]).permutation(self._count).tolist()
        keys = [PictureKey(self.epoch, index, self.mosaic) for index in shuffled]
        for start in range(0, len(self) * self._batch, self._batch):
            yield keys[start : start + self._batch]


class AugmentedPictures(TorchDataset[Sample]):
    """A data set by `PictureKey`: letterboxed, or augmented, to `input_hw`."""

    def __init__(
        self,
        dataset: Dataset,
        input_hw: tuple[int, int],
        augment: AugmentConfig | None,
        seed: int,
        cache: PictureCache,
    ) -> None:
        self._dataset = dataset
        self._input_hw = input_hw
        self._augment = augment
        self._seed = seed
        self._cache = cache

    def __getitem__(self, key: PictureKey) -> Sample:
        """One sample of exactly `input_hw`.

        Raises:
            DataError: no picture of the data set can be read.
        """
        if self._augment is None:
            return self._letterboxed(key.picture)
        rng = np.random.default_rng([self._seed, key.epoch, key.picture])
        sample = self._placed(key, rng, self._augment)
        return _change_colours_and_flip(sample, rng, self._augment)

    def _placed(self, key: PictureKey, rng: np.random.Generator, config: AugmentConfig) -> Sample:
        limits = AffineRange(config.degrees, config.translate, config.scale, config.shear)
        if not key.mosaic or rng.random() >= config.mosaic:
            return affine(self._resized(key.picture), rng, output_hw=self._input_hw, limits=limits)
        sample = self._mosaic(key.picture, rng, limits)
        if rng.random() < config.mixup:
            other = self._mosaic(int(rng.integers(len(self._dataset))), rng, limits)
            sample = mixup(sample, other, rng)
        return sample

    def _mosaic(self, index: int, rng: np.random.Generator, limits: AffineRange) -> Sample:
        first, *others = (self._resized(i) for i in (index, *rng.integers(len(self._dataset), size=3).tolist()))
        tiles = others.copy()
        tiles.insert(int(rng.integers(4)), first)
        composed = mosaic(tiles, rng, output_hw=self._input_hw, limits=limits)
        return replace(composed, image_id=first.image_id)

    def _letterboxed(self, index: int) -> Sample:
        sample = self._resized(index)
        height, width = sample.image.shape[:2]
        letterbox = make_letterbox((height, width), self._input_hw)
        image = letterbox_image(sample.image, letterbox)
        return replace(sample, image=image, boxes_xyxy=letterbox.apply(sample.boxes_xyxy))

    def _resized(self, index: int) -> Sample:
        """The picture as it stands on the letterbox canvas, without the padding; the next one if it is unreadable."""
        count = len(self._dataset)
        for candidate in range(index, index + count):
            image = self._read(candidate % count)
            if image is not None:
                return self._with_boxes(candidate % count, image)
        raise DataError("no picture can be read", where=f"{self._dataset.name} ({self._dataset.split})")

    def _read(self, index: int) -> Image | None:
        image = self._cache.find(index)
        if image is not None or self._cache.is_broken(index):
            return image
        try:
            sample = self._dataset[index]
        except ImageError as error:
            if self._cache.mark_broken(index):
                _LOG.warning("%s; another picture takes its place", error)
            return None
        record = self._dataset.records[index]
        image = resize_image(sample.image, make_letterbox(record.image_hw, self._input_hw).resized_hw)
        self._cache.store(index, image)
        return image

    def _with_boxes(self, index: int, image: Image) -> Sample:
        record = self._dataset.records[index]
        factor_xy = np.divide(image.shape[1::-1], record.image_hw[::-1]).astype(np.float32)
        boxes_xyxy = record.boxes_xyxy * np.concatenate([factor_xy, factor_xy])
        return Sample(image, boxes_xyxy, record.class_ids, record.image_id)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size -> one batch."""
    height, width = samples[0].image.shape[:2]
    images = torch.empty((len(samples), 3, height, width), dtype=torch.uint8)
    for planes, sample in zip(images.numpy(), samples, strict=True):
        for plane, channel in zip(planes, reversed(cv2.split(sample.image)), strict=True):
            plane[:] = channel
    targets = [
        np.column_stack([np.full(len(sample.class_ids), i), sample.class_ids, sample.boxes_xyxy]).astype(np.float32)
        for i, sample in enumerate(samples)
    ]
    return Batch(images, torch.from_numpy(np.concatenate(targets)), [sample.image_id for sample in samples])


def _change_colours_and_flip(sample: Sample, rng: np.random.Generator, config: AugmentConfig) -> Sample:
    if config.hsv_h or config.hsv_s or config.hsv_v:
        sample = jitter_hsv(sample, rng, hue=config.hsv_h, saturation=config.hsv_s, value=config.hsv_v)
    mirrored, turned = rng.random(2) < (config.flip_lr, config.flip_ud)
    if mirrored:
        sample = flip_left_right(sample)
    return flip_up_down(sample) if turned else sample


def _check_augment(config: AugmentConfig) -> None:
    for name, value in vars(config).items():
        largest = _LARGEST.get(name, 1.0)
        if not 0 <= value <= largest:
            raise UsageError(f"augment.{name} is {value}", hint=f"It must be in [0, {largest:g}]")


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # a process per core already; the parent's thread pool does not survive a fork
