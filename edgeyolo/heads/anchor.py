"""Anchor heads (YOLOv5, YOLOv7); the formulas are those of `spec.model.AnchorDecode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeyolo.heads._head import Array, Candidates, Maths, Predictions, RawHead, Tail
from edgeyolo.heads._scores import all_cells_xy, cells_xy, check_numbers, logit, select_scores, sigmoid
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import AnchorDecode
from edgeyolo.spec.tensor import output_names

_NO_BOX = 5  # channels of an anchor before its classes: tx, ty, tw, th, objectness
_LARGEST_SIDE = 1_000_000


def anchor_boxes(shares: Array, cells_xy: Array, strides: Array, anchors_wh: Array, maths: Maths) -> Array:
    """Boxes (..., 4) xyxy in input pixels.

    Args:
        shares: (..., 4 or more), the sigmoids of tx, ty, tw and th first.
        cells_xy: (..., 2) column and row.
        strides: (..., 1) input pixels.
        anchors_wh: (..., 2) input pixels.
        maths: the module numpy or torch.
    """
    centres_xy = (2.0 * shares[..., :2] - 0.5 + cells_xy) * strides
    halves_wh = 0.5 * (2.0 * shares[..., 2:4]) ** 2 * anchors_wh
    return maths.concatenate((centres_xy - halves_wh, centres_xy + halves_wh), axis=-1)


class AnchorHead(RawHead):
    """One map (anchors x (5 + K), h, w) per level; its box values are tx, ty, tw, th."""

    reads = AnchorDecode

    def __init__(self, spec: AnchorDecode) -> None:
        super().__init__(spec)
        self.anchors_wh = spec.anchors_wh
        self._levels = [np.asarray(level, np.float32) for level in spec.anchors_wh]  # each (anchors, 2)

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        assert self.anchors_wh is not None
        yield "anchors_wh", len(self.anchors_wh) == len(self.strides) and all(self.anchors_wh)
        sides = [side for level in self.anchors_wh for anchor in level for side in anchor]
        yield "anchors_wh", all(0 < side <= _LARGEST_SIDE for side in sides)

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return output_names(len(self.strides))

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        grids = zip(self._levels, self.grids_hw(image_hw), strict=True)
        return [(len(anchors) * (_NO_BOX + num_classes), *grid_hw) for anchors, grid_hw in grids]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `Head.decode`."""
        levels = zip(maps, self._levels, self.strides, strict=True)
        found = [_decode_level(*level, score_threshold, multi_label) for level in levels]
        boxes_xyxy, scores, class_ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return boxes_xyxy, scores, class_ids

    def predictions(self, maps: Sequence[Array]) -> list[Predictions]:
        """See `RawHead.predictions`: anchor by anchor within a level."""
        levels = []
        for raw, anchors in zip(maps, self._levels, strict=True):
            count, cells = len(anchors), raw.shape[2] * raw.shape[3]
            by_cell = raw.reshape(len(raw), count, raw.shape[1] // count, cells).swapaxes(2, 3)
            rows = by_cell.reshape(len(raw), count * cells, raw.shape[1] // count)  # (B, N, 5 + K)
            levels.append(Predictions(rows[..., 4], rows[..., _NO_BOX:], rows[..., :4]))
        return levels

    def make_places(self, image_hw: tuple[int, int]) -> Float32:
        """(N, 5): column, row, stride, anchor width and height."""
        places = []
        for anchors, stride, grid_hw in zip(self._levels, self.strides, self.grids_hw(image_hw), strict=True):
            cells = np.tile(all_cells_xy(grid_hw), (len(anchors), 1))
            sizes = np.repeat(anchors, grid_hw[0] * grid_hw[1], axis=0)
            places.append(np.concatenate((cells, np.full((len(cells), 1), stride), sizes), axis=1, dtype=np.float32))
        return np.concatenate(places)

    def boxes_xyxy(self, values: Array, places: Array, maths: Maths) -> Array:
        """See `RawHead.boxes_xyxy`."""
        return anchor_boxes(maths.sigmoid(values), places[..., :2], places[..., 2:3], places[..., 3:], maths)

    def append_rows(
        self, tail: Tail, maps: Sequence[str], *, num_classes: int, image_hw: tuple[int, int]
    ) -> tuple[str, str]:
        """See `MapsHead.append_rows`."""
        levels = []
        for name, anchors, (height, width) in zip(maps, self._levels, self.grids_hw(image_hw), strict=True):
            count, cells = len(anchors), height * width
            by_anchor = tail.add("Reshape", name, tail.shape(0, count, _NO_BOX + num_classes, cells))
            by_cell = tail.add("Transpose", by_anchor, perm=[0, 1, 3, 2])
            levels.append(tail.add("Reshape", by_cell, tail.shape(0, count * cells, _NO_BOX + num_classes)))
        rows = tail.add("Sigmoid", tail.add("Concat", *levels, axis=1))
        xy, wh, objectness, classes = tail.split(rows, 2, 2, 1, num_classes, axis=2)
        cells_xy, strides, anchors_wh = np.split(self.make_places(image_hw)[None], (2, 3), axis=2)
        in_cells = tail.add("Add", tail.add("Mul", xy, tail.constant(2.0)), tail.constant(cells_xy - 0.5))
        centre = tail.add("Mul", in_cells, tail.constant(strides))
        half_wh = tail.add("Mul", tail.add("Mul", wh, wh), tail.constant(2.0 * anchors_wh))
        boxes_xyxy = tail.add("Concat", tail.add("Sub", centre, half_wh), tail.add("Add", centre, half_wh), axis=2)
        return boxes_xyxy, tail.add("Transpose", tail.add("Mul", objectness, classes), perm=[0, 2, 1])


HEAD = AnchorHead


def _decode_level(
    raw: Float32, anchors_wh: Float32, stride: int, score_threshold: float, multi_label: bool
) -> Candidates:
    """One map (anchors x (5 + K), h, w). No score is over the objectness, so that alone sorts out most cells."""
    _, height, width = raw.shape
    by_anchor = raw.reshape(len(anchors_wh), -1, height * width)  # (anchors, 5 + K, h * w)
    anchor, cell = np.nonzero(~(by_anchor[:, 4] < logit(score_threshold)))  # NaN stays, to be reported
    rows = by_anchor[anchor, :, cell]  # (N, 5 + K)
    check_numbers(rows)
    rows = sigmoid(rows)
    row, class_ids, scores = select_scores(rows[:, 4:5] * rows[:, _NO_BOX:], score_threshold, multi_label)
    boxes_xyxy = anchor_boxes(rows[row], cells_xy(cell[row], width), stride, anchors_wh[anchor[row]], np)
    return boxes_xyxy, scores, class_ids
