"""Which boxes of two lists are the same object."""

from __future__ import annotations

import numpy as np

from edgeyolo.spec.detections import Float32, Int64


def pair_boxes(iou: Float32, threshold: float) -> Int64:
    """(N, M) overlaps -> (P, 2) row and column, from the best overlap down to `threshold`, each row and column once."""
    close = np.argwhere(iou >= threshold)
    order = np.argsort(-iou[close[:, 0], close[:, 1]], kind="stable")
    free_rows, free_columns = (np.ones(count, bool) for count in iou.shape)
    pairs = []
    for row, column in close[order].tolist():
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    return np.array(pairs, np.int64).reshape(-1, 2)
