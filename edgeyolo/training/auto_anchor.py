"""Anchors that fit the objects of a data set: k-means over sizes, then small random changes that stay if better.

Source: YOLO9000, arXiv 1612.08242, section 2, "Dimension Clusters", for k-means with the distance 1 - IoU.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeyolo import models
from edgeyolo.data.dataset import Dataset
from edgeyolo.data.letterboxed import letterboxed_sides
from edgeyolo.models import Anchors

ENOUGH_RECALL = 0.98
LARGEST_RATIO = 4.0  # between a side of an object and of its anchor; a YOLOv7 head reaches that far: (2 sigmoid)^2

_LOG = logging.getLogger(__name__)
_LEAST_SIDE_PX = 2.0
_MOST_BOXES = 10_000  # that are clustered
_RESTARTS, _ROUNDS, _GENERATIONS = 4, 60, 1000
_MUTATION_CHANCE, _MUTATION_SPREAD = 0.5, 0.1

Sizes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AnchorFit:
    """What `fit_anchors` found.

    Attributes:
        anchors_wh: per level, finest first, in input pixels; the ones given where they were not changed.
        recall_before, recall_after: best possible recall, 0-1.
        changed: whether these are other anchors than the ones given.
    """

    anchors_wh: Anchors
    recall_before: float
    recall_after: float
    changed: bool


def fit_to_dataset(
    name: str, dataset: Dataset, image_hw: tuple[int, int], *, start: Anchors | None, seed: int
) -> Anchors | None:
    """Anchors for a model that is trained on a split; None for a model without anchors.

    Args:
        name: of the model.
        image_hw: of the network input, pixels.
        start: anchors to begin with, such as those of the weights to start from; None for the model's own.
    """
    start = start or models.anchors_of(name)
    if start is None:
        return None
    fit = fit_anchors(letterboxed_sizes(dataset, image_hw), start, seed=seed)
    _LOG.info("%s", describe(fit))
    return fit.anchors_wh


def describe(fit: AnchorFit) -> str:
    """What was done, in words."""
    before = f"anchors can reach {100 * fit.recall_before:.1f} % of the objects"
    if not fit.changed:
        reason = "enough" if fit.recall_before >= ENOUGH_RECALL else "and none that reach more were found"
        return f"{before}: {reason}, they stay"
    levels = "; ".join(", ".join(f"{w:g} x {h:g}" for w, h in level) for level in fit.anchors_wh)
    return f"{before}; new ones reach {100 * fit.recall_after:.1f} %: {levels}"


def letterboxed_sizes(dataset: Dataset, image_hw: tuple[int, int]) -> Sizes:
    """(N, 2) width and height of every object as it stands in the network input, pixels; under 2 px left out."""
    found = letterboxed_sides(dataset.records, image_hw)
    large: Sizes = found[(found >= _LEAST_SIDE_PX).all(1)]
    return large


def fit_anchors(boxes_wh: npt.ArrayLike, anchors_wh: Anchors, *, seed: int) -> AnchorFit:
    """Find anchors that more of the objects can be predicted from, if fewer than 98 % can be now.

    Args:
        boxes_wh: (N, 2) widths and heights in input pixels, above 0.
        anchors_wh: per level, finest first; as many on each level are returned, small ones on fine levels.
        seed: of the search; the same seed gives the same anchors.

    Returns:
        New anchors only where they reach more objects than the ones given. With fewer objects than anchors, or none,
        the ones given.
    """
    boxes_wh = np.asarray(boxes_wh, np.float64).reshape(-1, 2)
    flat = np.array([wh for level in anchors_wh for wh in level], np.float64)
    before = best_possible_recall(boxes_wh, flat)
    unchanged = AnchorFit(anchors_wh, before, before, changed=False)
    if before >= ENOUGH_RECALL or len(boxes_wh) < len(flat):
        return unchanged
    rng = np.random.default_rng(seed)
    sample = boxes_wh if len(boxes_wh) <= _MOST_BOXES else rng.choice(boxes_wh, _MOST_BOXES, replace=False)
    starts = [flat, *(cluster_sizes(sample, len(flat), rng) for _ in range(_RESTARTS))]
    found = _evolve(sample, max(starts, key=lambda anchors: _fitness(sample, anchors)), rng)
    found = np.round(found[np.argsort(found.prod(1), kind="stable")], 2)
    after = best_possible_recall(boxes_wh, found)
    if after <= before:
        return unchanged
    ends = np.cumsum([len(level) for level in anchors_wh])[:-1]
    levels = tuple(tuple((float(w), float(h)) for w, h in level) for level in np.split(found, ends))
    return AnchorFit(levels, before, after, changed=True)


def best_possible_recall(boxes_wh: Sizes, anchors_wh: Sizes) -> float:
    """Share of (N, 2) sizes with one of (A, 2) anchors less than a factor of 4 away on both sides; 1 for no sizes."""
    if not len(boxes_wh):
        return 1.0
    return float((_best_ratio(boxes_wh, anchors_wh) > 1 / LARGEST_RATIO).mean())


def cluster_sizes(boxes_wh: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    """(count, 2) centres of k-means over (N, 2) sizes with the distance 1 - IoU of boxes that share a corner.

    First centres are drawn as k-means++ does; a cluster that runs empty keeps its centre.
    """
    centres: Sizes = boxes_wh[rng.integers(len(boxes_wh))][None]
    while len(centres) < count:
        distance = (1 - _overlap(boxes_wh, centres)).min(1).clip(min=0) ** 2 + 1e-12
        centres = np.concatenate([centres, boxes_wh[rng.choice(len(boxes_wh), p=distance / distance.sum())][None]])
    nearest = None
    for _ in range(_ROUNDS):
        previous, nearest = nearest, _overlap(boxes_wh, centres).argmax(1)
        if previous is not None and (previous == nearest).all():
            break
        members = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, boxes_wh[:, axis], minlength=count) for axis in (0, 1)], 1)
        centres = np.where(members[:, None] > 0, sums / members.clip(min=1)[:, None], centres)
    return centres


def _evolve(boxes_wh: Sizes, anchors_wh: Sizes, rng: np.random.Generator) -> Sizes:
    """Change some sides by some tenths, again and again; a change stays where fitness grows."""
    best, fitness = anchors_wh, _fitness(boxes_wh, anchors_wh)
    for _ in range(_GENERATIONS):
        is_changed = rng.random(best.shape) < _MUTATION_CHANCE
        factor = np.exp(is_changed * rng.normal(0, _MUTATION_SPREAD, best.shape))
        child = (best * factor).clip(min=_LEAST_SIDE_PX)
        child_fitness = _fitness(boxes_wh, child)
        if child_fitness > fitness:
            best, fitness = child, child_fitness
    return best


def _fitness(boxes_wh: Sizes, anchors_wh: Sizes) -> float:
    """Mean closeness, 0-1, of each size to its nearest anchor; a size out of reach counts 0."""
    ratio = _best_ratio(boxes_wh, anchors_wh)
    return float((ratio * (ratio > 1 / LARGEST_RATIO)).mean())


def _best_ratio(boxes_wh: Sizes, anchors_wh: Sizes) -> Sizes:
    """(N,) in (0, 1]: smaller side over larger, along the axis that fits worse, of the anchor that fits best."""
    best = np.zeros(len(boxes_wh))
    for anchor in anchors_wh:
        ratio = boxes_wh / anchor
        np.maximum(best, np.minimum(ratio, 1 / ratio).min(1), out=best)
    return best


def _overlap(boxes_wh: Sizes, centres_wh: Sizes) -> Sizes:
    """(N, K) IoU of boxes that share a corner."""
    shared = np.minimum(boxes_wh[:, None], centres_wh).prod(2)
    overlap: Sizes = shared / (boxes_wh.prod(1)[:, None] + centres_wh.prod(1) - shared)
    return overlap
