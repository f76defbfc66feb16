"""Boxes that the graph itself has decoded, as `spec.model.GraphDecode` describes them: they are only thresholded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeyolo.heads._head import BoxHead, Candidates
from edgeyolo.heads._scores import check_numbers
from edgeyolo.spec.detections import Float32
from edgeyolo.spec.model import GraphDecode
from edgeyolo.spec.tensor import ROW_NAMES

_MOST_CANDIDATES = 1_000_000


class GraphHead(BoxHead):
    """Rows boxes_xyxy (N, 4), scores (N,) falling, and class_ids (N,)."""

    reads = GraphDecode

    def __init__(self, spec: GraphDecode) -> None:
        super().__init__(spec)
        self._candidates = spec.candidates

    def list_checks(self) -> Iterator[tuple[str, bool]]:
        """See `Head.list_checks`."""
        yield "candidates", 0 < self._candidates <= _MOST_CANDIDATES

    def output_names(self) -> list[str]:
        """See `Head.output_names`."""
        return list(ROW_NAMES)

    def map_shapes(self, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
        """See `Head.map_shapes`."""
        return [(self._candidates, 4), (self._candidates,), (self._candidates,)]

    def decode(self, maps: Sequence[Float32], *, score_threshold: float, multi_label: bool = False) -> Candidates:
        """See `BoxHead.decode`; each row has its best class already."""
        boxes_xyxy, scores, class_ids = maps
        check_numbers(scores)
        row = np.flatnonzero(scores >= score_threshold)
        check_numbers(boxes_xyxy[row])
        return boxes_xyxy[row], scores[row], class_ids[row].astype(np.int64)


HEAD = GraphHead
