"""Effects over seeds: means and paired differences with their intervals, and the decisions that follow.

A share of n questions, of all seeds together, is never known better than n answers allow: its interval is at least as
wide as theirs. A difference d of two such shares changes at least |d| of the answers, so it is known no better than |d|
would be, as a share of n questions. Where all seeds agree, the variance between them counts as that of a share 3/8
answers away from its end (Anscombe 1948), so no interval has zero width.

Shape legend: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtri, stdtrit

from analysis.findings.frontier import Estimate
from analysis.statistics.proportions import PULL, score_interval
from analysis.statistics.ranges import Ranges

BySeed = Mapping[int, float]
PLAIN_NUMBERS, SHARES, DIFFERENCES = (-math.inf, math.inf), (0.0, 1.0), (-1.0, 1.0)


class Shares(dict[int, float]):
    """Seed -> share of questions.

    Attributes:
        questions: seed -> number of questions behind its share.
    """

    def __init__(self, shares: Mapping[int, float], questions: Mapping[int, float]) -> None:
        super().__init__(shares)
        self.questions = {seed: questions[seed] for seed in shares}


def mean_by_seed(columns: Sequence[BySeed]) -> dict[int, float]:
    """Average several columns seed by seed; a seed that one of them lacks is left out. Questions add up."""
    common = set.intersection(*map(set, columns)) if columns else set()
    means = {seed: sum(column[seed] for column in columns) / len(columns) for seed in sorted(common)}
    counted = [column.questions for column in columns if isinstance(column, Shares)]
    if len(counted) < len(columns):
        return means
    return Shares(means, {seed: sum(questions[seed] for questions in counted) for seed in means})


def pooled(columns: Iterable[BySeed]) -> dict[int, float]:
    """Put the values of several columns in one, as if each were of a seed of its own."""
    parts = list(columns)
    values = dict(enumerate(value for part in parts for value in part.values()))
    counted = [part.questions for part in parts if isinstance(part, Shares)]
    if len(counted) < len(parts):
        return values
    return Shares(values, dict(enumerate(number for questions in counted for number in questions.values())))


def over_seeds(values: BySeed, confidence: float = 0.95) -> Estimate:
    """Return the mean with Student's interval; there is no interval with fewer than two seeds."""
    return _interval(values, PLAIN_NUMBERS, confidence)


def share_over_seeds(values: BySeed, confidence: float = 0.95) -> Estimate:
    """Return the mean of shares with a score interval, which stays within [0, 1] (`score_interval`).

    For `Shares` it is no narrower than the questions allow.
    """
    return _interval(values, SHARES, confidence, _number(values))


def difference(first: BySeed, second: BySeed | float) -> Estimate:
    """Estimate first - second, paired over common seeds; a plain number counts as a value without noise.

    The interval is Student's. Where that leaves [-1, 1] and no difference does, it is the score interval of a number
    between -1 and 1, as differences of shares are. With `Shares` it is no narrower than the questions allow.
    """
    number = min(filter(None, map(_number, (first, second))), default=0.0)
    if isinstance(second, int | float):
        values = {seed: value - second for seed, value in first.items()}
    else:
        values = {seed: first[seed] - second[seed] for seed in sorted(set(first) & set(second))}
    estimate = _interval(values, PLAIN_NUMBERS, 0.95, number)
    shares = all(abs(value) <= 1 for value in values.values())
    inside = -1 <= estimate.low <= estimate.high <= 1
    return _interval(values, DIFFERENCES, 0.95, number) if shares and not inside else estimate


def _number(values: BySeed | float) -> float:
    """Return the number of questions of all seeds; 0 if it is not known."""
    return sum(values.questions.values()) if isinstance(values, Shares) else 0.0


def _interval(values: BySeed, ends: tuple[float, float], confidence: float, number: float = 0.0) -> Estimate:
    """Return the mean and its interval, within `ends` where these are finite.

    Args:
        number: of questions, all seeds together; 0 if it is not known.
    """
    values_S = np.array(list(values.values()))
    if not len(values_S):
        return Estimate(math.nan, math.nan, math.nan, "none")
    mean = float(values_S.mean())
    if len(values_S) < 2:
        return Estimate(mean, math.nan, math.nan, "none")
    variance = float(values_S.var(ddof=1)) / len(values_S)
    students = float(stdtrit(len(values_S) - 1, (1 + confidence) / 2))
    if not number:
        return Estimate(mean, *_bounds(mean, variance, students, ends))
    changed = (min(abs(mean), 1.0) * number + PULL) / (number + 2 * PULL)  # share of the answers
    of_questions = changed * (1 - changed) / number
    over_seeds = _bounds(mean, max(variance, PULL / number**2), students, ends, number)
    over_questions = _bounds(mean, of_questions, float(ndtri((1 + confidence) / 2)), ends, number)
    return Estimate(mean, min(over_seeds[0], over_questions[0]), max(over_seeds[1], over_questions[1]))


def _bounds(
    mean: float, variance: float, quantile: float, ends: tuple[float, float], number: float = 0.0
) -> tuple[float, float]:
    """Return the ends of an interval of this variance: Student's, or the score interval where `ends` are finite."""
    error = quantile * math.sqrt(variance)
    share = float(Ranges.of([ends]).unit(np.array([mean]))[0])
    pulled = (share * number + PULL) / (number + 2 * PULL) if number else share
    if math.isinf(ends[0]) or not variance or not 0 < pulled < 1:
        return mean - error, mean + error
    width = ends[1] - ends[0]
    low, high = score_interval(share, variance / width**2 / (4 * pulled * (1 - pulled)), quantile)
    return ends[0] + width * float(low), ends[0] + width * float(high)


def shifted(estimate: Estimate, by: float) -> Estimate:
    """Return an estimate with a number added to it."""
    return replace(estimate, mean=estimate.mean + by, low=estimate.low + by, high=estimate.high + by)


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
