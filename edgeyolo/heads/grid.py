"""The grid of YOLOv1, whose maps are plain numbers; the formulas are those of `spec.model.GridDecode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeyolo.heads._head import Array, Candidates, Maths, Predictions, RawHead, Tail
from edgeyolo.heads._logits import logit_of_log, maths_of
from edgeyolo.heads._scores import all_cells_xy, cells_xy, check_numbers, select_scores
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import GridDecode
from edgeyolo.spec.tensor import output_names

_OF_BOX = 5  # channels of a box: x, y, w, h, confidence
_MOST_BOXES = 1024
_LARGEST_SIDE = 1e3  # root of a side's share of the picture: beyond any picture
_LEAST_SCORE = 1e-8  # 0 has no logit


def grid_boxes(values: Array, places: Array, maths: Maths) -> Array:
    """Boxes (..., 4) xyxy in input pixels.

    Args:
        values: (..., 4) x, y, w, h.
        places: (..., 5) column, row, stride, width and height of the input.
        maths: the module numpy or torch.
    """
    centres_xy = (values[..., :2] + places[..., :2]) * places[..., 2:3]
    halves_wh = 0.5 * maths.clip(values[..., 2:], -_LARGEST_SIDE, _LARGEST_SIDE) ** 2 * places[..., 3:]
    return maths.concatenate((centres_xy - halves_wh, centres_xy + halves_wh), axis=-1)


class GridHead(RawHead):
    """One map (boxes x 5 + K, h, w) per level; its box values are x, y, w, h."""

    reads = GridDecode

    def __init__(self, spec: GridDecode) -> None:
        super().__init__(spec)
        self.boxes = spec.boxes

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        yield "boxes", 0 < self.boxes <= _MOST_BOXES

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return output_names(len(self.strides))

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        return [(_OF_BOX * self.boxes + num_classes, *grid_hw) for grid_hw in self.grids_hw(image_hw)]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `BoxHead.decode`."""
        levels = zip(maps, self.strides, strict=True)
        found = [self._decode_level(raw, stride, score_threshold, multi_label) for raw, stride in levels]
        boxes_xyxy, scores, class_ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return boxes_xyxy, scores, class_ids

    def predictions(self, maps: Sequence[Array]) -> list[Predictions]:
        """See `RawHead.predictions`: box by box within a level, scores turned to logits."""
        levels = []
        for raw in maps:
            maths, cells = maths_of(raw), raw.shape[2] * raw.shape[3]
            of_boxes = raw[:, : _OF_BOX * self.boxes].reshape(len(raw), self.boxes, _OF_BOX, cells).swapaxes(2, 3)
            boxes = of_boxes.reshape(len(raw), self.boxes * cells, _OF_BOX)  # (B, N, 5)
            classes = raw[:, _OF_BOX * self.boxes :].reshape(len(raw), -1, cells).swapaxes(1, 2)
            scores = (boxes[..., 4], maths.concatenate([classes] * self.boxes, axis=1))
            sure, shares = (logit_of_log(maths.log(maths.clip(score, _LEAST_SCORE, 1.0)), maths) for score in scores)
            levels.append(Predictions(sure, shares, boxes[..., :4]))
        return levels

    def make_places(self, image_hw: tuple[int, int]) -> Float32:
        """(N, 5): column, row, stride, width and height of the input."""
        places = []
        for stride, grid_hw in zip(self.strides, self.grids_hw(image_hw), strict=True):
            cells = np.tile(all_cells_xy(grid_hw), (self.boxes, 1))
            same = np.broadcast_to(np.array((stride, image_hw[1], image_hw[0]), np.float32), (len(cells), 3))
            places.append(np.concatenate((cells, same), axis=1))
        return np.concatenate(places)

    def boxes_xyxy(self, values: Array, places: Array, maths: Maths) -> Array:
        """See `RawHead.boxes_xyxy`."""
        return grid_boxes(values, places, maths)

    def append_rows(
        self, tail: Tail, maps: Sequence[str], *, num_classes: int, image_hw: tuple[int, int]
    ) -> tuple[str, str]:
        """See `MapsHead.append_rows`."""
        rows, shares = [], []
        for raw, (height, width) in zip(maps, self.grids_hw(image_hw), strict=True):
            cells = height * width
            *boxes, classes = tail.split(raw, *(_OF_BOX,) * self.boxes, num_classes, axis=1)
            rows += [tail.add("Reshape", box, tail.shape(0, _OF_BOX, cells)) for box in boxes]
            shares += [tail.add("Reshape", classes, tail.shape(0, num_classes, cells))] * self.boxes
        first, second, sure = tail.split(tail.add("Concat", *rows, axis=2), 2, 2, 1, axis=1)
        clipped = (
            tail.add("Clip", score, tail.constant(0.0), tail.constant(1.0))
            for score in (sure, tail.add("Concat", *shares, axis=2))
        )
        cells_xy, strides, image_wh = np.split(self.make_places(image_hw).T[None], (2, 3), axis=1)
        centre = tail.add("Mul", tail.add("Add", first, tail.constant(cells_xy)), tail.constant(strides))
        root = tail.add("Clip", second, tail.constant(-_LARGEST_SIDE), tail.constant(_LARGEST_SIDE))
        half = tail.add("Mul", tail.add("Mul", root, root), tail.constant(0.5 * image_wh))
        corners = tail.add("Concat", tail.add("Sub", centre, half), tail.add("Add", centre, half), axis=1)
        return tail.add("Transpose", corners, perm=[0, 2, 1]), tail.add("Mul", *clipped)

    def _decode_level(self, raw: Float32, stride: int, score_threshold: float, multi_label: bool) -> Candidates:
        """One map. No score is over the confidence, so that alone sorts out most boxes."""
        _, height, width = raw.shape
        flat = raw.reshape(len(raw), height * width)
        by_box = flat[: _OF_BOX * self.boxes].reshape(self.boxes, _OF_BOX, height * width)
        box, cell = np.nonzero(~(np.maximum(by_box[:, 4], 0) < score_threshold))  # NaN stays, to be reported
        rows, classes = by_box[box, :, cell], flat[_OF_BOX * self.boxes :, cell].T  # (N, 5), (N, K)
        check_numbers(rows)
        check_numbers(classes)
        scores = np.clip(rows[:, 4:], 0, 1) * np.clip(classes, 0, 1)
        row, class_ids, scores = select_scores(scores, score_threshold, multi_label)
        places = np.empty((len(row), 5), np.float32)
        places[:, :2], places[:, 2:] = cells_xy(cell[row], width), (stride, width * stride, height * stride)
        return grid_boxes(rows[row, :4], places, np), scores, class_ids


HEAD = GridHead
