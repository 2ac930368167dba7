"""Effects over seeds: means and paired differences with their intervals, and the decisions that follow.

Shape legend: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from analysis.findings.frontier import Estimate

BySeed = Mapping[int, float]


def mean_by_seed(columns: Sequence[BySeed]) -> dict[int, float]:
    """Average several columns seed by seed; a seed that one of them lacks is left out."""
    common = set.intersection(*map(set, columns)) if columns else set()
    return {seed: sum(column[seed] for column in columns) / len(columns) for seed in sorted(common)}


def over_seeds(values: BySeed, confidence: float = 0.95) -> Estimate:
    """Return the mean with Student's interval; there is no interval with fewer than two seeds."""
    values_S = np.array(list(values.values()))
    if not len(values_S):
        return Estimate(math.nan, math.nan, math.nan, "none")
    mean = float(values_S.mean())
    if len(values_S) < 2:
        return Estimate(mean, math.nan, math.nan, "none")
    quantile = stdtrit(len(values_S) - 1, (1 + confidence) / 2)
    half = float(quantile * values_S.std(ddof=1) / math.sqrt(len(values_S)))
    return Estimate(mean, mean - half, mean + half)


def difference(first: BySeed, second: BySeed | float) -> Estimate:
    """Estimate first - second, paired over common seeds; a plain number counts as a value without noise."""
    if isinstance(second, int | float):
        return over_seeds({seed: value - second for seed, value in first.items()})
    return over_seeds({seed: first[seed] - second[seed] for seed in sorted(set(first) & set(second))})


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
