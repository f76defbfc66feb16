"""Pictures to calibrate on: clean, letterboxed and normalised as the runtime does it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeyolo.data.dataset import Dataset
from edgeyolo.data.image_file import read_bytes
from edgeyolo.data.thumbnail import Thumbnails, make_thumbnail
from edgeyolo.geometry.network_input import make_input
from edgeyolo.spec.errors import ImageError, QuantizationError
from edgeyolo.spec.model import InputSpec

logger = logging.getLogger(__name__)


class CalibrationPictures:
    """Some pictures of a data set as network inputs, each (1, 3, H, W) float32; read anew at each iteration.

    Args:
        indices: positions in `dataset`.
        thumbnails: (N, 16, 16, 3), of each.
    """

    def __init__(self, dataset: Dataset, input_spec: InputSpec, indices: list[int], thumbnails: Thumbnails) -> None:
        self.dataset = dataset
        self.indices = indices
        self.thumbnails = thumbnails
        self._input_spec = input_spec

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Tensor]:
        for index in self.indices:
            images, _ = make_input(self.dataset[index].image, self._input_spec)
            yield torch.from_numpy(images)

    def share(self, rank: int, size: int) -> CalibrationPictures:
        """Those of one process of several; all of them together have each picture once."""
        own = slice(rank, None, size)
        return CalibrationPictures(self.dataset, self._input_spec, self.indices[own], self.thumbnails[own])

    def hashes(self) -> dict[str, str]:
        """Image id -> sha256 of the picture as it is stored, in the order used."""
        records = [self.dataset.records[index] for index in self.indices]
        return {record.image_id: hashlib.sha256(read_bytes(record.image_path)).hexdigest() for record in records}


def calibration_pictures(
    dataset: Dataset, input_spec: InputSpec, count: int, seed: int = 0
) -> tuple[CalibrationPictures, dict[str, str]]:
    """Choose `count` pictures at random; the same data set and seed give the same pictures in the same order.

    One that cannot be read is logged, and the next one takes its place.

    Returns:
        The pictures, and image id -> sha256 of each file.

    Raises:
        QuantizationError: the data set has no pictures that can be read, or `count` is below 1.
    """
    where = f"{dataset.name} ({dataset.split})"
    if count < 1:
        raise QuantizationError(f"{count} pictures asked for", where=where, hint="Set count to at least 1")
    if len(dataset) == 0:
        raise QuantizationError("no pictures to calibrate on", where=where, hint="Give a split that has pictures")
    by_id = sorted(range(len(dataset)), key=dataset.records.image_ids.__getitem__)
    order = [by_id[position] for position in np.random.default_rng(seed).permutation(len(by_id))]
    seen = ((index, thumbnail) for index in order if (thumbnail := _look_at(dataset, index)) is not None)
    chosen = dict(islice(seen, count))
    if not chosen:
        raise QuantizationError("no picture can be read", where=where, hint="Look at the files of this split")
    if len(chosen) < count:
        logger.warning("%s: %d calibration pictures were asked for, there are %d", where, count, len(chosen))
    pictures = CalibrationPictures(dataset, input_spec, list(chosen), np.stack(list(chosen.values())))
    return pictures, pictures.hashes()


def _look_at(dataset: Dataset, index: int) -> npt.NDArray[np.uint8] | None:
    """A thumbnail, None of what cannot be read."""
    try:
        return make_thumbnail(dataset[index].image)
    except ImageError as error:
        logger.warning("%s; another picture takes its place", error)
        return None
