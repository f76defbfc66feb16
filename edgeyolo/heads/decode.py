"""Raw head maps to boxes: scores are thresholded first, as logits, and only the survivors are decoded.

Both heads are read level by level; a level gives (box_xyxy, score, class id) rows in input pixels. Where the graph
itself has decoded them, its rows are only thresholded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from edgeyolo.spec.detections import Float32, Int64
from edgeyolo.spec.errors import BackendError
from edgeyolo.spec.model import AnchorDecode, Decode, GraphDecode

Candidates: TypeAlias = tuple[Float32, Float32, Int64]

_NO_BOX = 5  # channels of an anchor before its classes: tx, ty, tw, th, objectness


def map_shapes(decode: Decode, num_classes: int, image_hw: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shape without the batch, (C, h, w) for a raw map, of every output that `decode` reads, in its order."""
    if isinstance(decode, GraphDecode):
        return [(decode.candidates, 4), (decode.candidates,), (decode.candidates,)]
    shapes: list[tuple[int, ...]] = []
    for level, stride in enumerate(decode.strides):
        grid_hw = (image_hw[0] // stride, image_hw[1] // stride)
        if isinstance(decode, AnchorDecode):
            shapes.append((len(decode.anchors_wh[level]) * (_NO_BOX + num_classes), *grid_hw))
        else:
            shapes += [(num_classes, *grid_hw), (4 * decode.bins, *grid_hw)]
    return shapes


def decode(
    maps: Sequence[Float32],
    decode: Decode,
    *,
    num_classes: int,
    score_threshold: float,
    multi_label: bool = False,
) -> Candidates:
    """Turn the raw maps of one picture into candidate boxes, before NMS.

    Args:
        maps: (C, h, w) each, in the order that `decode` states; the rows of `GraphDecode`.
        score_threshold: in [0, 1]; candidates with a lower score are left out.
        multi_label: False gives each prediction its best class only; True gives one candidate for every class that
            reaches the threshold, as mAP is measured. Without effect on `GraphDecode`.

    Returns:
        boxes_xyxy (N, 4) float32 input pixels, scores (N,) float32, class_ids (N,) int64, in no particular order.

    Raises:
        BackendError: a map holds NaN: the network or its engine is broken.
    """
    if isinstance(decode, GraphDecode):
        return _threshold_rows(*maps, score_threshold=score_threshold)
    per_map = 1 if isinstance(decode, AnchorDecode) else 2
    levels: list[Candidates] = []
    for level, stride in enumerate(decode.strides):
        level_maps = maps[level * per_map : (level + 1) * per_map]
        if isinstance(decode, AnchorDecode):
            anchors_wh = np.asarray(decode.anchors_wh[level], np.float32)
            levels.append(_decode_anchor_level(level_maps[0], anchors_wh, stride, score_threshold, multi_label))
        else:
            levels.append(_decode_dfl_level(level_maps[0], level_maps[1], stride, score_threshold, multi_label))
    boxes_xyxy, scores, class_ids = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    return boxes_xyxy, scores, class_ids


def _threshold_rows(boxes_xyxy: Float32, scores: Float32, class_ids: Float32, *, score_threshold: float) -> Candidates:
    """Rows that the graph decoded: (N, 4), (N,), (N,), scores falling."""
    _check_numbers(scores)
    row = np.flatnonzero(scores >= score_threshold)
    _check_numbers(boxes_xyxy[row])
    return boxes_xyxy[row], scores[row], class_ids[row].astype(np.int64)


def _decode_anchor_level(
    raw: Float32, anchors_wh: Float32, stride: int, score_threshold: float, multi_label: bool
) -> Candidates:
    """One map (anchors x (5 + K), h, w). No score is over the objectness, so that alone sorts out most cells."""
    _, height, width = raw.shape
    by_anchor = raw.reshape(len(anchors_wh), -1, height * width)  # (anchors, 5 + K, h * w)
    anchor, cell = np.nonzero(~(by_anchor[:, 4] < _logit(score_threshold)))  # NaN stays, to be reported
    rows = by_anchor[anchor, :, cell]  # (N, 5 + K)
    _check_numbers(rows)
    rows = _sigmoid(rows)
    row, class_ids, scores = _select(rows[:, 4:5] * rows[:, _NO_BOX:], score_threshold, multi_label)
    rows, anchor, cell = rows[row], anchor[row], cell[row]
    centre = (2.0 * rows[:, :2] - 0.5 + _cell_xy(cell, width)) * stride
    half_wh = 0.5 * (2.0 * rows[:, 2:4]) ** 2 * anchors_wh[anchor]
    return np.concatenate((centre - half_wh, centre + half_wh), axis=1, dtype=np.float32), scores, class_ids


def _decode_dfl_level(
    class_logits: Float32, box_logits: Float32, stride: int, score_threshold: float, multi_label: bool
) -> Candidates:
    """Maps (K, h, w) and (4 x bins, h, w)."""
    num_classes, height, width = class_logits.shape
    by_class = class_logits.reshape(num_classes, height * width)
    cell = np.flatnonzero(~(by_class.max(axis=0) < _logit(score_threshold)))  # NaN stays, to be reported
    logits = by_class[:, cell].T  # (N, K)
    distributions = box_logits.reshape(4, -1, height * width)[:, :, cell]  # (4, bins, N)
    _check_numbers(logits)
    _check_numbers(distributions)
    row, class_ids, scores = _select(_sigmoid(logits), score_threshold, multi_label)
    weights = np.exp(distributions - distributions.max(axis=1, keepdims=True))
    bins = np.arange(weights.shape[1], dtype=np.float32)
    distances = np.einsum("sbn,b->ns", weights, bins) / weights.sum(axis=1).T  # (N, 4), in strides
    points = _cell_xy(cell, width) + np.float32(0.5)
    boxes_xyxy = np.concatenate((points - distances[:, :2], points + distances[:, 2:]), axis=1) * np.float32(stride)
    return boxes_xyxy[row], scores, class_ids


def _select(scores: Float32, threshold: float, multi_label: bool) -> tuple[Int64, Int64, Float32]:
    """(N, K) scores -> row, class id and score of each candidate that reaches the threshold."""
    if multi_label:
        row, class_ids = np.nonzero(scores >= threshold)
    else:
        best = scores.argmax(axis=1)
        row = np.flatnonzero(scores[np.arange(len(scores)), best] >= threshold)
        class_ids = best[row]
    return row.astype(np.int64), class_ids.astype(np.int64), scores[row, class_ids]


def _cell_xy(cell: Int64, width: int) -> Float32:
    """(N,) flat cell indices -> (N, 2) column and row."""
    return np.stack((cell % width, cell // width), axis=1).astype(np.float32)


def _sigmoid(logits: Float32) -> Float32:
    return np.float32(1.0) / (np.float32(1.0) + np.exp(-np.clip(logits, -80.0, 80.0)))


def _logit(score: float) -> np.float32:
    """The logit below which the sigmoid is under `score`, one rounding step lower to be on the safe side."""
    if score <= 0.0:
        return np.float32(-np.inf)
    if score >= 1.0:
        score = 1.0 - 2.0**-24  # from here on a float32 sigmoid rounds to 1
    return np.float32(np.nextafter(np.float32(math.log(score / (1.0 - score))), np.float32(-np.inf)))


def _check_numbers(values: Float32) -> None:
    if np.isnan(values).any():
        raise BackendError(
            "the network gave values that are not numbers (NaN)",
            hint="Check the artefact on the host with `edgeyolo evaluate`; fp16 overflow is the usual cause",
        )
