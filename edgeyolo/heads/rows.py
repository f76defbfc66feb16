"""Rows that the graph itself has decoded for another program, as `spec.model.RowsDecode` describes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeyolo.geometry.boxes import xyxy_from_cxcywh
from edgeyolo.heads._head import BoxHead, Candidates
from edgeyolo.heads._scores import check_numbers, select_scores
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import RowsDecode
from edgeyolo.spec.tensor import ROWS_NAME

_MOST_PREDICTIONS = 1_000_000


class RowsHead(BoxHead):
    """(4 + K, N) with the score of every class, or (N, 6) with the best class's."""

    reads = RowsDecode

    def __init__(self, spec: RowsDecode) -> None:
        super().__init__(spec)
        self._has_all_classes = spec.layout == "class-scores"
        self._predictions = spec.predictions

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        yield "predictions", 0 < self._predictions <= _MOST_PREDICTIONS

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return [ROWS_NAME]

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        return [(4 + num_classes, self._predictions) if self._has_all_classes else (self._predictions, 6)]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `BoxHead.decode`; `multi_label` is without effect where the graph has chosen the class."""
        (rows,) = maps
        if self._has_all_classes:
            check_numbers(rows[4:])
            kept, class_ids, scores = select_scores(rows[4:].T, score_threshold, multi_label)
            boxes_xyxy = xyxy_from_cxcywh(rows[:4, kept].T)
        else:
            check_numbers(rows[:, 4:])
            kept = np.flatnonzero(rows[:, 4] >= score_threshold)
            boxes_xyxy, scores, class_ids = rows[kept, :4], rows[kept, 4], rows[kept, 5].astype(np.int64)
        check_numbers(boxes_xyxy)
        return boxes_xyxy, scores, class_ids


HEAD = RowsHead
