"""Which detection continues which track: costs, and the cheapest one-to-one assignment below a limit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeyolo.spec.detections import Int64
from edgeyolo.spec.errors import MissingPackageError
from edgeyolo.spec.tracks import Float64


def overlaps(first_xyxy: Float64, second_xyxy: Float64, *, pixel_boxes: bool = False) -> Float64:
    """Intersection over union of every pair, (N, 4) and (M, 4) -> (N, M) float64 in [0, 1].

    Args:
        pixel_boxes: a box has all pixels from x1 to x2, the last one too: it is x2 - x1 + 1 wide.
    """
    one = 1.0 if pixel_boxes else 0.0
    first, second = first_xyxy.T[:, :, None], second_xyxy.T[:, None, :]
    width = np.minimum(first[2], second[2])
    width -= np.maximum(first[0], second[0])
    height = np.minimum(first[3], second[3])
    height -= np.maximum(first[1], second[1])
    if pixel_boxes:
        width += one
        height += one
    shared = np.maximum(width, 0, out=width)
    shared *= np.maximum(height, 0, out=height)
    areas = [(boxes[2] - boxes[0] + one) * (boxes[3] - boxes[1] + one) for boxes in (first, second)]
    union = areas[0] + areas[1] - shared
    iou: Float64 = shared / np.where(union > 0, union, 1)
    return iou


def cosine_distances(first: Float64, second: Float64) -> Float64:
    """(N, D) and (M, D) of length 1 -> (N, M) in [0, 2]."""
    return np.clip(1 - first @ second.T, 0, 2)


def normalised(vectors: Float64) -> Float64:
    """(N, D) -> (N, D) of length 1; a vector of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def assign(costs: Float64, limit: float) -> Int64:
    """The one-to-one pairs of rows and columns that together stay furthest below `limit`.

    Leaving a row and a column alone costs `limit`, half for each. A pair is therefore worth `limit` less its cost, and
    none that costs `limit` or more is made.

    Args:
        costs: (N, M), finite.

    Returns:
        (P, 2) rows and columns, by row.

    Raises:
        MissingPackageError: as in `load_solver`.
    """
    worth = np.maximum(limit - costs, 0)
    possible = worth > 0
    rows, columns = np.nonzero(possible)
    if not len(rows):
        return np.zeros((0, 2), np.int64)
    # A row and a column that have only each other need no search.
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    pairs = np.stack([rows, columns], axis=1)
    if alone.all():
        return pairs
    some_rows, some_columns = np.unique(rows[~alone]), np.unique(columns[~alone])
    rows, columns = most_worth(worth[np.ix_(some_rows, some_columns)])
    searched = np.stack([some_rows[rows], some_columns[columns]], axis=1)
    pairs = np.concatenate([pairs[alone], searched[possible[searched[:, 0], searched[:, 1]]]])
    return pairs[np.argsort(pairs[:, 0])]


def most_worth(worth: Float64) -> tuple[Int64, Int64]:
    """Rows and columns of the assignment of (N, M) that is worth most; errors as in `load_solver`."""
    rows, columns = load_solver()(worth, maximize=True)
    return rows, columns


def load_solver() -> Callable[..., tuple[Int64, Int64]]:
    """scipy's `linear_sum_assignment`, which takes a moment to import.

    Raises:
        MissingPackageError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError:
        raise MissingPackageError("scipy", needed_for="tracking", install="pip install 'edgeyolo[track]'") from None
    solver: Callable[..., tuple[Int64, Int64]] = linear_sum_assignment
    return solver
