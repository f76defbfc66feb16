"""Heads with one box of four values for each cell (YOLOX, YOLOv6); the formulas are those of `PointDecode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeyolo.heads._head import Array, Candidates, Maths, Predictions, RawHead, Tail
from edgeyolo.heads._scores import all_cells_xy, cells_xy, check_numbers, logit, select_scores, sigmoid
from edgeyolo.heads._sides import distance_boxes
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import PointDecode
from edgeyolo.spec.tensor import output_names

_MOST_LOG_SIZE = 16.0  # of a side, in strides: beyond any picture, and far from what float32 cannot hold


def centre_boxes(values: Array, cells_xy: Array, strides: Array, maths: Maths) -> Array:
    """Boxes (..., 4) xyxy in input pixels.

    Args:
        values: (..., 4) tx, ty, tw, th.
        cells_xy: (..., 2) column and row.
        strides: (..., 1) input pixels.
        maths: the module numpy or torch.
    """
    centres_xy = values[..., :2] + cells_xy
    halves_wh = 0.5 * maths.exp(maths.clip(values[..., 2:], None, _MOST_LOG_SIZE))
    return maths.concatenate((centres_xy - halves_wh, centres_xy + halves_wh), axis=-1) * strides


class PointHead(RawHead):
    """Per level class logits (K, h, w), objectness (1, h, w) if there is one, box values (4, h, w)."""

    reads = PointDecode

    def __init__(self, spec: PointDecode) -> None:
        super().__init__(spec)
        self.objectness = spec.objectness
        self._boxes_xyxy = centre_boxes if spec.box == "centre" else distance_boxes
        self._is_centre = spec.box == "centre"

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        return iter(())

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return output_names((3 if self.objectness else 2) * len(self.strides))

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        channels = (num_classes, 1, 4) if self.objectness else (num_classes, 4)
        return [(count, *hw) for hw in self.grids_hw(image_hw) for count in channels]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `BoxHead.decode`."""
        levels = zip(self._levels(maps), self.strides, strict=True)
        found = [self._decode_level(*level, stride, score_threshold, multi_label) for level, stride in levels]
        boxes_xyxy, scores, class_ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return boxes_xyxy, scores, class_ids

    def predictions(self, maps: Sequence[Array]) -> list[Predictions]:
        """See `RawHead.predictions`."""

        def by_cell(raw: Array) -> Array:
            return raw.reshape(*raw.shape[:2], raw.shape[2] * raw.shape[3]).swapaxes(1, 2)

        return [
            Predictions(None if objectness is None else by_cell(objectness)[..., 0], by_cell(classes), by_cell(boxes))
            for classes, objectness, boxes in self._levels(maps)
        ]

    def make_places(self, image_hw: tuple[int, int]) -> Float32:
        """(N, 3): column, row and stride."""
        grids = zip(self.strides, self.grids_hw(image_hw), strict=True)
        return np.concatenate([np.insert(all_cells_xy(grid_hw), 2, stride, axis=1) for stride, grid_hw in grids])

    def boxes_xyxy(self, values: Array, places: Array, maths: Maths) -> Array:
        """See `RawHead.boxes_xyxy`."""
        return self._boxes_xyxy(values, places[..., :2], places[..., 2:], maths)

    def append_rows(
        self, tail: Tail, maps: Sequence[str], *, num_classes: int, image_hw: tuple[int, int]
    ) -> tuple[str, str]:
        """See `MapsHead.append_rows`."""
        by_kind: list[list[str]] = []
        for kind, channels in zip(zip(*self._levels(maps), strict=True), (num_classes, 1, 4), strict=True):
            flat = [
                tail.add("Reshape", name, tail.shape(0, channels, height * width))
                for name, (height, width) in zip(kind, self.grids_hw(image_hw), strict=True)
                if name is not None
            ]
            by_kind.append(flat)
        classes, objectness, boxes = (tail.add("Concat", *flat, axis=2) if flat else "" for flat in by_kind)
        scores = tail.add("Sigmoid", classes)  # (B, K, N)
        if objectness:
            scores = tail.add("Mul", scores, tail.add("Sigmoid", objectness))
        values = tail.add("Transpose", boxes, perm=[0, 2, 1])  # (B, N, 4)
        return self._append_boxes(tail, values, image_hw), scores

    def _append_boxes(self, tail: Tail, values: str, image_hw: tuple[int, int]) -> str:
        cells_xy, strides = np.split(self.make_places(image_hw)[None], (2,), axis=2)
        first, second = tail.split(values, 2, 2, axis=2)
        if self._is_centre:
            centre = tail.add("Add", first, tail.constant(cells_xy))
            size = tail.add("Exp", tail.add("Min", second, tail.constant(_MOST_LOG_SIZE)))
            half = tail.add("Mul", size, tail.constant(0.5))
            corners = tail.add("Sub", centre, half), tail.add("Add", centre, half)
        else:
            point = tail.constant(cells_xy + 0.5)
            corners = tail.add("Sub", point, first), tail.add("Add", point, second)
        return tail.add("Mul", tail.add("Concat", *corners, axis=2), tail.constant(strides))

    def _levels(self, maps: Sequence[Array]) -> list[tuple[Array, Array, Array]]:
        """Class, objectness (None if there is none) and box map of each level."""
        if self.objectness:
            return list(zip(maps[0::3], maps[1::3], maps[2::3], strict=True))
        return [(classes, None, boxes) for classes, boxes in zip(maps[0::2], maps[1::2], strict=True)]

    def _decode_level(
        self,
        class_logits: Float32,
        objectness: Float32 | None,
        boxes: Float32,
        stride: int,
        score_threshold: float,
        multi_label: bool,
    ) -> Candidates:
        """Maps (K, h, w), (1, h, w) and (4, h, w). No score is over the objectness, nor over the best class."""
        num_classes, height, width = class_logits.shape
        by_class = class_logits.reshape(num_classes, height * width)
        surest = by_class.max(axis=0) if objectness is None else objectness.reshape(height * width)
        cell = np.flatnonzero(~(surest < logit(score_threshold)))  # NaN stays, to be reported
        logits, values = by_class[:, cell].T, boxes.reshape(4, height * width)[:, cell].T  # (N, K), (N, 4)
        check_numbers(logits)
        check_numbers(values)
        scores = sigmoid(logits)
        if objectness is not None:
            check_numbers(surest[cell])
            scores = scores * sigmoid(surest[cell, None])
        row, class_ids, scores = select_scores(scores, score_threshold, multi_label)
        found_xyxy = self._boxes_xyxy(values, cells_xy(cell, width), np.float32(stride), np)
        return found_xyxy[row], scores, class_ids


HEAD = PointHead
