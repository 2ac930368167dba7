"""Intervals of proportions that stay within [0, 1]: for one seed, for several, and for clustered answers.

Shape legend: Q questions; X stands for any shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from analysis.statistics.arrays import Floats, check_confidence
from analysis.statistics.ranges import PULL


def score_interval(share_X: ArrayLike, variance_X: ArrayLike, quantile_X: ArrayLike) -> tuple[Floats, Floats]:
    """Compute the score interval (Wilson 1927) of shares with any variance, as an effective number of questions.

        centre = (p + q^2 / 2 n) / (1 + q^2 / n),    half = q / (1 + q^2 / n) sqrt(p (1 - p) / n + q^2 / 4 n^2)

    with n = 1 / (4 variance), the number of independent questions that would have this variance. It lies within
    [0, 1], leans inwards near the ends, and has zero width only if the variance is 0.

    Source: Kott and Carr 1997, "Developing an estimation strategy for a pesticide data program" (Wilson's interval with
    an effective number of questions and Student's quantile).

    Args:
        share_X: means, in [0, 1].
        variance_X: of arcsin sqrt(mean); on this scale questions have the same variance everywhere.
        quantile_X: of the standard normal or of Student's distribution; nan where nothing is known.
    """
    share, variance, quantile = (np.asarray(each, dtype=np.float64) for each in (share_X, variance_X, quantile_X))
    weight = 4 * variance * quantile**2
    centre = (share + weight / 2) / (1 + weight)
    half = np.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    low, high = np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
    return np.where((share <= 0) & ~np.isnan(low), 0.0, low), np.where((share >= 1) & ~np.isnan(high), 1.0, high)


def variance_of_angle(share: float, variance: float, number: float, least: bool = True) -> float:
    """Return the variance of arcsin sqrt(share), the share moved off the ends by 3/8 answers (Anscombe 1948).

    With `least` it is at least 1 / (4 number): a share of n questions is never known better than n questions allow.
    """
    pulled = (share * number + PULL) / (number + 2 * PULL)
    return max(variance / (4 * pulled * (1 - pulled)), 1 / (4 * number) if least else 0.0)


def wilson(successes: float, number: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the score interval of a proportion, for a single seed (Wilson 1927). It stays within [0, 1].

    It covers only the noise of `number` independent questions: another seed may differ by more.

    Raises ValueError: no questions, or successes out of range.
    """
    check_confidence(confidence)
    if number < 1 or not 0 <= successes <= number:
        raise ValueError(f"a proportion needs 0 <= successes <= number, got {successes} of {number}")
    z = float(ndtri((1 + confidence) / 2))
    share, weight = successes / number, z * z / number
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / number + weight / (4 * number))
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    return (0.0 if successes == 0 else low, 1.0 if successes == number else high)


@dataclass(frozen=True)
class Clustered:
    """A ratio of sums over clusters, e.g. a share of answers clustered by question.

    Attributes:
        mean: the ratio.
        low, high: ends of the interval; nan for one cluster.
        error: cluster-robust standard error.
        design: design effect, the variance over that of independent answers; 1 if clustering does not matter, nan if
            unknown.
        num_clusters: number of clusters with an answer.
    """

    mean: float
    low: float
    high: float
    error: float
    design: float
    num_clusters: int


def clustered_interval(hits_Q: ArrayLike, number_Q: ArrayLike, confidence: float = 0.95) -> Clustered:
    """Compute the interval of sum(hits) / sum(number) if answers to the same question are correlated.

        V = Q / (Q - 1) sum_q (hits_q - mean number_q)^2 / (sum_q number_q)^2

    It is a score interval (`score_interval`) with Student's quantile of Q - 1 degrees of freedom.

    Source: Cochran, Sampling Techniques, section 9A (ratio of cluster totals); for evaluations Miller 2024,
    arXiv:2411.00640, section 2.2.

    Args:
        hits_Q, number_Q: for each question, the hits and the valid answers. Questions without valid answers are left
            out.
    """
    check_confidence(confidence)
    number = np.asarray(number_Q, dtype=np.float64)
    asked_Q = number > 0
    hits, number = np.asarray(hits_Q, dtype=np.float64)[asked_Q], number[asked_Q]
    count = len(number)
    if not count:
        return Clustered(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    total = float(number.sum())
    mean = float(hits.sum()) / total
    if count == 1:
        return Clustered(mean, math.nan, math.nan, math.nan, math.nan, 1)
    variance = count / (count - 1) * float(((hits - mean * number) ** 2).sum()) / total**2
    independent = mean * (1 - mean) / total
    design = variance / independent if independent > 0 else math.nan
    quantile = stdtrit(count - 1, (1 + confidence) / 2)
    low, high = score_interval(mean, variance_of_angle(mean, variance, total), quantile)
    return Clustered(mean, float(low), float(high), math.sqrt(variance), design, count)
