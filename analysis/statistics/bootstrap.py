"""A parametric bootstrap of configurations' means, and what it says of frontiers.

Seeds are common random numbers: a trial's score is mean + shared seed effect + residual. Both parts are estimated from
all configurations together, because 3 seeds of one say next to nothing, and drawn anew for every replicate. Resampling
the seeds themselves, the obvious percentile bootstrap, covers the hypervolume of a frontier a third to two thirds of
the time at 3 seeds, and is not offered.

Gains: larger is better.

Shape legend: C configurations, S seeds, M objectives, B replicates, R configurations that others do not dominate
throughout, P scores that are moved to take a derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtr, stdtrit

from analysis.statistics.arrays import Bools, Floats, Integers, finite_or_none
from analysis.statistics.intervals import pair_freedom, shrunk_spread
from analysis.statistics.pareto import CHUNK, dominated, fronts

Value = Callable[[Floats], Floats]  # means_BCM -> value_B
REPLICATES = 2000
SLOPES = 8  # replicates over which a gradient is averaged
SETS = 200  # sets of means whose statistic is taken together
FEW = 3  # configurations that a variance of a method's own takes


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise of the means of all configurations with a trial.

    Attributes:
        mean_CM: the means.
        scale_CM: standard deviation of one trial, shrunk within its method.
        freedom_CM: degrees of freedom of that.
        shared_MM, residual_MM: covariance of seed effect and residual, both in units of `scale_CM`; they add up to a
            correlation matrix.
        present_CS: which trials exist.
    """

    mean_CM: Floats
    scale_CM: Floats
    freedom_CM: Floats
    shared_MM: Floats
    residual_MM: Floats
    present_CS: Bools

    @property
    def num_seeds_C(self) -> Integers:
        """The number of trials of each configuration."""
        return self.present_CS.sum(axis=1)

    def draw(self, random: np.random.Generator, replicates: int) -> Floats:
        """Draw noise_BCM: errors of the means, as they would be with other seeds."""
        num_C = self.num_seeds_C
        num_configurations, num_seeds = self.present_CS.shape
        num_objectives = self.mean_CM.shape[1]
        effect_BSM = random.standard_normal((replicates, num_seeds, num_objectives)) @ _root(self.shared_MM).T
        residual_BCM = (
            random.standard_normal((replicates, num_configurations, num_objectives)) @ _root(self.residual_MM).T
        )
        weight_CS = self.present_CS / num_C[:, None]
        shared_BCM = np.einsum("cs,bsm->bcm", weight_CS, effect_BSM, optimize=True)
        return (shared_BCM + residual_BCM / np.sqrt(num_C)[:, None]) * self.scale_CM

    def freedom(self, gradient_CM: Floats) -> float:
        """Return the degrees of freedom of the estimated variance of a statistic with slope `gradient_CM` in the means.

        After Satterthwaite 1946: the shared part rests on S - 1 degrees, the residual one on (C - 1)(S - 1). Of the
        uncertainty of the shared part only the terms are counted that vanish when there is none.
        """
        num_C = self.num_seeds_C
        slope_CM = gradient_CM * self.scale_CM
        weight_CS = self.present_CS / num_C[:, None]
        by_seed_SM = weight_CS.T @ slope_CM
        shared = float(np.einsum("sm,mn,sn->", by_seed_SM, self.shared_MM, by_seed_SM))
        leak = float(np.einsum("sm,mn,sn->", by_seed_SM, self.residual_MM, by_seed_SM)) / len(num_C)
        residual = float(np.einsum("cm,mn,cn->", slope_CM / num_C[:, None], self.residual_MM, slope_CM))
        total = shared + residual
        seeds = max(int(num_C.max()) - 1, 1)
        rest = max(int(np.maximum(num_C - 1, 0).sum()) - seeds, 1)
        if total <= 0:
            return float(rest)
        return total**2 / (shared * (shared + 2 * leak) / seeds + residual**2 / rest)


def estimate_noise(gains_CSM: ArrayLike, method_C: ArrayLike) -> Noise:
    """Estimate the noise of configurations that all have a trial.

    Variances are shrunk within a method; one of fewer than `FEW` configurations with two seeds shrinks towards all.

    Raises ValueError: no configuration has two seeds, so nothing is known of the noise; one has none.
    """
    gains_CSM, methods = np.asarray(gains_CSM, dtype=np.float64), np.asarray(method_C)
    present_CS = ~np.isnan(gains_CSM).any(axis=2)
    if not present_CS.any(axis=1).all():
        raise ValueError(f"configuration {int(np.argmin(present_CS.any(axis=1)))} has no trial")
    repeated_C = present_CS.sum(axis=1) > 1
    if not repeated_C.any():
        raise ValueError("no configuration has two seeds")
    everything = shrunk_spread(gains_CSM)
    variance_CM, freedom_CM = everything.variance_CM.copy(), everything.freedom_CM.copy()
    for method in np.unique(methods):
        rows_C = methods == method
        if (rows_C & repeated_C).sum() >= FEW:
            spread = shrunk_spread(gains_CSM[rows_C])
            variance_CM[rows_C], freedom_CM[rows_C] = spread.variance_CM, spread.freedom_CM
    scale_CM = np.sqrt(variance_CM)
    shared_MM, residual_MM = _components(everything.residual_CSM, scale_CM, present_CS)
    return Noise(np.nanmean(gains_CSM, axis=1), scale_CM, freedom_CM, shared_MM, residual_MM, present_CS)


def _components(residual_CSM: Floats, scale_CM: Floats, present_CS: Bools) -> tuple[Floats, Floats]:
    """Estimate shared_MM and residual_MM from products of standardised residuals.

    The products are of one trial with itself, and of two trials with a seed in common.

    Both sums have the expectation that makes the estimates unbiased, with missing trials too, before negative
    eigenvalues are cut off.
    """
    safe_CM = np.where(scale_CM > 0, scale_CM, 1.0)
    unit_CSM = np.where(present_CS[:, :, None], residual_CSM / safe_CM[:, None, :], 0.0)
    freedom_CC = pair_freedom(present_CS)
    single, pairs = float(np.trace(freedom_CC)), float(freedom_CC.sum() - np.trace(freedom_CC))
    within_MM = np.einsum("csm,csn->mn", unit_CSM, unit_CSM)
    by_seed_SM = unit_CSM.sum(axis=0)
    total_MM, between_MM = within_MM / single, by_seed_SM.T @ by_seed_SM - within_MM
    shared_MM = _positive(between_MM / pairs) if pairs > 1e-9 else np.zeros_like(total_MM)
    diagonal_M = np.sqrt(np.where(np.diag(total_MM) > 0, np.diag(total_MM), 1.0))
    norm_MM = np.outer(diagonal_M, diagonal_M)
    return shared_MM / norm_MM, _positive(total_MM - shared_MM) / norm_MM


def _positive(matrix_MM: Floats) -> Floats:
    """Return the nearest matrix without negative eigenvalues."""
    value_M, vector_MM = np.linalg.eigh((matrix_MM + matrix_MM.T) / 2)
    return np.asarray((vector_MM * np.maximum(value_M, 0.0)) @ vector_MM.T, dtype=np.float64)


def _root(matrix_MM: Floats) -> Floats:
    """Return a matrix whose product with its transpose is `matrix_MM`."""
    value_M, vector_MM = np.linalg.eigh(matrix_MM)
    return np.asarray(vector_MM * np.sqrt(np.maximum(value_M, 0.0)), dtype=np.float64)


@dataclass(frozen=True)
class Statistic:
    """A bias-corrected estimate with its t-interval.

    Attributes:
        estimate: corrected.
        low, high: ends of the interval.
        error: standard error.
        freedom: degrees of freedom of the error.
        bias: what was taken off the plug-in value.
    """

    estimate: float
    low: float
    high: float
    error: float
    freedom: float
    bias: float

    def to_json(self) -> dict[str, float | None]:
        """Return the statistic as JSON data; nan and infinity become None."""
        names = ("estimate", "low", "high", "error", "freedom")
        return {name: finite_or_none(float(getattr(self, name))) for name in names}

    def __neg__(self) -> Statistic:
        return replace(self, estimate=-self.estimate, low=-self.high, high=-self.low, bias=-self.bias)

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that the true value is 0; 1 for an estimate of 0 without error."""
        if self.error == 0:
            return 1.0 if self.estimate == 0 else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.estimate) / self.error))


class Bootstrap:
    """Replicates of the means of all configurations, shared by every statistic, so that differences are paired.

    Args:
        gains_CSM: oriented scores; every configuration has a trial.
        method_C: whose variance is pooled.
        replicates, seed: of the draws.

    Raises ValueError: no configuration has two seeds.

    Attributes:
        noise: the estimated noise.
        draws_BCM: means with noise.
    """

    def __init__(self, gains_CSM: ArrayLike, method_C: ArrayLike, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.noise = estimate_noise(gains_CSM, method_C)
        self.draws_BCM = self.noise.mean_CM + self.noise.draw(np.random.default_rng(seed), replicates)

    def statistic(self, value: Value, confidence: float = 0.95) -> Statistic:
        """Estimate a function of the means, with its interval.

            estimate = value(means) - bias,    bias = mean over replicates of value(replicate) - value(means)
            estimate +- t_{freedom, (1 + confidence) / 2} sd over replicates

        A frontier's hypervolume is biased upwards, because the luckiest of many configurations make it.
        """
        plain = float(value(self.noise.mean_CM[None])[0])
        values_B = value(self.draws_BCM)
        bias, error = float(values_B.mean()) - plain, float(values_B.std(ddof=1))
        freedom = self.noise.freedom(self._gradient(value))
        half = float(stdtrit(freedom, (1 + confidence) / 2)) * error
        estimate = plain - bias
        return Statistic(estimate, estimate - half, estimate + half, error, freedom, bias)

    def _gradient(self, value: Value) -> Floats:
        """Return gradient_CM, the mean slope of a function over a few replicates, by differences; 0 without noise."""
        start_BCM = self.draws_BCM[:SLOPES]
        step_CM = 1e-3 * self.noise.scale_CM
        gradient_CM = np.zeros_like(step_CM)
        places = np.argwhere(step_CM > 0)
        if not len(places):
            return gradient_CM
        before_B = value(start_BCM)
        for chunk in np.split(places, range(SETS // SLOPES, len(places), SETS // SLOPES)):
            moved_PBCM = np.repeat(start_BCM[None], len(chunk), axis=0)
            size_P = step_CM[chunk[:, 0], chunk[:, 1]]
            moved_PBCM[np.arange(len(chunk)), :, chunk[:, 0], chunk[:, 1]] += size_P[:, None]
            after_PB = value(moved_PBCM.reshape(-1, *step_CM.shape)).reshape(len(chunk), -1)
            gradient_CM[chunk[:, 0], chunk[:, 1]] = (after_PB - before_B).mean(axis=1) / size_P
        return gradient_CM

    @cached_property
    def _rivals_C(self) -> Bools:
        """The configurations that no other dominates in every replicate; the rest never matters to a front."""
        worst_CM, best_CM = self.draws_BCM.min(axis=0), self.draws_BCM.max(axis=0)
        return np.logical_not(dominated(best_CM[None], worst_CM[None])[0])

    def on_front(self) -> Floats:
        """Return probability_C: the share of the replicates in which no other configuration dominates."""
        probability_C = np.zeros(self.draws_BCM.shape[1])
        probability_C[self._rivals_C] = fronts(self.draws_BCM[:, self._rivals_C]).mean(axis=0)
        return probability_C

    @property
    def _chunks(self) -> int:
        """The number of pieces in which the replicates are looked at, to save memory."""
        rivals, objectives = int(self._rivals_C.sum()), self.draws_BCM.shape[2]
        return 1 + len(self.draws_BCM) * rivals**2 * objectives // CHUNK

    def band(self, confidence: float = 0.95) -> Band:
        """Find two fronts between which the whole front of the true means lies, with this confidence.

        They are the fronts of means - k error and means + k' error: k is the smallest that keeps the front of the means
        above the lower front in all but (1 - confidence) / 2 of the replicates, and k' likewise below the upper one,
        both turned from a normal's to Student's quantile with each configuration's freedom. A configuration that others
        dominate by far does not widen the band.
        """
        rivals_C = self._rivals_C
        mean_RM, draws_BRM = self.noise.mean_CM[rivals_C], self.draws_BCM[:, rivals_C]
        error_RM = draws_BRM.std(axis=0, ddof=1)
        unit_RM = np.where(error_RM > 0, error_RM, np.inf)
        multiples = []
        for chunk_BRM in np.array_split(draws_BRM, self._chunks):
            gap_BRRM = (chunk_BRM[:, :, None, :] - mean_RM[None, None, :, :]) / unit_RM[None, :, None, :]
            beyond_BRR, behind_BRR = gap_BRRM.max(axis=3), (-gap_BRRM).max(axis=3)
            multiples.append([beyond_BRR.min(axis=2).max(axis=1), behind_BRR.min(axis=1).max(axis=1)])
        multiple_2B = np.concatenate(multiples, axis=1)
        below, above = np.maximum(np.quantile(multiple_2B, (1 + confidence) / 2, axis=1), 0.0)
        low_RM, high_RM = (stdtrit(self.noise.freedom_CM[rivals_C], ndtr(multiple)) for multiple in (below, above))
        return Band(mean_RM - low_RM * error_RM, mean_RM + high_RM * error_RM)


TWO_SEEDS = "two seeds hardly tell their variance, so that bands and intervals are wide: a third narrows them most"


@dataclass(frozen=True, eq=False)
class Band:
    """Points whose fronts bound the front of the true means, from below and from above."""

    low_RM: Floats
    high_RM: Floats
