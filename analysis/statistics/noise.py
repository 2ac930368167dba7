"""The noise of configurations' means: how large it is, and how much of it they share.

Seeds are common random numbers: a trial's score is mean + effect of the seed + effect of the training + residual. All
configurations share the effect of the seed. Those that are read from one training (its checkpoints, its scaled adapter)
also share the effect of the training. The parts are estimated from all configurations together, because the 3 seeds of
a single one say next to nothing.

Everything here is on the scale of `analysis.statistics.ranges`.

Shape legend: C configurations, S seeds, M objectives, B replicates, K some of the configurations, N rows of a
covariance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from analysis.statistics.arrays import Bools, Floats, Integers
from analysis.statistics.intervals import pair_freedom, shrunk_spread
from analysis.statistics.measurements import Measurements
from analysis.statistics.ranges import Ranges

FEW = 3  # configurations needed for a method to have a variance of its own
FAR, AGREEING = 8.0, 4.0  # standard deviations: how far an outlier is, and how far apart the other seeds may be
FEWEST_SEEDS = 3  # of a configuration with an outlier
NORMAL = 1.4826  # standard deviation of normal numbers in units of their median deviation


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise of the means of all configurations.

    Attributes:
        mean_CM: the means.
        scale_CM: standard deviation of one trial, shrunk within its method; for a share of n questions, at least what n
            questions allow.
        freedom_CM: degrees of freedom of `scale_CM`.
        shared_MM, training_MM, residual_MM: covariance of the effect of the seed, of the training, and of the residual,
            in units of `scale_CM`; they add up to a correlation matrix.
        ranges: ranges of the objectives, with the number of questions that would give the noise of a typical mean.
        present_CS: which trials exist.
        training_C: configurations with the same number share the effect of a training.
        outlying_CM: configurations with a trial far from its mean, such as one that collapsed.
    """

    mean_CM: Floats
    scale_CM: Floats
    freedom_CM: Floats
    shared_MM: Floats
    training_MM: Floats
    residual_MM: Floats
    ranges: Ranges
    present_CS: Bools
    training_C: Integers
    outlying_CM: Bools

    @cached_property
    def num_seeds_C(self) -> Integers:
        """The number of trials of each configuration."""
        return self.present_CS.sum(axis=1)

    @cached_property
    def weight_CS(self) -> Floats:
        """The weight of each trial in its configuration's mean."""
        return np.asarray(self.present_CS / self.num_seeds_C[:, None])

    @cached_property
    def trainings(self) -> tuple[Bools, ...]:
        """For each training that several configurations are read from, these configurations as bool_C."""
        numbers, count = np.unique(self.training_C, return_counts=True)
        return tuple(self.training_C == number for number in numbers[count > 1])

    def draw(self, random: np.random.Generator, replicates: int) -> Floats:
        """Draw noise_BCM: errors of the means, as they would be with other seeds."""
        num_configurations, num_seeds = self.present_CS.shape
        num_objectives = self.mean_CM.shape[1]

        def effect(matrix_MM: Floats, number: int) -> Floats:
            return random.standard_normal((replicates, number, num_objectives)) @ root(matrix_MM).T

        noise_BCM = effect(self.residual_MM, num_configurations) / np.sqrt(self.num_seeds_C)[:, None]
        noise_BCM += np.einsum("cs,bsm->bcm", self.weight_CS, effect(self.shared_MM, num_seeds), optimize=True)
        alone_C = ~np.any([np.zeros(num_configurations, dtype=bool), *self.trainings], axis=0)
        trained_BCM = effect(self.training_MM, int(alone_C.sum()))
        noise_BCM[:, alone_C] += trained_BCM / np.sqrt(self.num_seeds_C[alone_C])[:, None]
        for rows_C in self.trainings:
            effect_BSM = effect(self.training_MM, num_seeds)
            noise_BCM[:, rows_C] += np.einsum("cs,bsm->bcm", self.weight_CS[rows_C], effect_BSM, optimize=True)
        return np.asarray(noise_BCM * self.scale_CM)

    def covariance(self, rows_K: Integers, alike: bool = False) -> Floats:
        """Return covariance_MKK of the errors of some configurations' means, objective by objective.

        Args:
            alike: treat all of these configurations as equally noisy, as the fit of a curve does, except outlying ones.
                With skewed noise, what moves a mean also raises its variance, so that unequal weights would bias the
                curve; but a trial that collapsed says nothing about where its neighbours lie.
        """
        weight_KS = self.weight_CS[rows_K]
        common_KK = weight_KS @ weight_KS.T
        same_KK = self.training_C[rows_K][:, None] == self.training_C[rows_K]
        alone_KK = np.diag(1 / self.num_seeds_C[rows_K])
        parts = []
        for column in range(self.mean_CM.shape[1]):
            shared, training, residual = (
                matrix_MM[column, column] for matrix_MM in (self.shared_MM, self.training_MM, self.residual_MM)
            )
            unit_KK = shared * common_KK + training * common_KK * same_KK + residual * alone_KK
            scale_K = self.scale_CM[rows_K, column]
            if alike:
                usual_K = ~self.outlying_CM[rows_K, column]
                pool = math.sqrt(float((scale_K[usual_K] ** 2).mean())) if usual_K.any() else 0.0
                scale_K = np.where(usual_K, pool, np.maximum(scale_K, pool))
            parts.append(unit_KK * scale_K[:, None] * scale_K)
        return np.stack(parts)


def estimate_noise(measured: Measurements) -> Noise:
    """Estimate the noise.

    Variances are shrunk within a method. If it has fewer than `FEW` configurations with at least two seeds, they are
    shrunk towards those of all methods.

    Raises ValueError: no configuration has two seeds, so nothing is known about the noise.
    """
    present_CS = measured.present_CS
    repeated_C = present_CS.sum(axis=1) > 1
    if not repeated_C.any():
        raise ValueError("no configuration has two seeds")
    values_CSM = measured.gains_CSM / measured.slope_CM[:, None, :]
    everything = shrunk_spread(values_CSM)
    variance_CM, freedom_CM = everything.variance_CM.copy(), everything.freedom_CM.copy()
    outlying_CM = _outlying(everything.residual_CSM, measured.least_variance_CM)
    for method in np.unique(measured.method_C):
        rows_C = measured.method_C == method
        if (rows_C & repeated_C).sum() >= FEW:
            spread = shrunk_spread(values_CSM[rows_C])
            variance_CM[rows_C], freedom_CM[rows_C] = spread.variance_CM, spread.freedom_CM
            outlying_CM[rows_C] = _outlying(spread.residual_CSM, measured.least_variance_CM[rows_C])
    scale_CM = np.sqrt(np.maximum(variance_CM, measured.least_variance_CM))
    parts = _components(everything.residual_CSM, scale_CM, present_CS, measured.training_C)
    ranges = replace(measured.ranges, answers_M=_answers(scale_CM, measured))
    mean_CM = ranges.forward(measured.mean_CM)
    return Noise(mean_CM, scale_CM, freedom_CM, *parts, ranges, present_CS, measured.training_C, outlying_CM)


def _outlying(residual_CSM: Floats, least_variance_CM: Floats) -> Bools:
    """Return which configurations have one trial far from its mean, while the others agree.

    The yardstick is the median deviation of all of these trials that deviate. A configuration whose seeds scatter
    altogether, as in a steep window of a knob, is no outlier; nor is one of two seeds, where none is known to be odd.
    """
    num_C11 = np.isfinite(residual_CSM).sum(axis=1, keepdims=True)
    away_CSM = np.nan_to_num(np.abs(residual_CSM)) / np.sqrt(1 - 1 / np.maximum(num_C11, 2))
    deviations = (away_CSM[:, :, column][away_CSM[:, :, column] > 0] for column in range(away_CSM.shape[2]))
    median_M = np.array([np.median(each) if len(each) else 0.0 for each in deviations])
    usual_M = np.maximum(NORMAL * median_M, np.sqrt(np.median(least_variance_CM, axis=0)))
    others_CSM = residual_CSM.copy()
    np.put_along_axis(others_CSM, away_CSM.argmax(axis=1)[:, None, :], np.nan, axis=1)
    with np.errstate(invalid="ignore"):
        apart_CM = np.fmax.reduce(others_CSM, axis=1) - np.fmin.reduce(others_CSM, axis=1)
    far_CM = away_CSM.max(axis=1) > FAR * usual_M
    return np.asarray(far_CM & (apart_CM <= AGREEING * usual_M) & (num_C11[:, 0] >= FEWEST_SEEDS))


def _answers(scale_CM: Floats, measured: Measurements) -> Floats:
    """Return answers_M: how many independent questions would give the noise of a typical mean."""
    variance_M = np.median(scale_CM**2 / measured.num_seeds_C[:, None], axis=0)
    return np.asarray(np.where(variance_M > 0, 1 / (4 * np.where(variance_M > 0, variance_M, 1.0)), 0.0))


def _components(
    residual_CSM: Floats, scale_CM: Floats, present_CS: Bools, training_C: Integers
) -> tuple[Floats, Floats, Floats]:
    """Estimate shared_MM, training_MM and residual_MM from products of standardised residuals.

    The products are of one trial with itself, of two trials with a seed in common, and of two that are read from one
    training. Each sum is divided by its expectation, so that the estimates are unbiased, also with missing trials. Then
    negative eigenvalues are set to 0.
    """
    safe_CM = np.where(scale_CM > 0, scale_CM, 1.0)
    unit_CSM = np.where(present_CS[:, :, None], residual_CSM / safe_CM[:, None, :], 0.0)
    freedom_CC = pair_freedom(present_CS)
    own_MM = np.einsum("csm,csn->mn", unit_CSM, unit_CSM)
    nothing_MM = np.zeros_like(own_MM)
    total_MM = own_MM / float(np.trace(freedom_CC))

    def products(rows_C: Bools | slice) -> tuple[Floats, float]:
        """Return the summed products of all pairs of configurations, and their total weight."""
        chosen_CSM, weights_CC = unit_CSM[rows_C], freedom_CC[rows_C][:, rows_C]
        by_seed_SM = chosen_CSM.sum(axis=0)
        pairs_MM = by_seed_SM.T @ by_seed_SM - np.einsum("csm,csn->mn", chosen_CSM, chosen_CSM)
        return np.asarray(pairs_MM), float(weights_CC.sum() - np.trace(weights_CC))

    pairs_MM, weight = products(slice(None))
    numbers, count = np.unique(training_C, return_counts=True)
    within = [products(training_C == number) for number in numbers[count > 1]]
    within_MM = sum((part for part, _ in within), nothing_MM)
    within_weight = sum(size for _, size in within)
    across = weight - within_weight
    shared_MM = _positive((pairs_MM - within_MM) / across) if across > 1e-9 else nothing_MM
    training_MM = _positive(within_MM / within_weight - shared_MM) if within_weight > 1e-9 else nothing_MM
    diagonal_M = np.sqrt(np.where(np.diag(total_MM) > 0, np.diag(total_MM), 1.0))
    norm_MM = np.outer(diagonal_M, diagonal_M)
    residual_MM = _positive(total_MM - shared_MM - training_MM)
    return shared_MM / norm_MM, training_MM / norm_MM, residual_MM / norm_MM


def _positive(matrix_MM: Floats) -> Floats:
    """Return the nearest matrix without negative eigenvalues."""
    value_M, vector_MM = np.linalg.eigh((matrix_MM + matrix_MM.T) / 2)
    return np.asarray((vector_MM * np.maximum(value_M, 0.0)) @ vector_MM.T, dtype=np.float64)


def root(matrix_NN: Floats) -> Floats:
    """Return a root of a covariance = root @ root.T. Eigenvalues that rounding made negative are set to 0.

    Takes a stack of matrices as well.
    """
    value_N, vector_NN = np.linalg.eigh((matrix_NN + np.swapaxes(matrix_NN, -1, -2)) / 2)
    return np.asarray(vector_NN * np.sqrt(np.maximum(value_N, 0.0))[..., None, :], dtype=np.float64)
