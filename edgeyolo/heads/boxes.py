"""Boxes and scores that a network gives decoded, every one of them; the formulas are those of `BoxesDecode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeyolo.geometry.boxes import xyxy_from_cxcywh
from edgeyolo.heads._head import Candidates, MapsHead, Tail
from edgeyolo.heads._scores import check_numbers, select_scores
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import BoxesDecode
from edgeyolo.spec.tensor import output_names

_MOST_ROWS = 1_000_000


class BoxesHead(MapsHead):
    """One output (4 + 1 + K, N): box, objectness if there is one, scores of the classes."""

    reads = BoxesDecode

    def __init__(self, spec: BoxesDecode) -> None:
        super().__init__(spec)
        self.objectness = spec.objectness
        self._rows = spec.rows
        self._is_corners = spec.box == "xyxy"

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        yield "rows", 0 < self._rows <= _MOST_ROWS

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return output_names(1)

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        return [(4 + self.objectness + num_classes, self._rows)]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `BoxHead.decode`. No score is over the objectness, nor over the best class."""
        values = maps[0]
        classes = values[4 + self.objectness :]
        surest = values[4] if self.objectness else classes.max(axis=0)
        kept = np.flatnonzero(~(surest < score_threshold))  # NaN stays, to be reported
        scores, boxes = classes[:, kept].T, values[:4, kept].T  # (N, K), (N, 4)
        if self.objectness:
            scores = scores * surest[kept, None]
        check_numbers(scores)
        check_numbers(boxes)
        row, class_ids, scores = select_scores(scores, score_threshold, multi_label)
        boxes_xyxy = boxes if self._is_corners else xyxy_from_cxcywh(boxes)
        return boxes_xyxy[row], scores, class_ids

    def count_rows(self, image_hw: tuple[int, int]) -> int:
        """See `MapsHead.count_rows`."""
        return self._rows

    def append_rows(
        self, tail: Tail, maps: Sequence[str], *, num_classes: int, image_hw: tuple[int, int]
    ) -> tuple[str, str]:
        """See `MapsHead.append_rows`."""
        sizes = (2, 2, 1, num_classes) if self.objectness else (2, 2, num_classes)
        first, second, *objectness, scores = tail.split(maps[0], *sizes, axis=1)
        if objectness:
            scores = tail.add("Mul", scores, objectness[0])
        if not self._is_corners:
            half = tail.add("Mul", second, tail.constant(0.5))
            first, second = tail.add("Sub", first, half), tail.add("Add", first, half)
        return tail.add("Transpose", tail.add("Concat", first, second, axis=1), perm=[0, 2, 1]), scores


HEAD = BoxesHead
