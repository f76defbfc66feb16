"""Score thresholds of a float model -> those of its int8 artefact, by what both found in the same pictures.

The artefact's threshold is first the one with as many detections as the float model has: that needs no labels, and
where int8 has only moved the scores, it leaves precision and recall alike. Labels then correct it where int8 has lost
more than that. Neither step follows noise: each moves by the part 1 - c / z^2 only, where z is how many standard errors
the difference is, as it varies from picture to picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeyolo.evaluation.judged import Float64, Judged, join_classes
from edgeyolo.spec.transfer import Comparison, Match, OperatingPoint, ScoreTransfer, ThresholdMap

GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))
LEAST_OBJECTS = 30  # that the float model must find in a class for thresholds of its own
LEAST_DETECTIONS = 10  # with a score so high, for a threshold to be known at all
_COUNT_CAUTION, _MATCH_CAUTION = 1.0, 2.0  # the c of counts, and that of what is matched


def find_transfer(
    float_model: Sequence[Judged],
    artefact: Sequence[Judged],
    class_names: Sequence[str],
    *,
    match: Match,
    score_threshold: float,
    measured: tuple[str, str, str],
) -> ScoreTransfer:
    """Thresholds of every class, and what they find at the user's.

    Args:
        float_model, artefact: of each class, in the same pictures, with scores down to about 0.01.
        match: what the artefact is to have as the float model has it.
        score_threshold: of the float model, the user's.
        measured: name of the artefact, of the data set and of its split.
    """
    grid = sorted({*GRID, score_threshold} - {0.0, 1.0})
    pooled = _find_map(join_classes(float_model), join_classes(artefact), grid, match)
    maps, per_class, points = {}, {}, []
    for name, reference, other in zip(class_names, float_model, artefact, strict=True):
        is_pooled = int(reference.right[: _count(reference, score_threshold)].sum()) < LEAST_OBJECTS
        found = pooled if is_pooled else _find_map(reference, other, grid, match)
        maps[name] = ThresholdMap(
            float_scores=found.float_scores, artefact_scores=found.artefact_scores, is_pooled=is_pooled
        )
        counts = [_count(reference, score_threshold), _count(other, score_threshold)]
        counts.append(_count(other, maps[name].of(score_threshold)))
        points.append([(int(one.right[:n].sum()), n) for one, n in zip((reference, other, other), counts, strict=True)])
        thresholds = (score_threshold, score_threshold, round(maps[name].of(score_threshold), 4))
        per_class[name] = _compare(thresholds, points[-1], reference.objects)
    totals = np.sum(np.array(points, np.int64), axis=0).tolist()
    objects = sum(one.objects for one in float_model)
    return ScoreTransfer(
        artefact=measured[0],
        data=measured[1],
        split=measured[2],
        images=float_model[0].picture_count,
        match=match,
        score_threshold=score_threshold,
        maps=maps,
        overall=_compare((score_threshold, score_threshold, -1.0), totals, objects),
        per_class=per_class,
    )


def _find_map(reference: Judged, other: Judged, grid: Sequence[float], match: Match) -> ThresholdMap:
    known = [t for t in grid if _count(reference, t) >= LEAST_DETECTIONS and len(other.scores) >= LEAST_DETECTIONS]
    moved = [_transfer(reference, other, threshold, match) for threshold in known]
    rising = np.maximum.accumulate(moved).round(4).tolist() if moved else []
    return ThresholdMap(float_scores=tuple(known), artefact_scores=tuple(rising))


def _transfer(reference: Judged, other: Judged, threshold: float, match: Match) -> float:
    """The threshold of `other` that stands for one of `reference`."""
    wanted, count = _count(reference, threshold), _count(other, threshold)
    lacking = _per_picture(reference, wanted)[0] - _per_picture(other, count)[0]
    part = _part_to_move(float(lacking.sum()), float((lacking**2).sum()), _COUNT_CAUTION)
    if part:
        count = min(max(1, round(count + part * (wanted - count))), len(other.scores))
        threshold = _threshold_for(other, count)
    return _matched(reference, wanted, other, count, match) or threshold


def _matched(reference: Judged, wanted: int, other: Judged, count: int, match: Match) -> float | None:
    """The threshold near the `count` best of `other` that has what is matched as `reference` has it at `wanted`.

    None where there is no difference to speak of.
    """
    if count < 1 or not other.objects:
        return None
    aim, aim_parts = _value_and_parts(reference, wanted, match)
    value, parts = _value_and_parts(other, count, match)
    apart = aim_parts - parts
    part = _part_to_move(aim - value, float(((apart - apart.mean()) ** 2).sum()), _MATCH_CAUTION)
    if not part:
        return None
    hits, found = np.cumsum(other.right, dtype=np.float64), np.arange(1.0, len(other.scores) + 1)
    above = _values(hits, found, other.objects, match) >= value + part * (aim - value)
    reached = np.flatnonzero(above if aim > value else ~above) + 1
    reached = reached[reached >= LEAST_DETECTIONS]
    if not len(reached):
        return None
    return _threshold_for(other, int(reached[np.abs(reached - count).argmin()]))


def _part_to_move(difference: float, variance: float, caution: float) -> float:
    """Which part of a difference is to be believed, in [0, 1].

    Source: James and Stein, "Estimation with quadratic loss", 1961: the estimator that shrinks towards no difference.
    Differs: one difference at a time, with `caution` in the place of their number less two.
    """
    return max(0.0, 1.0 - caution * variance / difference**2) if difference else 0.0


def _values(right: Float64, found: Float64, objects: int, match: Match) -> Float64:
    """What so many detections reach, so many of them right."""
    if match == "precision":
        return right / found
    return right / objects if match == "recall" else 2 * right / (found + objects)


def _value_and_parts(judged: Judged, count: int, match: Match) -> tuple[float, Float64]:
    """What the `count` best reach, and what each picture adds to it, to first order."""
    found, right = _per_picture(judged, count)
    value = float(_values(right.sum(), found.sum(), judged.objects, match))
    if match == "precision":
        return value, (right - value * found) / count
    if match == "recall":
        return value, right / judged.objects
    return value, (2 * right - value * found) / (count + judged.objects)


def _per_picture(judged: Judged, count: int) -> tuple[Float64, Float64]:
    """How many of the `count` best are in each picture, and how many of these are right."""
    pictures = judged.pictures[:count]
    found, right = (
        np.bincount(pictures, weights, minlength=judged.picture_count).astype(np.float64)
        for weights in (None, judged.right[:count])
    )
    return found, right


def _count(judged: Judged, threshold: float) -> int:
    """Detections that reach a threshold."""
    return int(np.searchsorted(-judged.scores, -threshold, side="right"))


def _threshold_for(judged: Judged, count: int) -> float:
    """Between the `count` best, at least one, and the next one."""
    return float(judged.scores[count - 1 : count + 1].mean())


def _compare(thresholds: tuple[float, float, float], points: Sequence[tuple[int, int]], objects: int) -> Comparison:
    float_model, untransferred, transferred = (
        OperatingPoint(
            threshold=threshold,
            detections=found,
            right=right,
            precision=_percent(right, found),
            recall=_percent(right, objects),
            f1=_percent(2 * right, found + objects),
        )
        for threshold, (right, found) in zip(thresholds, points, strict=True)
    )
    return Comparison(objects=objects, float_model=float_model, untransferred=untransferred, transferred=transferred)


def _percent(part: int, whole: int) -> float:
    return round(100.0 * part / whole, 4) if whole else -1.0
