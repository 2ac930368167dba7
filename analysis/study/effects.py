"""Effects over seeds: means and paired differences with their intervals, and the decisions that follow.

A share of n answers, of all seeds together, is never known better than n answers allow: its interval is at least as
wide as theirs. A difference d of two such shares changes at least |d| of the answers, so it is known no better than |d|
would be, as a share. Where all seeds agree, the variance between them counts as that of a share 3/8 answers away from
its end (Anscombe 1948), so no interval of shares has zero width.

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
        questions: seed -> number of questions behind its share; of a mean, that of a share which is known as well.
    """

    def __init__(self, shares: Mapping[int, float], questions: Mapping[int, float]) -> None:
        super().__init__(shares)
        self.questions = {seed: questions[seed] for seed in shares}


def number_of_mean(numbers: Iterable[float]) -> float:
    """Return how many questions a mean of k shares of equal weight is worth: k^2 / (1 / n_1 + ... + 1 / n_k)."""
    listed = list(numbers)
    return len(listed) ** 2 / sum(1 / number for number in listed) if listed else 0.0


def mean_by_seed(columns: Sequence[BySeed]) -> dict[int, float]:
    """Average several columns seed by seed; a seed that one of them lacks is left out."""
    common = set.intersection(*map(set, columns)) if columns else set()
    means = {seed: sum(column[seed] for column in columns) / len(columns) for seed in sorted(common)}
    counted = [column.questions for column in columns if isinstance(column, Shares)]
    if len(counted) < len(columns):
        return means
    return Shares(means, {seed: number_of_mean(questions[seed] for questions in counted) for seed in means})


def pooled(columns: Iterable[BySeed]) -> dict[int, float]:
    """Put the values of several columns in one, as if each were of a seed of its own."""
    parts = list(columns)
    values = dict(enumerate(value for part in parts for value in part.values()))
    counted = [part.questions for part in parts if isinstance(part, Shares)]
    if len(counted) < len(parts):
        return values
    return Shares(values, dict(enumerate(number for questions in counted for number in questions.values())))


def share_over_seeds(values: BySeed, confidence: float = 0.95) -> Estimate:
    """Return the mean of shares with a score interval, which stays within [0, 1]; none with fewer than two seeds.

    For `Shares` it is no narrower than the answers allow.
    """
    return _interval(values, SHARES, confidence, _number(values, values))


def difference(first: BySeed, second: BySeed | float) -> Estimate:
    """Estimate first - second, paired over common seeds; a plain number counts as a value without noise.

    The interval is Student's. Where that leaves [-1, 1] and no difference does, it is the score interval of a number
    between -1 and 1, as differences of shares are. With `Shares` it is no narrower than the answers allow.
    """
    common = sorted(first if isinstance(second, int | float) else set(first) & set(second))
    values = {seed: first[seed] - (second if isinstance(second, int | float) else second[seed]) for seed in common}
    number = min(filter(None, (_number(side, common) for side in (first, second))), default=0.0)
    estimate = _interval(values, PLAIN_NUMBERS, 0.95)
    shares = all(abs(value) <= 1 for value in values.values())
    if shares and not -1 <= estimate.low <= estimate.high <= 1:
        estimate = _interval(values, DIFFERENCES, 0.95)
    return _as_answers_allow(estimate, number, len(values)) if number and len(values) > 1 else estimate


def _number(values: BySeed | float, seeds: Iterable[int]) -> float:
    """Return the number of answers of these seeds; 0 if it is not known."""
    return number_of_mean(values.questions[seed] for seed in seeds) if isinstance(values, Shares) else 0.0


def _interval(values: BySeed, ends: tuple[float, float], confidence: float, number: float = 0.0) -> Estimate:
    """Return the mean and its interval, within `ends` where these are finite.

    Args:
        number: of answers, all seeds together; 0 if it is not known. Only shares have it.
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
    of_seeds = score_interval(mean, max(variance, PULL / number**2) / _spread(mean, number), students)
    of_answers = score_interval(mean, 1 / (4 * number), float(ndtri((1 + confidence) / 2)))
    lows, highs = zip(of_seeds, of_answers, strict=True)
    return Estimate(mean, float(min(lows)), float(max(highs)))


def _as_answers_allow(estimate: Estimate, number: float, seeds: int) -> Estimate:
    """Widen the interval of a difference d to that of |d|, as a share of a number of answers, on the side of its sign.

    Towards 0 it is at least as wide as Wald's: how many more answers changed, and changed back, is not known.
    """
    size, sign = min(abs(estimate.mean), 1.0), math.copysign(1.0, estimate.mean)
    normal, students = float(ndtri(0.975)), float(stdtrit(seeds - 1, 0.975))
    spread = _spread(size, number)
    parts = [score_interval(size, 1 / (4 * number), normal)]
    if size:
        parts.append(score_interval(size, PULL / number**2 / spread, students))
    far = max(float(high) for _, high in parts)
    near = min(*(float(low) for low, _ in parts), size - normal * math.sqrt(spread / 4 / number))
    ends = sorted((sign * near, sign * far)) if size else (-far, far)
    return replace(estimate, low=min(estimate.low, ends[0]), high=max(estimate.high, ends[1]))


def _spread(share: float, number: float) -> float:
    """Return 4 p (1 - p) of a share p that is moved off the ends by 3/8 answers."""
    pulled = (share * number + PULL) / (number + 2 * PULL)
    return 4 * pulled * (1 - pulled)


def _bounds(mean: float, variance: float, quantile: float, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of an interval of this variance: Student's, or the score interval where `ends` are finite."""
    error = quantile * math.sqrt(variance)
    share = float(Ranges.of([ends]).unit(np.array([mean]))[0])
    if math.isinf(ends[0]) or not variance or not 0 < share < 1:
        return mean - error, mean + error
    width = ends[1] - ends[0]
    low, high = score_interval(share, variance / width**2 / (4 * share * (1 - share)), quantile)
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
