"""Effects over seeds: means and paired differences with their intervals, and the decisions that follow.

Shape legend: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from analysis.findings.frontier import Estimate
from analysis.statistics.proportions import score_interval
from analysis.statistics.ranges import Ranges

BySeed = Mapping[int, float]


def mean_by_seed(columns: Sequence[BySeed]) -> dict[int, float]:
    """Average several columns seed by seed; a seed that one of them lacks is left out."""
    common = set.intersection(*map(set, columns)) if columns else set()
    return {seed: sum(column[seed] for column in columns) / len(columns) for seed in sorted(common)}


def over_seeds(values: BySeed, confidence: float = 0.95) -> Estimate:
    """Return the mean with Student's interval; there is no interval with fewer than two seeds."""
    return _interval(values, (-math.inf, math.inf), confidence)


def share_over_seeds(values: BySeed, confidence: float = 0.95) -> Estimate:
    """Return the mean of shares with a score interval, which stays within [0, 1] (`score_interval`).

    Its variance is that between seeds; it has no width where all seeds agree.
    """
    return _interval(values, (0.0, 1.0), confidence)


def difference(first: BySeed, second: BySeed | float) -> Estimate:
    """Estimate first - second, paired over common seeds; a plain number counts as a value without noise.

    The interval is Student's. Where that leaves [-1, 1] and no difference does, it is the score interval of a number
    between -1 and 1, as differences of shares are.
    """
    if isinstance(second, int | float):
        values = {seed: value - second for seed, value in first.items()}
    else:
        values = {seed: first[seed] - second[seed] for seed in sorted(set(first) & set(second))}
    estimate = over_seeds(values)
    shares = all(abs(value) <= 1 for value in values.values())
    return _interval(values, (-1.0, 1.0), 0.95) if shares and not -1 <= estimate.low <= estimate.high <= 1 else estimate


def _interval(values: BySeed, ends: tuple[float, float], confidence: float) -> Estimate:
    """Return the mean and its interval, within `ends` where these are finite."""
    values_S = np.array(list(values.values()))
    if not len(values_S):
        return Estimate(math.nan, math.nan, math.nan, "none")
    mean = float(values_S.mean())
    if len(values_S) < 2:
        return Estimate(mean, math.nan, math.nan, "none")
    quantile = float(stdtrit(len(values_S) - 1, (1 + confidence) / 2))
    error = float(values_S.std(ddof=1)) / math.sqrt(len(values_S))
    share = float(Ranges.of([ends]).unit(np.array([mean]))[0])
    if math.isinf(ends[0]) or not 0 < share < 1 or error == 0:
        return Estimate(mean, mean - quantile * error, mean + quantile * error)
    width = ends[1] - ends[0]
    low, high = score_interval(share, (error / width) ** 2 / (4 * share * (1 - share)), quantile)
    return Estimate(mean, ends[0] + width * float(low), ends[0] + width * float(high))


def above(estimate: Estimate, threshold: float = 0.0) -> bool | None:
    """Return whether the true value lies above; None if the interval contains the threshold, or is missing."""
    if estimate.low > threshold:
        return True
    return False if estimate.high < threshold else None


def below(estimate: Estimate, threshold: float = 0.0) -> bool | None:
    """Return whether the true value lies below; None if the interval contains the threshold, or is missing."""
    if estimate.high < threshold:
        return True
    return False if estimate.low > threshold else None


def within(estimate: Estimate, margin: float) -> bool | None:
    """Return whether the true value is at most `margin` from 0; None if the interval leaves it open."""
    if -margin <= estimate.low and estimate.high <= margin:
        return True
    return False if estimate.low > margin or estimate.high < -margin else None


def all_hold(parts: Iterable[bool | None]) -> bool | None:
    """Return whether all parts of a statement hold; None if none fails but one is open."""
    outcomes = list(parts)
    if any(outcome is False for outcome in outcomes):
        return False
    return True if all(outcomes) else None


def estimate_text(estimate: Estimate, sign: bool = False) -> str:
    """Format a mean with its interval, e.g. "0.83 [0.79, 0.88]"; with `sign`, each number has one."""
    mean, low, high = (
        f"{value:+.2f}" if sign else f"{value:.2f}" for value in (estimate.mean, estimate.low, estimate.high)
    )
    return mean if math.isnan(estimate.low) else f"{mean} [{low}, {high}]"
