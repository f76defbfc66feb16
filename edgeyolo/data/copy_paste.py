"""Objects of one picture, pasted into another where there is room."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from edgeyolo.data.sample import Sample
from edgeyolo.geometry.boxes import box_area
from edgeyolo.spec.detections import Float32, Image

MOST_COVERED = 0.2  # of an object, by another one
_CHANCE = 0.5  # of each of the donor's objects
_TRIES = 8  # places for each
_SCALE = (0.7, 1.4)
_LEAST_SIDE_PX = 4
_FEATHER_PX = 2  # over which an edge fades into its new ground


def copy_paste(sample: Sample, donor: Sample, rng: np.random.Generator, *, zoom: float = 1.0) -> Sample:
    """Paste some of the donor's objects, larger or smaller and half of them mirrored, at random places.

    A place is taken if no object there, nor the new one, is covered by more than a fifth; what finds no place in a few
    tries is left out. Edges fade, because a detector would learn hard ones. The donor is left as it is.

    Source: Dwibedi et al., arXiv 1708.01642, section 4; Ghiasi et al., arXiv 2012.07177, with boxes in place of masks.

    Args:
        zoom: picture pixels per donor pixel.
    """
    canvas = sample.image.copy()
    boxes, classes = [sample.boxes_xyxy], [sample.class_ids]
    for index in np.flatnonzero(rng.random(len(donor.boxes_xyxy)) < _CHANCE):
        patch = _cut(donor, int(index), rng, zoom)
        place = None if patch is None else _find_place(patch.shape[:2], canvas.shape[:2], np.concatenate(boxes), rng)
        if patch is None or place is None:
            continue
        _blend(canvas, patch, left=int(place[0]), top=int(place[1]))
        boxes.append(place[None])
        classes.append(donor.class_ids[index : index + 1])
    return replace(sample, image=canvas, boxes_xyxy=np.concatenate(boxes), class_ids=np.concatenate(classes))


def _cut(donor: Sample, index: int, rng: np.random.Generator, zoom: float) -> Image | None:
    """An object's box as a picture of its own, resized; None where it is too small."""
    factor, is_mirrored = zoom * rng.uniform(*_SCALE), rng.random() < 0.5
    x1, y1, x2, y2 = donor.boxes_xyxy[index].round().astype(int).tolist()
    patch = donor.image[max(0, y1) : y2, max(0, x1) : x2]
    width, height = round(patch.shape[1] * factor), round(patch.shape[0] * factor)
    if min(width, height) < _LEAST_SIDE_PX or patch.size == 0:
        return None
    if is_mirrored:
        patch = patch[:, ::-1]
    return np.asarray(cv2.resize(patch, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _find_place(
    patch_hw: tuple[int, ...], image_hw: tuple[int, ...], boxes_xyxy: Float32, rng: np.random.Generator
) -> Float32 | None:
    """(4,) whole pixels inside the picture, where nothing is covered too much; None where there is none."""
    room_y, room_x = image_hw[0] - patch_hw[0], image_hw[1] - patch_hw[1]
    if min(room_y, room_x) < 0:
        return None
    for _ in range(_TRIES):
        left, top = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
        place = np.array([left, top, left + patch_hw[1], top + patch_hw[0]], np.float32)
        shared = np.minimum(boxes_xyxy[:, 2:], place[2:]) - np.maximum(boxes_xyxy[:, :2], place[:2])
        covered = shared.clip(min=0).prod(1)
        if (covered <= MOST_COVERED * np.minimum(box_area(boxes_xyxy), box_area(place[None]))).all():
            return place
    return None


def _blend(canvas: Image, patch: Image, *, left: int, top: int) -> None:
    """Draw the patch in place; its outermost pixels let the ground through."""
    height, width = patch.shape[:2]
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5 for n in (height, width))
    share = np.minimum(np.minimum.outer(rows, columns) / _FEATHER_PX, 1.0)[..., None].astype(np.float32)
    ground = canvas[top : top + height, left : left + width]
    ground[:] = np.rint(share * patch + (1 - share) * ground)
