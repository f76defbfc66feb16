"""Batches to train on: shuffled and augmented as a pure function of seed, epoch and picture."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.letterboxed import letterboxed_sizes_hw
from edgeyolo.data.person_crops import PersonCrops
from edgeyolo.data.picture_cache import PictureCache
from edgeyolo.data.sample import Sample
from edgeyolo.spec.errors import DataError, TrainingError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.settings import check_settings
from edgeyolo.spec.training import AugmentConfig, KeypointsConfig, TrainConfig
from edgeyolo.training.augment import AugmentedPictures
from edgeyolo.training.augment_people import AugmentedPeople
from edgeyolo.training.order import EpochOrder

_SIGNS_OF_DEATH = ("exited unexpectedly", "is killed by signal")  # in torch's messages
_NOTICE_SECONDS = 0.2
_GRACE_SECONDS = 10  # that a worker lives on when it is told to end


class Batch(NamedTuple):
    """Pictures and their objects, in the loader's own memory.

    Attributes:
        images: (B, 3, H, W) uint8, in the colour order of the input.
        targets: (N, 6) float32: image index in the batch, class id, x1, y1, x2, y2 in input pixels.
        image_ids: B ids; of a mosaic, its first picture's.
    """

    images: Tensor
    targets: Tensor
    image_ids: list[str]


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

    def close(self) -> None:
        """End the workers."""
        iterator = getattr(self._batches, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()

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
    order: EpochOrder,
    *,
    input_spec: InputSpec,
    augment: AugmentConfig | KeypointsConfig | None,
    workers: int = 0,
    cache_mib: int = 2048,
    cache_folder: Path | None = None,
) -> TrainLoader:
    """Make a loader that gives the batches of an order.

    What it gives does not depend on the number of workers, on what came before, or on the cache. A picture that
    turns out to be unreadable is logged once and replaced by the next one.

    Args:
        order: which pictures make which batch; its seed is that of the augmentations too.
        input_spec: how pictures are letterboxed, and the order of their colours.
        augment: of pictures, or of persons, as the data set is; None for plain letterboxed pictures.
        workers: processes; 0 loads in this one.
        cache_mib: memory for decoded pictures, shared by all workers.
        cache_folder: keep them on disk there instead.

    Raises:
        DataError: the data set is empty. UsageError: an augmentation value out of its range.
    """
    if not len(dataset):
        raise DataError("no pictures to train on", where=f"{dataset.name} ({dataset.split})")
    if augment is not None:
        check_settings(augment, section="keypoints." if isinstance(augment, KeypointsConfig) else "augment.")
    forks = sys.platform == "linux"  # elsewhere, forking beside system libraries is not safe
    if workers and not forks:
        dataset.records.share()
    pictures: TorchDataset[Sample]
    if isinstance(dataset, PersonCrops):
        assert not isinstance(augment, AugmentConfig)
        pictures = AugmentedPeople(dataset, augment, order.seed)
    else:
        assert not isinstance(augment, KeypointsConfig)
        sizes_hw = letterboxed_sizes_hw(dataset.records, input_spec.image_hw)
        cache = PictureCache(sizes_hw, cache_mib if forks else cache_mib // max(1, workers), cache_folder)
        pictures = AugmentedPictures(dataset, input_spec, augment, order.seed, cache)
    batches: DataLoader[Sample] = DataLoader(
        pictures,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=functools.partial(collate, colour_order=input_spec.colour_order),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if forks and workers else None,
        persistent_workers=workers > 0,
    )
    return TrainLoader(order, batches)


def augmentation_of(config: TrainConfig, dataset: Dataset) -> AugmentConfig | KeypointsConfig:
    """What a run does to the pictures of a data set, or to its persons."""
    return config.keypoints if isinstance(dataset, PersonCrops) else config.augment


def own_share(batch: Batch, share: int) -> Batch:
    """The batch without the picture that stands in where a process has none."""
    if len(batch.images) <= share:
        return batch
    return Batch(batch.images[:share], batch.targets[batch.targets[:, 0] < share], batch.image_ids[:share])


def collate(samples: Sequence[Sample], *, colour_order: Literal["rgb", "bgr"] = "rgb") -> Batch:
    """Samples of one size -> one batch."""
    height, width = samples[0].image.shape[:2]
    images = torch.empty((len(samples), 3, height, width), dtype=torch.uint8)
    for planes, sample in zip(images.numpy(), samples, strict=True):
        channels = cv2.split(sample.image)
        for plane, channel in zip(planes, channels if colour_order == "bgr" else channels[::-1], strict=True):
            plane[:] = channel
    targets = [
        np.column_stack([np.full(len(sample.class_ids), i), sample.class_ids, sample.boxes_xyxy]).astype(np.float32)
        for i, sample in enumerate(samples)
    ]
    return Batch(images, torch.from_numpy(np.concatenate(targets)), [sample.image_id for sample in samples])


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # a process per core already; the parent's thread pool does not survive a fork
    if sys.platform != "win32":  # signals often go to the whole group, and the parent has a step to finish
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
