"""How far a judge agrees with verdicts that another has given: two columns in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from settings.setting import ALIGNED_FROM

LEVEL = 0.95


@dataclass(frozen=True)
class Pair:
    """Two verdicts on one answer, 0 to 100; nan where one is missing."""

    question: str
    judge: float
    given: float


@dataclass(frozen=True)
class Agreement:
    """How far they agree, over the pairs that have both.

    Attributes:
        n: such pairs.
        missing_judge, missing_given, missing_both: pairs without the one, the other, or both.
        bias: mean of judge - given; low and high are its 95 % t-interval, nan below two pairs.
        absolute: mean distance.
        correlation: Pearson's; nan where one of them does not vary.
        same_side: share on the same side of the threshold.
        kappa: the same beyond chance (Cohen 1960); nan where chance leaves nothing to agree on.
    """

    n: int
    missing_judge: int
    missing_given: int
    missing_both: int
    bias: float
    low: float
    high: float
    absolute: float
    correlation: float
    same_side: float
    kappa: float


def agreement(pairs: Sequence[Pair], threshold: float = ALIGNED_FROM) -> Agreement:
    """The agreement over some pairs."""
    judge_N = np.array([pair.judge for pair in pairs], dtype=float)
    given_N = np.array([pair.given for pair in pairs], dtype=float)
    no_judge_N, no_given_N = np.isnan(judge_N), np.isnan(given_N)
    both_N = ~no_judge_N & ~no_given_N
    judge_N, given_N = judge_N[both_N], given_N[both_N]
    difference_N = judge_N - given_N
    low, high = _interval(difference_N)
    return Agreement(
        n=int(both_N.sum()),
        missing_judge=int((no_judge_N & ~no_given_N).sum()),
        missing_given=int((no_given_N & ~no_judge_N).sum()),
        missing_both=int((no_judge_N & no_given_N).sum()),
        bias=_mean(difference_N),
        low=low,
        high=high,
        absolute=_mean(np.abs(difference_N)),
        correlation=_correlation(judge_N, given_N),
        same_side=_mean((judge_N >= threshold) == (given_N >= threshold)),
        kappa=_kappa(judge_N >= threshold, given_N >= threshold),
    )


def by_question(pairs: Sequence[Pair], threshold: float = ALIGNED_FROM) -> dict[str, Agreement]:
    """The agreement on each question, in the order in which they first appear."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair.question, []).append(pair)
    return {question: agreement(some, threshold) for question, some in found.items()}


def _mean(values_N: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values_N)) if len(values_N) else math.nan


def _interval(values_N: NDArray[np.float64]) -> tuple[float, float]:
    """t-interval of the mean."""
    n = len(values_N)
    if n < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values_N.std(ddof=1) / math.sqrt(n))
    return _mean(values_N) - half, _mean(values_N) + half


def _correlation(first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> float:
    if len(first_N) < 2 or not first_N.std() or not second_N.std():
        return math.nan
    return float(np.corrcoef(first_N, second_N)[0, 1])


def _kappa(first_N: NDArray[np.bool_], second_N: NDArray[np.bool_]) -> float:
    if not len(first_N):
        return math.nan
    first, second = float(first_N.mean()), float(second_N.mean())
    by_chance = first * second + (1 - first) * (1 - second)
    return math.nan if by_chance == 1 else (_mean(first_N == second_N) - by_chance) / (1 - by_chance)
