"""Augmentations that put several pictures into one."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edgeyolo.data.geometric import AffineRange, Matrix, crop_boxes, random_affine, translation, warp_boxes, warp_onto
from edgeyolo.data.sample import Sample
from edgeyolo.spec.detections import Float32

_CENTRE_RANGE = 0.5  # of the output's sides, either way
_MIXUP_BETA = 8.0


def affine(
    sample: Sample,
    rng: np.random.Generator,
    *,
    output_hw: tuple[int, int],
    limits: AffineRange,
    canvas_hw: tuple[int, int] | None = None,
    fill: int = 114,
) -> Sample:
    """Move one picture, its middle in the middle of the output, by a random affine map.

    Args:
        output_hw: of the new picture, pixels.
        canvas_hw: draw what fills `output_hw` at this size; None for that size itself.
        fill: grey where there is no picture.
    """
    height, width = sample.image.shape[:2]
    placed = random_affine(rng, output_hw, limits) @ translation(-width / 2, -height / 2)
    return _compose([sample], _stretched([placed], output_hw, canvas_hw), canvas_hw or output_hw, fill)


def mosaic(
    samples: Sequence[Sample],
    rng: np.random.Generator,
    *,
    output_hw: tuple[int, int],
    limits: AffineRange,
    canvas_hw: tuple[int, int] | None = None,
    fill: int = 114,
) -> Sample:
    """Four pictures that meet in one random point, moved as a whole by one random affine map.

    Each is warped once, straight to its place in the output. The result carries the id of the first.
    Source: YOLOv4, arXiv 2004.10934, section 3.3.

    Args:
        samples: four, in the order left top, right top, left bottom, right bottom.
        output_hw: of the new picture, pixels.
        canvas_hw: draw what fills `output_hw` at this size; None for that size itself.
        fill: grey where there is no picture.
    """
    meeting_x, meeting_y = rng.uniform(-_CENTRE_RANGE, _CENTRE_RANGE, 2) * output_hw[::-1]
    moved = random_affine(rng, output_hw, limits)
    matrices = []
    for position, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        left = meeting_x - (width if position % 2 == 0 else 0)
        top = meeting_y - (height if position < 2 else 0)
        matrices.append(moved @ translation(left, top))
    return _compose(samples, _stretched(matrices, output_hw, canvas_hw), canvas_hw or output_hw, fill)


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Two pictures of one size laid over each other, about half and half, with the boxes of both.

    Source: mixup, arXiv 1710.09412, section 2; for detection, arXiv 1902.04103, section 3.1.
    """
    share = rng.beta(_MIXUP_BETA, _MIXUP_BETA)
    image = np.asarray(cv2.addWeighted(sample.image, share, other.image, 1 - share, 0), np.uint8)
    boxes_xyxy = np.concatenate([sample.boxes_xyxy, other.boxes_xyxy])
    return Sample(image, boxes_xyxy, np.concatenate([sample.class_ids, other.class_ids]), sample.image_id)


def _stretched(matrices: list[Matrix], output_hw: tuple[int, int], canvas_hw: tuple[int, int] | None) -> list[Matrix]:
    if canvas_hw is None or canvas_hw == output_hw:
        return matrices
    stretch = np.diag([canvas_hw[1] / output_hw[1], canvas_hw[0] / output_hw[0], 1.0])
    return [stretch @ matrix for matrix in matrices]


def _compose(samples: Sequence[Sample], matrices: Sequence[Matrix], output_hw: tuple[int, int], fill: int) -> Sample:
    canvas = np.full((*output_hw, 3), fill, np.uint8)
    moved: list[Float32] = []
    for sample, matrix in zip(samples, matrices, strict=True):
        warp_onto(canvas, sample.image, matrix)
        moved.append(warp_boxes(sample.boxes_xyxy, matrix))
    boxes_xyxy, is_kept = crop_boxes(np.concatenate(moved), output_hw)
    class_ids = np.concatenate([sample.class_ids for sample in samples])
    return Sample(canvas, boxes_xyxy[is_kept], class_ids[is_kept], samples[0].image_id)
