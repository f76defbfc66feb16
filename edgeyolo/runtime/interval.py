"""How sure a median is, and a ratio, of times that follow one another: what is near in time is alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95  # of the interval of a median
RATIO_CONFIDENCE = 0.99  # of the interval of a ratio: a comparison decides something, so it misses more seldom
LEAST_ROUNDS = 8  # fewer cannot reach that confidence

_BLOCKS = 20


def median_interval(times: Sequence[float], *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of the median of times in the order in which they were taken.

    A slow moment lasts for many calls, so calls are no independent witnesses. Blocks of consecutive calls are, once
    they are longer than such moments: the interval is that of the sign test on the medians of 20 blocks, whatever
    their distribution. Of fewer than 20 times each is a block.

    Returns:
        Low and high; 0 and infinity where there are too few times to say.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2; blocks: Law, Simulation Modeling and
    Analysis, 5th edition, section 9.5.3 (batch means).
    """
    blocks = np.array_split(np.asarray(times, np.float64), min(_BLOCKS, len(times)))
    medians = sorted(float(np.median(block)) for block in blocks)
    outside, chance = -1, 0.0
    while True:
        chance += math.comb(len(medians), outside + 1) / 2 ** len(medians)
        if chance > (1 - confidence) / 2:
            break
        outside += 1
    return (medians[outside], medians[-1 - outside]) if outside >= 0 else (0.0, math.inf)


def ratio_interval(
    pairs: Sequence[tuple[float, float]], *, confidence: float = RATIO_CONFIDENCE
) -> tuple[float, float, float]:
    """Second time / first time of pairs of which chance decided who was measured first.

    Were both the same, that chance alone would give each pair's logarithm its sign, however much times drift and
    depend on each other. So the signed-rank test on logarithms is exact, by randomization, and the interval is
    what it does not reject: from Walsh averages, around the median of them (Hodges and Lehmann).

    Returns:
        Ratio, low and high; 0 and infinity where there are too few pairs.

    Source: Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd edition, sections 3.1 to 3.3.
    """
    logs = np.log([second / first for first, second in pairs])
    above = np.triu_indices(len(logs))
    walsh = np.sort((logs[above[0]] + logs[above[1]]) / 2)
    ratio = math.exp(float(np.median(walsh)))
    outside = _signed_ranks_outside(len(logs), (1 - confidence) / 2)
    if outside < 0:
        return ratio, 0.0, math.inf
    return ratio, math.exp(float(walsh[outside])), math.exp(float(walsh[-1 - outside]))


def _signed_ranks_outside(count: int, error: float) -> int:
    """The largest k such that a sum of signed ranks of at most k has at most the chance `error`, or -1."""
    chances = np.ones(1)
    for rank in range(1, count + 1):
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
    return int(np.searchsorted(np.cumsum(chances), error, side="right")) - 1
