"""Pictures of a training: batches as the model saw them, and what it found beside what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edgeyolo.data.dataset import Record
from edgeyolo.data.sample import Sample
from edgeyolo.evaluation.confusion import pair_up
from edgeyolo.runtime.draw import class_colour, draw_detections
from edgeyolo.spec.detections import Detections, Float32, Image, Int64

_TILE = 300  # longest side of a training picture, pixels
_HALF = 640  # longest side of each half of a pair
_STRIP = 26
_GAP = 6
_WHITE, _DARK = (255, 255, 255), (20, 20, 20)


@dataclass(frozen=True)
class Outcome:
    """How a detector did on one picture, at IoU 0.5 and some score.

    Attributes:
        index: of the picture in its split.
        right: objects found and named rightly; confused: found and taken for another class.
        missed: objects not found; extra: detections of nothing.
    """

    index: int
    right: int
    confused: int
    missed: int
    extra: int

    @property
    def mistakes(self) -> int:
        """How many things are wrong."""
        return self.confused + self.missed + self.extra

    @property
    def caption(self) -> str:
        """In words."""
        return (
            f"{self.right + self.confused + self.missed} objects: {self.right} right, {self.confused} taken for "
            f"another class, {self.missed} missed; {self.extra} detections of nothing"
        )


def judge(index: int, detections: Detections, record: Record) -> Outcome:
    """Count what is right and wrong on one picture."""
    pairing = pair_up(detections, record)
    is_right = detections.class_ids[pairing.pairs[:, 0]] == record.class_ids[pairing.pairs[:, 1]]
    right = int(is_right.sum())
    return Outcome(index, right, len(is_right) - right, len(pairing.missed), len(pairing.extra))


def choose_pictures(outcomes: Sequence[Outcome], *, worst: int, others: int) -> list[Outcome]:
    """The pictures with the most mistakes, then some spread evenly over the rest of the split."""
    chosen = [o for o in sorted(outcomes, key=lambda o: -o.mistakes)[:worst] if o.mistakes]
    taken = {o.index for o in chosen}
    rest = [o for o in outcomes if o.index not in taken]
    step = max(1, len(rest) / max(1, others))
    return chosen + [rest[int(i * step)] for i in range(min(others, len(rest)))]


def draw_batches(images: Sequence[Image], targets: Sequence[tuple[Float32, Int64]], *, columns: int = 4) -> Image:
    """Training pictures in rows, with their objects in the colours of their classes.

    Args:
        images: (H, W, 3) uint8 BGR, at least one.
        targets: of each, boxes_xyxy (M, 4) in pixels and class ids (M,).
    """
    tiles = [_tile(image, *objects) for image, objects in zip(images, targets, strict=True)]
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + _GAP), i % columns * (width + _GAP)
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def draw_truth_and_found(
    sample: Sample, record: Record, detections: Detections, class_names: Sequence[str], *, scale: float | None = None
) -> Image:
    """Left the objects, right the detections, both in the colours of their classes; a black frame around what is wrong.

    A frame on the left: missed, or taken for another class; on the right: nothing there, or something else.
    """
    factor = min(1.0, _HALF / max(sample.image.shape[:2])) if scale is None else scale
    image = _resized(sample.image, factor)
    found = Detections(detections.boxes_xyxy * np.float32(factor), detections.scores, detections.class_ids)
    truth_xyxy = record.boxes_xyxy * np.float32(factor)
    pairing = pair_up(detections, record)
    of_detections, of_objects = pairing.pairs.T
    is_wrong = detections.class_ids[of_detections] != record.class_ids[of_objects]
    left = _framed(image, truth_xyxy[np.concatenate([pairing.missed, of_objects[is_wrong]])])
    _draw_boxes(left, truth_xyxy, record.class_ids)
    right = _framed(image, found.boxes_xyxy[np.concatenate([pairing.extra, of_detections[is_wrong]])])
    right = draw_detections(right, found, class_names)
    headings = (f"truth: {len(record.class_ids)} objects", f"found: {len(found)}")
    halves = [
        np.vstack([_strip(text, half.shape[1]), half]) for text, half in zip(headings, (left, right), strict=True)
    ]
    gap = np.full((halves[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.hstack([halves[0], gap, halves[1]])


def _tile(image: Image, boxes_xyxy: Float32, class_ids: Int64) -> Image:
    factor = _TILE / max(image.shape[:2])
    tile = _resized(image, factor)
    _draw_boxes(tile, boxes_xyxy * np.float32(factor), class_ids)
    return tile


def _resized(image: Image, factor: float) -> Image:
    size_wh = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size_wh, interpolation=how), np.uint8)


def _draw_boxes(image: Image, boxes_xyxy: Float32, class_ids: Int64) -> None:
    """Lines in the colour of each class, in place."""
    for (left, top, right, bottom), class_id in zip(boxes_xyxy.round().astype(int).tolist(), class_ids, strict=True):
        cv2.rectangle(image, (left, top), (right - 1, bottom - 1), class_colour(int(class_id)), 2)


def _framed(image: Image, boxes_xyxy: Float32) -> Image:
    """A copy with a black line on white around each box."""
    framed = image.copy()
    for colour, px in ((_WHITE, 7), (_DARK, 4)):
        for left, top, right, bottom in boxes_xyxy.round().astype(int).tolist():
            cv2.rectangle(framed, (left - 2, top - 2), (right + 1, bottom + 1), colour, px)
    return framed


def _strip(text: str, width: int) -> Image:
    strip = np.full((_STRIP, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _DARK, 1, cv2.LINE_AA)
    return strip
