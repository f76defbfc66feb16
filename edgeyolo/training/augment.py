"""What a picture looks like when it is trained on: a pure function of the seed and its `PictureKey`."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec
import numpy as np
from torch.utils.data import Dataset as TorchDataset

from edgeyolo.data.copy_paste import copy_paste
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.geometric import AffineRange, flip_left_right, flip_up_down
from edgeyolo.data.mosaic import affine, mixup, mosaic
from edgeyolo.data.occlusion import cutmix, cutout
from edgeyolo.data.photometric import jitter_hsv
from edgeyolo.data.picture_cache import PictureCache
from edgeyolo.data.sample import Sample
from edgeyolo.geometry.letterbox import letterbox_image, resize_image
from edgeyolo.geometry.network_input import letterbox_for
from edgeyolo.spec.detections import Image
from edgeyolo.spec.errors import DataError, ImageError
from edgeyolo.spec.model import InputSpec
from edgeyolo.spec.training import AugmentConfig
from edgeyolo.training.order import PictureKey

_LOG = logging.getLogger(__name__)


class AugmentedPictures(TorchDataset[Sample]):
    """A data set by `PictureKey`: letterboxed, or augmented, for an input or for the size that the key asks for.

    Another size shows the same picture, larger or smaller: augmentation is the same, and so is what the cache holds.
    """

    def __init__(
        self,
        dataset: Dataset,
        input_spec: InputSpec,
        augment: AugmentConfig | None,
        seed: int,
        cache: PictureCache,
    ) -> None:
        self._dataset = dataset
        self._input_spec = input_spec
        self._input_hw = input_spec.image_hw
        self._augment = augment
        self._seed = seed
        self._cache = cache

    def __getitem__(self, key: PictureKey) -> Sample:
        """One sample of exactly the size asked for.

        Raises:
            DataError: no picture of the data set can be read.
        """
        if self._augment is None:
            return self._letterboxed(key.picture, key.input_hw or self._input_hw)
        rng = np.random.default_rng([self._seed, *key.entropy])
        sample = self._partly_hidden(self._placed(key, rng, self._augment), key, rng, self._augment)
        return _change_colours_and_flip(sample, rng, self._augment)

    def _placed(self, key: PictureKey, rng: np.random.Generator, config: AugmentConfig) -> Sample:
        limits = AffineRange(config.degrees, config.translate, config.scale, config.shear)
        if not key.mosaic or rng.random() >= config.mosaic:
            first = self._resized(key.picture)
            sample = affine(first, rng, output_hw=self._input_hw, limits=limits, canvas_hw=key.input_hw)
            return self._with_guests(sample, key, rng, config)
        sample = self._with_guests(self._mosaic(key, key.picture, rng, limits), key, rng, config)
        if rng.random() < config.mixup:
            other = self._mosaic(key, int(rng.integers(len(self._dataset))), rng, limits)
            sample = mixup(sample, other, rng)
        return sample

    def _with_guests(self, sample: Sample, key: PictureKey, rng: np.random.Generator, config: AugmentConfig) -> Sample:
        """With objects of another picture, if it is to have some; without copy-paste no random number is drawn."""
        if not (config.copy_paste and key.mosaic and rng.random() < config.copy_paste):
            return sample
        donor = self._resized(int(rng.integers(len(self._dataset))))
        return copy_paste(sample, donor, rng, zoom=sample.image.shape[0] / self._input_hw[0])

    def _partly_hidden(
        self, sample: Sample, key: PictureKey, rng: np.random.Generator, config: AugmentConfig
    ) -> Sample:
        """With a part of another picture, or grey, before it; without both no random number is drawn."""
        if config.cutmix and key.mosaic and rng.random() < config.cutmix:
            other = self._resized(int(rng.integers(len(self._dataset))))
            limits = AffineRange(config.degrees, config.translate, config.scale, config.shear)
            placed = affine(other, rng, output_hw=self._input_hw, limits=limits, canvas_hw=key.input_hw)
            sample = cutmix(sample, placed, rng)
        if config.cutout and rng.random() < config.cutout:
            sample = cutout(sample, rng, size=config.cutout_size)
        return sample

    def _mosaic(self, key: PictureKey, index: int, rng: np.random.Generator, limits: AffineRange) -> Sample:
        first, *others = (self._resized(i) for i in (index, *rng.integers(len(self._dataset), size=3).tolist()))
        tiles = others.copy()
        tiles.insert(int(rng.integers(4)), first)
        composed = mosaic(tiles, rng, output_hw=self._input_hw, limits=limits, canvas_hw=key.input_hw)
        return replace(composed, image_id=first.image_id)

    def _letterboxed(self, index: int, input_hw: tuple[int, int]) -> Sample:
        sample = self._resized(index)
        height, width = sample.image.shape[:2]
        letterbox = letterbox_for((height, width), msgspec.structs.replace(self._input_spec, image_hw=input_hw))
        image = letterbox_image(sample.image, letterbox, value=self._input_spec.letterbox_value)
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
        image = resize_image(sample.image, letterbox_for(record.image_hw, self._input_spec).resized_hw)
        self._cache.store(index, image)
        return image

    def _with_boxes(self, index: int, image: Image) -> Sample:
        record = self._dataset.records[index]
        factor_xy = np.divide(image.shape[1::-1], record.image_hw[::-1]).astype(np.float32)
        boxes_xyxy = record.boxes_xyxy * np.concatenate([factor_xy, factor_xy])
        return Sample(image, boxes_xyxy, record.class_ids, record.image_id)


def _change_colours_and_flip(sample: Sample, rng: np.random.Generator, config: AugmentConfig) -> Sample:
    if config.hsv_h or config.hsv_s or config.hsv_v:
        sample = jitter_hsv(sample, rng, hue=config.hsv_h, saturation=config.hsv_s, value=config.hsv_v)
    mirrored, turned = rng.random(2) < (config.flip_lr, config.flip_ud)
    if mirrored:
        sample = flip_left_right(sample)
    return flip_up_down(sample) if turned else sample
