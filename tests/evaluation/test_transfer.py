"""Transferred thresholds against scores that were moved by a known function, and accuracy that was taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from random_detections import NAMES, iou, make_case

from edgeyolo.evaluation.judged import Judged, judge_detections
from edgeyolo.evaluation.transfer import LEAST_OBJECTS, find_transfer
from edgeyolo.spec.transfer import Match, OperatingPoint, ScoreTransfer, ThresholdMap

PICTURES, PER_PICTURE = 60, 12


def make_judged(scores: np.ndarray, right: np.ndarray) -> Judged:
    """What was found in 60 pictures, as many in each; there are as many objects."""
    order = np.argsort(-scores, kind="stable")
    pictures = np.arange(len(scores)) % PICTURES
    return Judged(scores[order], right[order], pictures[order], len(scores), PICTURES)


def make_float(rng: np.random.Generator, count: int = PICTURES * PER_PICTURE) -> tuple[np.ndarray, np.ndarray]:
    """Scores that mean what they say: a detection of score s is right s times."""
    scores = rng.uniform(0.02, 0.98, count)
    return scores, rng.random(count) < scores


def transfer(reference: Judged, other: Judged, match: Match = "precision", threshold: float = 0.4) -> ScoreTransfer:
    measured = ("it int8", "d", "val")
    return find_transfer([reference], [other], ["a"], match=match, score_threshold=threshold, measured=measured)


@pytest.mark.parametrize(
    "move",
    [lambda s: 1 / (1 + np.exp(1 - np.log(s / (1 - s)))), lambda s: 0.7 * s, lambda s: np.minimum(1, 1.2 * s**0.5)],
    ids=["logits fall by one", "scores shrink", "scores rise and saturate"],
)
@pytest.mark.parametrize("match", ["precision", "recall", "f1"])
def test_moved_scores_are_followed_wherever_the_threshold_is(move: Callable[..., np.ndarray], match: Match) -> None:
    rng = np.random.default_rng(0)
    scores, right = make_float(rng)
    reference, other = make_judged(scores, right), make_judged(move(scores), right)
    found = transfer(reference, other, match)
    for threshold in np.arange(0.1, 0.85, 0.05):
        assert found.maps["a"].of(threshold) == pytest.approx(float(move(threshold)), abs=0.015)
    at_user = found.per_class["a"]
    assert at_user.transferred.right == pytest.approx(at_user.float_model.right, abs=3)
    assert abs(at_user.untransferred.detections - at_user.float_model.detections) > 30


def test_noise_moves_less_than_counting_alone_would() -> None:
    """Scores that tremble, as often one way as the other; counting takes the one with as many above it."""
    moved, counted = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores, right = make_float(rng)
        trembling = np.clip(scores + rng.normal(0, 0.03, len(scores)), 0.01, 0.99)
        found = transfer(make_judged(scores, right), make_judged(trembling, right))
        thresholds = np.arange(0.2, 0.85, 0.1)
        moved += [abs(found.maps["a"].of(t) - t) for t in thresholds]
        counted += [abs(np.sort(trembling)[np.count_nonzero(scores < t)] - t) for t in thresholds]
    assert np.mean(moved) < 0.75 * np.mean(counted)
    assert np.count_nonzero(np.array(moved) < 1e-3) > 0.5 * len(moved)


@pytest.mark.parametrize(("match", "threshold", "expected"), [("precision", 0.2, 0.71), ("recall", 0.7, 0.53)])
def test_where_accuracy_is_lost_labels_correct_it(match: Match, threshold: float, expected: float) -> None:
    """As many detections as before, and 30 % of those that were right are wrong: the same count is not enough.

    From t on, (1 + t) / 2 of what the float model finds is right, (1 - t^2) / 2 of all there are; 70 % of that here.
    """
    rng = np.random.default_rng(1)
    scores, right = make_float(rng, 20 * PICTURES * PER_PICTURE)
    spoiled = right & (rng.random(len(right)) > 0.3)
    reference, other = make_judged(scores, right), make_judged(scores, spoiled)
    found = transfer(reference, other, match, threshold)
    assert found.maps["a"].of(threshold) == pytest.approx(expected, abs=0.04)
    at_user = found.per_class["a"]
    assert abs(value(at_user.untransferred, match) - value(at_user.float_model, match)) > 7
    assert value(at_user.transferred, match) == pytest.approx(value(at_user.float_model, match), abs=1)


def test_an_artefact_that_finds_too_few_gives_all_that_it_has() -> None:
    scores, right = make_float(np.random.default_rng(3))
    kept = scores > np.sort(scores)[-40]
    reference = make_judged(scores, right)
    other = dataclasses.replace(make_judged(scores[kept], right[kept]), objects=reference.objects)
    found = transfer(reference, other, "recall", 0.1)
    assert found.maps["a"].of(0.1) == pytest.approx(scores[kept].min(), abs=1e-4)
    assert found.overall.transferred.detections >= kept.sum() - 1  # thresholds have four digits


def value(point: OperatingPoint, match: Match) -> float:
    return float(getattr(point, match))


def test_a_class_with_few_objects_takes_the_thresholds_of_all() -> None:
    rng = np.random.default_rng(2)
    pairs = []
    for count in (PICTURES * PER_PICTURE, LEAST_OBJECTS):
        scores, right = make_float(rng, count)
        pairs.append((make_judged(scores, right), make_judged(0.7 * scores, right)))
    found = find_transfer(
        *zip(*pairs, strict=True),
        ["many", "few"],
        match="precision",
        score_threshold=0.5,
        measured=("it int8", "d", "val"),
    )
    assert [found.maps[name].is_pooled for name in ("many", "few")] == [False, True]
    assert found.maps["few"].of(0.5) == pytest.approx(0.35, abs=0.015)
    detections = [row.transferred.detections for row in found.per_class.values()]
    assert found.overall.transferred.detections == sum(detections)


def test_a_map_is_straight_between_what_is_known_and_ends_at_zero_and_one() -> None:
    known = ThresholdMap(float_scores=(0.2, 0.6), artefact_scores=(0.1, 0.5))
    assert [known.of(t) for t in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)] == pytest.approx(
        [0, 0.05, 0.1, 0.3, 0.5, 0.75, 1]
    )
    assert [ThresholdMap().of(t) for t in (0.0, 0.37, 1.0)] == pytest.approx([0, 0.37, 1])


def test_detections_are_judged_as_by_hand() -> None:
    """Each, best first, takes the free object of its class that it overlaps most."""
    data, found = make_case(3, crowds=False)
    for class_id, judged in enumerate(judge_detections(found, data)):
        expected = []
        for i, record in enumerate(data.records):
            free = [box for box, c in zip(record.boxes_xyxy, record.class_ids, strict=True) if c == class_id]
            seen = found[i]
            for box, score, c in zip(seen.boxes_xyxy, seen.scores, seen.class_ids, strict=True):
                if c == class_id:
                    best = max(free, key=lambda other: iou(box, other), default=None)
                    is_right = best is not None and iou(box, best) >= 0.5
                    free = [other for other in free if not (is_right and other is best)]
                    expected.append((float(score), is_right, i))
        got = zip(judged.scores.tolist(), judged.right.tolist(), judged.pictures.tolist(), strict=True)
        assert sorted(got) == sorted(expected)
        assert judged.objects == sum(int((record.class_ids == class_id).sum()) for record in data.records)
    assert len(NAMES) == class_id + 1


def test_where_nothing_is_found_thresholds_stay() -> None:
    nothing = make_judged(np.zeros(0), np.zeros(0, bool))
    found = transfer(nothing, nothing)
    assert found.maps["a"].of(0.4) == pytest.approx(0.4) and found.maps["a"].is_pooled
    assert found.overall.float_model.precision == -1.0
