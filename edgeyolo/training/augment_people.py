"""What a person looks like when its joints are trained on: a pure function of the seed and its `PictureKey`."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset as TorchDataset

from edgeyolo.data.person_crops import PersonCrops
from edgeyolo.data.sample import Sample
from edgeyolo.geometry.crop import Crop, crop_around
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError, ImageError
from edgeyolo.spec.joints import is_lower, mirrored_joints
from edgeyolo.spec.training import KeypointsConfig
from edgeyolo.training.order import PictureKey

_LOG = logging.getLogger(__name__)
_HALF_MARGIN = 1.5  # of a half body's crop, times the box of its joints
_LEAST_JOINTS = 3  # of a half body

Floats = npt.NDArray[np.float64]


class AugmentedPeople(TorchDataset[Sample]):
    """Persons by `PictureKey`: cut out as they are, or scaled, turned, mirrored and by halves.

    Source: arXiv 1902.09212, section 4.1; half bodies: arXiv 1901.00148, section 3.3.

    Args:
        config: None for persons as they are.
    """

    def __init__(self, people: PersonCrops, config: KeypointsConfig | None, seed: int) -> None:
        self._people = people
        self._config = config
        self._seed = seed
        self._mirrored = np.array(mirrored_joints(people.class_names))
        self._is_lower = np.array([is_lower(name) for name in people.class_names])

    def __getitem__(self, key: PictureKey) -> Sample:
        """One sample of exactly the size asked for; where a picture cannot be read, the next person's.

        Raises:
            DataError: no picture of the data set can be read.
        """
        row, image = self._read(key.picture)
        input_hw = key.input_hw or self._people.input_hw
        box_xyxy, joints = self._people.people.boxes_xyxy[row], self._people.people.joints[row]
        margin, config = self._people.margin, self._config
        rng = np.random.default_rng([self._seed, *key.entropy])
        if config is None:
            return self._sample(row, image, joints, crop_around(box_xyxy, input_hw, margin=margin))
        half = self._half_body(rng, joints) if rng.random() < config.half_body else None
        shown, margin = (box_xyxy, margin) if half is None else (half, _HALF_MARGIN)
        crop = crop_around(shown, input_hw, margin=margin)
        factor = float(np.clip(1 + config.scale * rng.standard_normal(), 1 - config.scale, 1 + config.scale))
        turn = float(np.clip(config.degrees * rng.standard_normal(), -2 * config.degrees, 2 * config.degrees))
        degrees = turn if rng.random() < config.turned else 0.0
        width, height = crop.size_wh
        crop = replace(crop, size_wh=(width * factor, height * factor), degrees=degrees)
        sample = self._sample(row, image, joints, crop)
        return self._mirror(sample) if rng.random() < config.flip_lr else sample

    def _half_body(self, rng: np.random.Generator, joints: Floats) -> Floats | None:
        """The box of the upper or the lower labelled joints; None where there are too few of either, or of all."""
        assert self._config is not None
        is_labelled = joints[:, 2] > 0
        if is_labelled.sum() < self._config.half_body_joints:
            return None
        halves = [joints[is_labelled & (self._is_lower == lower), :2] for lower in (False, True)]
        halves = [half for half in halves if len(half) >= _LEAST_JOINTS]
        if not halves:
            return None
        chosen = halves[int(rng.integers(len(halves)))]
        return np.concatenate([chosen.min(axis=0), chosen.max(axis=0)])

    def _sample(self, row: int, image: Image, joints: Floats, crop: Crop) -> Sample:
        """A crop with the joints that are labelled; those outside the crop stay, for the loss to leave out."""
        labelled = np.flatnonzero(joints[:, 2] > 0)
        points_xy = crop.apply(joints[labelled, :2])
        image_id = self._people.records.image_ids[row]
        return Sample(crop.cut(image), np.hstack([points_xy, points_xy]), labelled, image_id)

    def _mirror(self, sample: Sample) -> Sample:
        """Left becomes right; pixels are counted from their centres."""
        last = sample.image.shape[1] - 1
        points = sample.boxes_xyxy.copy()
        points[:, [0, 2]] = last - points[:, [0, 2]]
        image = np.ascontiguousarray(sample.image[:, ::-1])
        return replace(sample, image=image, boxes_xyxy=points, class_ids=self._mirrored[sample.class_ids])

    def _read(self, first: int) -> tuple[int, Image]:
        count = len(self._people)
        for row in range(first, first + count):
            try:
                return row % count, self._people.read_picture(row % count)
            except ImageError as error:
                _LOG.warning("%s; another person takes its place", error)
        raise DataError("no picture can be read", where=f"{self._people.name} ({self._people.split})")
