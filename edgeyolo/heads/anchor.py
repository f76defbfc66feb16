"""Anchor heads (YOLOv2 to v5, YOLOv7, PP-YOLO); the formulas are those of `spec.model.AnchorDecode`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from edgeyolo.heads._head import Array, Candidates, Maths, Predictions, RawHead, Tail
from edgeyolo.heads._logits import log_sigmoid, log_softmax, logit_of_log, maths_of
from edgeyolo.heads._scores import all_cells_xy, cells_xy, check_numbers, logit, select_scores, sigmoid, softmax
from edgeyolo.spec.detections import Float32, Int64
from edgeyolo.spec.model import AnchorDecode
from edgeyolo.spec.tensor import output_names

_NO_BOX = 5  # channels of an anchor before its classes: tx, ty, tw, th, objectness
_LARGEST_SIDE = 1_000_000
_LARGEST_REACH = 10.0
_MOST_LOG_SIZE = 16.0  # of a side, in anchors: far from what float32 cannot hold
_USUAL_REACH = 2.0


def anchor_boxes(values: Array, places: Array, size: str, maths: Maths, sigmoid: Callable[[Array], Array]) -> Array:
    """Boxes (..., 4) xyxy in input pixels.

    Args:
        values: (..., 4) tx, ty, tw, th.
        places: (..., 6), as `AnchorHead.make_places` gives them.
        size: as `AnchorDecode.size`.
        maths: the module numpy or torch.
        sigmoid: of its arrays.
    """
    cells_xy, stride, anchors_wh, reach = places[..., :2], places[..., 2:3], places[..., 3:5], places[..., 5:]
    centres_xy = (reach * (sigmoid(values[..., :2]) - 0.5) + 0.5 + cells_xy) * stride
    if size == "exp":
        grown = maths.exp(maths.clip(values[..., 2:4], None, _MOST_LOG_SIZE))
    else:
        grown = (2.0 * sigmoid(values[..., 2:4])) ** 2
    halves_wh = 0.5 * grown * anchors_wh
    return maths.concatenate((centres_xy - halves_wh, centres_xy + halves_wh), axis=-1)


class AnchorHead(RawHead):
    """One map (anchors x (5 + K), h, w) per level, or x (6 + K); its box values are tx, ty, tw, th."""

    reads = AnchorDecode

    def __init__(self, spec: AnchorDecode) -> None:
        super().__init__(spec)
        self.anchors_wh = spec.anchors_wh
        self.size = spec.size
        self.reach = spec.reach or (_USUAL_REACH,) * len(spec.strides)
        self.iou_power = spec.iou_power
        self._is_softmax = spec.classes == "softmax"
        self._levels = [np.asarray(level, np.float32) for level in spec.anchors_wh]  # each (anchors, 2)

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        assert self.anchors_wh is not None
        yield "anchors_wh", len(self.anchors_wh) == len(self.strides) and all(self.anchors_wh)
        sides = [side for level in self.anchors_wh for anchor in level for side in anchor]
        yield "anchors_wh", all(0 < side <= _LARGEST_SIDE for side in sides)
        yield (
            "reach",
            len(self.reach) == len(self.strides) and all(1 <= reach <= _LARGEST_REACH for reach in self.reach),
        )
        yield "iou_power", 0 <= self.iou_power < 1

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return output_names(len(self.strides))

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        grids = zip(self._levels, self.grids_hw(image_hw), strict=True)
        channels = _NO_BOX + num_classes + (1 if self.iou_power else 0)
        return [(len(anchors) * channels, *grid_hw) for anchors, grid_hw in grids]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `BoxHead.decode`."""
        found = [self._decode_level(raw, level, score_threshold, multi_label) for level, raw in enumerate(maps)]
        boxes_xyxy, scores, class_ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return boxes_xyxy, scores, class_ids

    def predictions(self, maps: Sequence[Array]) -> list[Predictions]:
        """See `RawHead.predictions`: anchor by anchor within a level."""
        levels = []
        for raw, anchors in zip(maps, self._levels, strict=True):
            overlap, main = self.split_overlap(raw, len(anchors))
            rows, maths = _by_prediction(main, len(anchors)), maths_of(raw)
            objectness, classes = rows[..., 4], rows[..., _NO_BOX:]
            if overlap is not None:
                judged = _by_prediction(overlap, len(anchors))[..., 0]
                logs = log_sigmoid(objectness, maths), log_sigmoid(judged, maths)
                objectness = logit_of_log((1 - self.iou_power) * logs[0] + self.iou_power * logs[1], maths)
            if self._is_softmax:
                classes = logit_of_log(log_softmax(classes, maths), maths)
            levels.append(Predictions(objectness, classes, rows[..., :4]))
        return levels

    def split_overlap(self, raw: Array, anchors: int) -> tuple[Array | None, Array]:
        """A map (B, anchors x (6 + K), h, w) -> logits of overlaps (B, anchors, h, w), and the rest; None for none."""
        return (raw[:, :anchors], raw[:, anchors:]) if self.iou_power else (None, raw)

    def make_places(self, image_hw: tuple[int, int]) -> Float32:
        """(N, 6): column, row, stride, anchor width and height, reach."""
        places = []
        for level, grid_hw in enumerate(self.grids_hw(image_hw)):
            anchors = len(self._levels[level])
            cells, anchor = (
                np.tile(all_cells_xy(grid_hw), (anchors, 1)),
                np.repeat(np.arange(anchors), math.prod(grid_hw)),
            )
            places.append(self._places(level, cells, anchor))
        return np.concatenate(places)

    def _places(self, level: int, cells_xy: Float32, anchor: Int64) -> Float32:
        """(P, 6), as `make_places`, of cells (P, 2) and anchors (P,) of one level."""
        stride, reach = np.full((len(anchor), 1), self.strides[level]), np.full((len(anchor), 1), self.reach[level])
        return np.concatenate((cells_xy, stride, self._levels[level][anchor], reach), axis=1, dtype=np.float32)

    def boxes_xyxy(self, values: Array, places: Array, maths: Maths) -> Array:
        """See `RawHead.boxes_xyxy`."""
        return anchor_boxes(values, places, self.size, maths, maths.sigmoid)

    def append_rows(
        self, tail: Tail, maps: Sequence[str], *, num_classes: int, image_hw: tuple[int, int]
    ) -> tuple[str, str]:
        """See `MapsHead.append_rows`."""
        levels, overlaps, channels = [], [], _NO_BOX + num_classes
        for name, anchors, (height, width) in zip(maps, self._levels, self.grids_hw(image_hw), strict=True):
            count, cells, main = len(anchors), height * width, name
            if self.iou_power:
                overlap, main = tail.split(name, count, count * channels, axis=1)
                overlaps.append(tail.add("Reshape", overlap, tail.shape(0, count * cells, 1)))
            by_anchor = tail.add("Reshape", main, tail.shape(0, count, channels, cells))
            by_cell = tail.add("Transpose", by_anchor, perm=[0, 1, 3, 2])
            levels.append(tail.add("Reshape", by_cell, tail.shape(0, count * cells, channels)))
        rows = tail.add("Concat", *levels, axis=1)
        xy, wh, objectness, classes = tail.split(rows, 2, 2, 1, num_classes, axis=2)
        sure = tail.add("Sigmoid", objectness)
        if self.iou_power:
            overlap = tail.add("Sigmoid", tail.add("Concat", *overlaps, axis=1))
            powers = tail.constant(1 - self.iou_power), tail.constant(self.iou_power)
            sure = tail.add("Mul", tail.add("Pow", sure, powers[0]), tail.add("Pow", overlap, powers[1]))
        shares = tail.add("Softmax", classes, axis=2) if self._is_softmax else tail.add("Sigmoid", classes)
        boxes_xyxy = self._append_boxes(tail, xy, wh, image_hw)
        return boxes_xyxy, tail.add("Transpose", tail.add("Mul", sure, shares), perm=[0, 2, 1])

    def _append_boxes(self, tail: Tail, xy: str, wh: str, image_hw: tuple[int, int]) -> str:
        cells_xy, strides, anchors_wh, reach = np.split(self.make_places(image_hw)[None], (2, 3, 5), axis=2)
        moved = tail.add("Mul", tail.add("Sigmoid", xy), tail.constant(reach))
        centre = tail.add(
            "Mul", tail.add("Add", moved, tail.constant(cells_xy + 0.5 - reach / 2)), tail.constant(strides)
        )
        if self.size == "exp":
            grown, share = tail.add("Exp", tail.add("Min", wh, tail.constant(_MOST_LOG_SIZE))), 0.5
        else:
            sides = tail.add("Sigmoid", wh)
            grown, share = tail.add("Mul", sides, sides), 2.0
        half_wh = tail.add("Mul", grown, tail.constant(share * anchors_wh))
        return tail.add("Concat", tail.add("Sub", centre, half_wh), tail.add("Add", centre, half_wh), axis=2)

    def _decode_level(self, raw: Float32, level: int, score_threshold: float, multi_label: bool) -> Candidates:
        """One map (C, h, w). No score is over its power of the objectness: that alone sorts out most cells."""
        count, (_, height, width) = len(self._levels[level]), raw.shape
        overlaps, main = self.split_overlap(raw[None], count)
        by_anchor = main[0].reshape(count, -1, height * width)  # (anchors, 5 + K, h * w)
        least = logit(score_threshold ** (1 / (1 - self.iou_power)))
        anchor, cell = np.nonzero(~(by_anchor[:, 4] < least))  # NaN stays, to be reported
        rows = by_anchor[anchor, :, cell]  # (N, 5 + K)
        check_numbers(rows)
        sure, classes = sigmoid(rows[:, 4:5]), rows[:, _NO_BOX:]
        if overlaps is not None:
            overlap = overlaps.reshape(count, height * width)[anchor, cell, None]
            check_numbers(overlap)
            sure = sure ** np.float32(1 - self.iou_power) * sigmoid(overlap) ** np.float32(self.iou_power)
        scores = sure * (softmax(classes) if self._is_softmax else sigmoid(classes))
        row, class_ids, scores = select_scores(scores, score_threshold, multi_label)
        places = self._places(level, cells_xy(cell[row], width), anchor[row])
        return anchor_boxes(rows[row, :4], places, self.size, np, sigmoid), scores, class_ids


def _by_prediction(raw: Array, anchors: int) -> Array:
    """(B, anchors x C, h, w) -> (B, N, C), anchor by anchor."""
    cells = raw.shape[2] * raw.shape[3]
    by_cell = raw.reshape(len(raw), anchors, raw.shape[1] // anchors, cells).swapaxes(2, 3)
    return by_cell.reshape(len(raw), anchors * cells, raw.shape[1] // anchors)


HEAD = AnchorHead
