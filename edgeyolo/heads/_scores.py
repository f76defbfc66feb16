"""Scores and cells: what every kind of head does with them."""

from __future__ import annotations

import math

import numpy as np

from edgeyolo.spec.detections import Float32, Int64
from edgeyolo.spec.errors import BackendError


def select_scores(scores: Float32, threshold: float, multi_label: bool) -> tuple[Int64, Int64, Float32]:
    """(N, K) scores -> row, class id and score of each candidate that reaches the threshold."""
    if multi_label:
        row, class_ids = np.nonzero(scores >= threshold)
    else:
        best = scores.argmax(axis=1)
        row = np.flatnonzero(scores[np.arange(len(scores)), best] >= threshold)
        class_ids = best[row]
    return row.astype(np.int64), class_ids.astype(np.int64), scores[row, class_ids]


def cells_xy(cell: Int64, width: int) -> Float32:
    """(N,) flat cell indices -> (N, 2) column and row."""
    return np.stack((cell % width, cell // width), axis=1).astype(np.float32)


def all_cells_xy(grid_hw: tuple[int, int]) -> Float32:
    """(h * w, 2) column and row of each cell, in rows from the top left."""
    return cells_xy(np.arange(grid_hw[0] * grid_hw[1]), grid_hw[1])


def sigmoid(logits: Float32) -> Float32:
    """The logistic function of any numbers, without overflow."""
    return np.float32(1.0) / (np.float32(1.0) + np.exp(-np.clip(logits, -80.0, 80.0)))


def softmax(logits: Float32) -> Float32:
    """Shares (N, K) of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    shares: Float32 = powers / powers.sum(axis=1, keepdims=True)
    return shares


def logit(score: float) -> np.float32:
    """The logit below which the sigmoid is under `score`, one rounding step lower to be on the safe side."""
    if score <= 0.0:
        return np.float32(-np.inf)
    if score >= 1.0:
        score = 1.0 - 2.0**-24  # from here on a float32 sigmoid rounds to 1
    return np.float32(np.nextafter(np.float32(math.log(score / (1.0 - score))), np.float32(-np.inf)))


def check_numbers(values: Float32) -> None:
    """Raise BackendError if one of them is NaN."""
    if np.isnan(values).any():
        raise BackendError(
            "the network gave values that are not numbers (NaN)",
            hint="Check the artefact on the host with `edgeyolo evaluate`; fp16 overflow is the usual cause",
        )
