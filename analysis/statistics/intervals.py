"""Intervals for the mean of a configuration: over seeds, and over seeds and questions.

Shape legend: C configurations, S seeds, M objectives, Q questions, N variances that share a prior. A nan among the
values means that there is no trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, polygamma, stdtrit

from analysis.statistics.arrays import Bools, Floats, Integers, check_confidence, nan_mean
from analysis.statistics.measurements import Measurements
from analysis.statistics.proportions import score_interval, variance_of_angle

SMALLEST = 1e-5  # of the median variance; smaller ones are raised to it before logarithms are taken


@dataclass(frozen=True, eq=False)
class Intervals:
    """Mean and interval of each configuration and objective.

    Attributes:
        mean_CM: nan for a configuration without a trial.
        low_CM, high_CM: ends of the interval; nan where there is none.
        num_seeds_C: trials of each configuration.
    """

    mean_CM: Floats
    low_CM: Floats
    high_CM: Floats
    num_seeds_C: Integers


@dataclass(frozen=True, eq=False)
class Spread:
    """The variance of a trial, estimated from the seeds of ONE method's configurations.

    Attributes:
        variance_CM: of one trial, shrunk towards the pool of the method's configurations; nan without any degree of
            freedom.
        freedom_CM: effective degrees of freedom of the variance, for Student's t.
        residual_CSM: scores minus the configuration's mean; nan where there is no trial.
    """

    variance_CM: Floats
    freedom_CM: Floats
    residual_CSM: Floats


def shrunk_spread(values_CSM: ArrayLike) -> Spread:
    """Estimate the variance between seeds: each configuration's own, shrunk towards their pool as far as data allow.

        variance_c = (d_0 pool + d_c s_c^2) / (d_0 + d_c),    d_c = n_c - 1

    s_c^2 is the configuration's own variance. d_0 and the pool are those of the scaled inverse chi-square distribution
    that fits the variances of the method's configurations. If these differ by no more than chance, d_0 is infinite and
    all get the same variance. If a method is much noisier at one end of its knob, d_0 is small and each keeps more of
    its own.

    The degrees of freedom are d_0 + d_c, but at most those of the pool: sum d_c, divided by 1 + (C - 1) r^2. The
    division is needed because seeds are common random numbers: a seed that is lucky for one configuration tends to be
    lucky for the others. r is the part of the variance that they share.

    Configurations whose seeds all agree, such as a share at its ceiling, say nothing about how much the others vary, so
    they are left out of the pool. They get the variance of all configurations together, themselves included: less than
    the others', but not zero.

    Source: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression", sections 3
    and 6.2; the freedom of correlated variances after Satterthwaite 1946.

    Args:
        values_CSM: the rows of one method; a (configuration, seed) is nan in every objective or in none.
    """
    values, num_C = _checked(values_CSM)
    residual_CSM = values - nan_mean(values, axis=1)[:, None, :]
    freedom_C = np.maximum(num_C - 1, 0)
    squares_CM = np.nansum(residual_CSM**2, axis=1)
    columns = [
        _shrink(squares_CM[:, column], freedom_C, residual_CSM[:, :, column]) for column in range(squares_CM.shape[1])
    ]
    variance_CM, freedom_CM = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    return Spread(variance_CM, freedom_CM, residual_CSM)


def _shrink(squares_C: Floats, freedom_C: Integers, residual_CS: Floats) -> tuple[Floats, Floats]:
    """Return variance_C and its freedom_C for one objective."""
    freedom = int(freedom_C.sum())
    if freedom == 0:
        return np.full(len(freedom_C), np.nan), np.zeros(len(freedom_C))
    varies_C = squares_C > 0
    if not varies_C.any():
        return np.zeros(len(freedom_C)), np.full(len(freedom_C), float(freedom))
    quiet = float(squares_C.sum()) / freedom
    freedom = int(freedom_C[varies_C].sum())
    pool = float(squares_C.sum()) / freedom
    limit = max(freedom / (1 + (int(varies_C.sum()) - 1) * _shared_share(residual_CS[varies_C]) ** 2), 1.0)
    prior = _prior_freedom(squares_C[varies_C] / freedom_C[varies_C], freedom_C[varies_C])
    shrunk_C = (prior * pool + squares_C) / (prior + freedom_C) if math.isfinite(prior) else pool
    pooled_C = varies_C | (freedom_C == 0)
    return np.where(pooled_C, shrunk_C, quiet), np.minimum(prior + freedom_C, limit)


def _prior_freedom(variance_N: Floats, freedom_N: Integers) -> float:
    """Estimate d_0 from the moments of log variances (Smyth 2004, 6.2): infinite if they vary no more than chance."""
    if len(variance_N) < 3:
        return math.inf
    raised_N = np.maximum(variance_N, SMALLEST * np.median(variance_N))
    half_N = freedom_N / 2
    excess_N = np.log(raised_N) - digamma(half_N) + np.log(half_N)
    beyond = float(excess_N.var(ddof=1) - polygamma(1, half_N).mean())
    return 2 * _inverse_trigamma(beyond) if beyond > 0 else math.inf


def _inverse_trigamma(value: float) -> float:
    """Find the x at which the trigamma function equals `value` > 0, by Newton's method (Smyth 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def _shared_share(residual_CS: Floats) -> float:
    """Estimate r, the part of the variance between seeds that the configurations share, clipped to [0, 1]."""
    present_CS = ~np.isnan(residual_CS)
    residual_CS = np.where(present_CS, residual_CS, 0.0)
    num_C = present_CS.sum(axis=1)
    weight_CC = pair_freedom(present_CS)
    single, pairs = float(np.trace(weight_CC)), float(weight_CC.sum() - np.trace(weight_CC))
    total = float((residual_CS**2).sum())
    if total == 0 or (num_C > 1).sum() < 2 or pairs < 1e-9:
        return 0.0
    between = float((residual_CS.sum(axis=0) ** 2).sum()) - total
    return min(max((between / pairs) / (total / single), 0.0), 1.0)


def pair_freedom(present_CS: Bools) -> Floats:
    """Return freedom_CC: the expected sum of products of two configurations' residuals if a seed effect is shared.

        sum_s E[(a_s - mean_c a)(a_s - mean_c' a)] = k (1 - 1 / n_c - 1 / n_c' + k / (n_c n_c'))

    over the k seeds that both have, for a seed effect a of variance 1. The diagonal is n - 1.
    """
    present = present_CS.astype(np.float64)
    num_C = np.maximum(present.sum(axis=1), 1.0)
    common_CC = present @ present.T
    inverse_C = 1 / num_C
    part_CC = 1 - inverse_C[:, None] - inverse_C[None, :] + common_CC * inverse_C[:, None] * inverse_C[None, :]
    return np.asarray(common_CC * part_CC)


def pooled_intervals(values_CSM: ArrayLike, confidence: float = 0.95) -> Intervals:
    """Compute t-intervals for the configurations of ONE method, with the variance of `shrunk_spread`.

        mean_c +- t_{freedom_c, (1 + confidence) / 2} sqrt(variance_c / n_c)

    With 3 seeds, a single configuration has 2 degrees of freedom and t = 4.3. Six configurations together have 12 and
    t = 2.2, and their intervals are 0.6 times as wide on average at the same coverage. A configuration with one seed
    borrows the others' variance. If no configuration has two seeds there is no interval: low and high are nan.

    Args:
        values_CSM: the rows of one method; a (configuration, seed) is nan in every objective or in none.
        confidence: in (0, 1).

    Raises ValueError: infinity, or nan in only some objectives of a trial.
    """
    check_confidence(confidence)
    values, num_C = _checked(values_CSM)
    mean_CM, spread = nan_mean(values, axis=1), shrunk_spread(values)
    with np.errstate(invalid="ignore"):
        quantile_CM = stdtrit(np.where(spread.freedom_CM > 0, spread.freedom_CM, np.nan), (1 + confidence) / 2)
    half_CM = quantile_CM * np.sqrt(spread.variance_CM / np.maximum(num_C, 1)[:, None])
    return Intervals(mean_CM, mean_CM - half_CM, mean_CM + half_CM, num_C)


def intervals_by_method(measured: Measurements, confidence: float = 0.95) -> Intervals:
    """Compute the interval of each configuration, its variance shrunk within its method (`shrunk_spread`).

    A score whose range has two ends gets a score interval (`score_interval`) with Student's quantile. It stays within
    the range, and for a share of n questions it is never narrower than n questions allow. Other scores get the interval
    of `pooled_intervals`.
    """
    check_confidence(confidence)
    values_CSM = measured.gains_CSM / measured.slope_CM[:, None, :]
    variance_CM, freedom_CM = (np.full(measured.mean_CM.shape, np.nan) for _ in range(2))
    for method in np.unique(measured.method_C):
        rows_C = measured.method_C == method
        spread = shrunk_spread(values_CSM[rows_C])
        variance_CM[rows_C], freedom_CM[rows_C] = spread.variance_CM, spread.freedom_CM
    variance_CM = np.maximum(variance_CM, measured.least_variance_CM) / measured.num_seeds_C[:, None]
    quantile_CM = np.asarray(stdtrit(np.where(freedom_CM > 0, freedom_CM, np.nan), (1 + confidence) / 2))
    ranges, mean_CM = measured.ranges, measured.mean_CM
    half_CM = quantile_CM * np.sqrt(variance_CM)
    share_CM = np.where(ranges.bounded_M, ranges.unit(mean_CM), 0.5)
    share_low_CM, share_high_CM = score_interval(share_CM, variance_CM, quantile_CM)
    return Intervals(
        mean_CM,
        np.where(ranges.bounded_M, ranges.of_unit(share_low_CM), mean_CM - half_CM),
        np.where(ranges.bounded_M, ranges.of_unit(share_high_CM), mean_CM + half_CM),
        measured.num_seeds_C,
    )


def _checked(values_CSM: ArrayLike) -> tuple[Floats, Integers]:
    """Return the values, and how many trials each configuration has."""
    values = np.asarray(values_CSM, dtype=np.float64)
    if values.ndim != 3:
        raise ValueError(f"values must have the shape [C, S, M], got {values.shape}")
    missing_CSM = np.isnan(values)
    partly_CS = missing_CSM.any(axis=2) & ~missing_CSM.all(axis=2)
    bad_CS = np.isinf(values).any(axis=2) | partly_CS
    if bad_CS.any():
        row, column = (int(index) for index in np.argwhere(bad_CS)[0])
        raise ValueError(
            f"configuration {row}, seed {column}: {values[row, column].tolist()} is infinite, or lacks some objectives"
        )
    return values, (~missing_CSM.any(axis=2)).sum(axis=1)


@dataclass(frozen=True)
class TwoWay:
    """A mean over seeds and questions, both of which are samples.

    Attributes:
        mean: mean over seeds of each seed's mean over questions, skipping missing values.
        low, high: ends of its interval.
        seed_share: part of the variance of the mean that comes from the seeds; the rest is the questions'.
    """

    mean: float
    low: float
    high: float
    seed_share: float


def two_way_interval(
    values_SQ: ArrayLike,
    variance: float | None = None,
    freedom: float | None = None,
    confidence: float = 0.95,
    ends: tuple[float, float] = (-math.inf, math.inf),
) -> TwoWay:
    """Compute the interval of a configuration's mean if the questions, too, are a sample of others like them.

        V = V_seeds + V_questions - V_rest

    V_seeds and V_questions are the variances of the row means and of the column means, divided by their number. V_rest
    is the residual variance divided by S Q, which both of them contain. V is what resampling seeds and questions (the
    pigeonhole bootstrap) tends to, without its bias of (S - 1) / S. The interval is Student's with Satterthwaite's
    degrees of freedom.

    Source: Owen 2007, "The pigeonhole bootstrap"; the moments are those of a crossed random-effects model.

    Args:
        values_SQ: one score of each seed on each question; nan where it could not be graded.
        variance, freedom: variance of one trial's mean over the same questions, shrunk towards that of other
            configurations (`shrunk_spread`), and its degrees of freedom; None uses the seeds' own. With one seed and no
            other configurations, only the questions contribute.
        ends: ends of a grade's range. If there are two, the result is a score interval (`score_interval`): it lies
            between them and, if every grade equals one of them, is never narrower than the number of questions allows.

    Raises ValueError: infinity, or no value at all.
    """
    check_confidence(confidence)
    values = np.asarray(values_SQ, dtype=np.float64)
    if values.ndim != 2 or np.isinf(values).any() or np.isnan(values).all():
        raise ValueError(f"a two-way interval needs finite values [S, Q], got the shape {values.shape}")
    values = values[~np.isnan(values).all(axis=1)][:, ~np.isnan(values).all(axis=0)]
    num_seeds, num_questions = values.shape
    row_S, column_Q = np.nanmean(values, axis=1), np.nanmean(values, axis=0)
    mean = float(row_S.mean())
    measured = float(row_S.var(ddof=1)) if num_seeds > 1 else 0.0
    seeds = (measured if variance is None else variance) / num_seeds
    questions = float(column_Q.var(ddof=1)) / num_questions if num_questions > 1 else 0.0
    rest = 0.0
    if num_seeds > 1 and num_questions > 1:
        left_SQ = values - row_S[:, None] - column_Q[None, :] + np.nanmean(values)
        rest = float(np.nansum(left_SQ**2)) / ((num_seeds - 1) * (num_questions - 1)) / values.size
    total = max(seeds + questions - rest, seeds, questions)
    beyond = total - seeds
    terms = [(seeds, (num_seeds - 1) if freedom is None else freedom), (beyond, num_questions - 1)]
    spread = sum(part**2 / free for part, free in terms if part > 0 and free > 0)
    share = seeds / total if total else 0.0
    quantile = float(stdtrit(total**2 / spread if spread else num_questions, (1 + confidence) / 2))
    if not all(map(math.isfinite, ends)):
        half = quantile * math.sqrt(total) if spread else 0.0
        return TwoWay(mean, mean - half, mean + half, share)
    width = ends[1] - ends[0]
    whole = bool(np.isin(values[~np.isnan(values)], ends).all())
    unit = (mean - ends[0]) / width
    angle = variance_of_angle(unit, total / width**2, num_questions, least=whole)
    low, high = score_interval(unit, angle, quantile)
    return TwoWay(mean, ends[0] + width * float(low), ends[0] + width * float(high), share)
