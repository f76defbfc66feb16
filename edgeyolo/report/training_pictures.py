"""Pictures of a training: batches as the model saw them, and what it found beside what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeyolo.data.records import Record
from edgeyolo.evaluation.confusion import pair_up
from edgeyolo.report.pairs import GAP, Half, draw_objects, draw_pair, resize_by
from edgeyolo.spec.detections import Detections, Float32, Image, Int64

_TILE = 300  # longest side of a training picture, pixels


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
        """How many of each, for people."""
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
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def draw_truth_and_found(image: Image, record: Record, detections: Detections, class_names: Sequence[str]) -> Image:
    """Left the objects, right the detections; a black frame is around what is wrong.

    A frame on the left: missed, or taken for another class; on the right: nothing there, or something else.
    """
    pairing = pair_up(detections, record)
    of_detections, of_objects = pairing.pairs.T
    is_wrong = detections.class_ids[of_detections] != record.class_ids[of_objects]
    truth = Half(
        f"truth: {len(record.class_ids)} objects",
        framed_xyxy=record.boxes_xyxy[np.concatenate([pairing.missed, of_objects[is_wrong]])],
        objects=(record.boxes_xyxy, record.class_ids),
    )
    found = Half(
        f"found: {len(detections)}",
        framed_xyxy=detections.boxes_xyxy[np.concatenate([pairing.extra, of_detections[is_wrong]])],
        detections=detections,
    )
    return draw_pair(image, truth, found, class_names)


def _tile(image: Image, boxes_xyxy: Float32, class_ids: Int64) -> Image:
    factor = _TILE / max(image.shape[:2])
    tile = resize_by(image, factor)
    draw_objects(tile, boxes_xyxy * np.float32(factor), class_ids)
    return tile
