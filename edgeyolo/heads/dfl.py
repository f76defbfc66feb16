"""Distribution heads (PP-YOLOE); the formulas are those of `spec.model.DflDecode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeyolo.heads._head import Array, Candidates, Maths, Predictions, RawHead, Tail
from edgeyolo.heads._scores import all_cells_xy, cells_xy, check_numbers, logit, select_scores, sigmoid
from edgeyolo.heads._sides import distance_boxes
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import DflDecode
from edgeyolo.spec.tensor import output_names

_MOST_BINS = 1024


def expected_values(logits: Array, values: Array, maths: Maths) -> Array:
    """Logits (..., bins, N) of N distributions -> the mean of each (..., N).

    Args:
        values: (bins,) float32, what the bins stand for.
        maths: the module numpy or torch.
    """
    weights = maths.exp(logits - maths.amax(logits, axis=-2, keepdims=True))
    return values @ weights / weights.sum(-2)


class DflHead(RawHead):
    """Per level class logits (K, h, w), then box logits (4 x bins, h, w), which are its box values."""

    reads = DflDecode

    def __init__(self, spec: DflDecode) -> None:
        super().__init__(spec)
        self.bins = spec.bins
        self.offset = spec.offset
        self._steps = np.arange(spec.bins, dtype=np.float32)

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        yield "bins", 0 < self.bins <= _MOST_BINS
        yield "offset", 0 <= self.offset <= 1

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return output_names(2 * len(self.strides))

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        return [(channels, *hw) for hw in self.grids_hw(image_hw) for channels in (num_classes, 4 * self.bins)]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `BoxHead.decode`."""
        levels = zip(maps[0::2], maps[1::2], self.strides, strict=True)
        found = [self._decode_level(*level, score_threshold, multi_label) for level in levels]
        boxes_xyxy, scores, class_ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return boxes_xyxy, scores, class_ids

    def predictions(self, maps: Sequence[Array]) -> list[Predictions]:
        """See `RawHead.predictions`."""
        by_cell = [raw.reshape(*raw.shape[:2], raw.shape[2] * raw.shape[3]).swapaxes(1, 2) for raw in maps]
        return [Predictions(None, classes, boxes) for classes, boxes in zip(by_cell[0::2], by_cell[1::2], strict=True)]

    def make_places(self, image_hw: tuple[int, int]) -> Float32:
        """(N, 3): column, row and stride."""
        grids = zip(self.strides, self.grids_hw(image_hw), strict=True)
        cells = [(stride, all_cells_xy(grid_hw)) for stride, grid_hw in grids]
        return np.concatenate([np.insert(level, 2, stride, axis=1) for stride, level in cells])

    def boxes_xyxy(self, values: Array, places: Array, maths: Maths) -> Array:
        """See `RawHead.boxes_xyxy`."""
        logits = values.reshape(*values.shape[:-1], 4, self.bins).swapaxes(-1, -2)
        steps = maths.arange(self.bins, dtype=values.dtype, device=values.device)
        distances = expected_values(logits, steps, maths)
        return distance_boxes(distances, places[..., :2], places[..., 2:], maths, offset=self.offset)

    def append_rows(
        self, tail: Tail, maps: Sequence[str], *, num_classes: int, image_hw: tuple[int, int]
    ) -> tuple[str, str]:
        """See `MapsHead.append_rows`."""
        logits, distances = [], []
        steps = tail.constant(self._steps.reshape(1, 1, -1, 1))
        for classes, boxes, (height, width) in zip(maps[0::2], maps[1::2], self.grids_hw(image_hw), strict=True):
            cells = height * width
            logits.append(tail.add("Reshape", classes, tail.shape(0, num_classes, cells)))
            by_side = tail.add("Reshape", boxes, tail.shape(0, 4, self.bins, cells))
            weighted = tail.add("Mul", tail.add("Softmax", by_side, axis=2), steps)
            distances.append(tail.add("ReduceSum", weighted, tail.shape(2), keepdims=0))
        sides = tail.add("Transpose", tail.add("Concat", *distances, axis=2), perm=[0, 2, 1])  # (B, N, 4)
        left_top, right_bottom = tail.split(sides, 2, 2, axis=2)
        cells_xy, strides = np.split(self.make_places(image_hw)[None], (2,), axis=2)
        point = tail.constant(cells_xy + self.offset)
        corners = tail.add("Concat", tail.add("Sub", point, left_top), tail.add("Add", point, right_bottom), axis=2)
        boxes_xyxy = tail.add("Mul", corners, tail.constant(strides))
        return boxes_xyxy, tail.add("Sigmoid", tail.add("Concat", *logits, axis=2))

    def _decode_level(
        self, class_logits: Float32, box_logits: Float32, stride: int, score_threshold: float, multi_label: bool
    ) -> Candidates:
        """Maps (K, h, w) and (4 x bins, h, w)."""
        num_classes, height, width = class_logits.shape
        by_class = class_logits.reshape(num_classes, height * width)
        cell = np.flatnonzero(~(by_class.max(axis=0) < logit(score_threshold)))  # NaN stays, to be reported
        logits = by_class[:, cell].T  # (N, K)
        distributions = box_logits.reshape(4, -1, height * width)[:, :, cell]  # (4, bins, N)
        check_numbers(logits)
        check_numbers(distributions)
        row, class_ids, scores = select_scores(sigmoid(logits), score_threshold, multi_label)
        distances = expected_values(distributions, self._steps, np).T  # (N, 4)
        boxes_xyxy = distance_boxes(distances, cells_xy(cell, width), np.float32(stride), np, offset=self.offset)
        return boxes_xyxy[row], scores, class_ids


HEAD = DflHead
