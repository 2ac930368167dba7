"""A parametric bootstrap of curves and means, and what it says about frontiers.

Where a method's knob is continuous, its configurations lie on a curve (`analysis.statistics.curves`), and the frontier
is that of the curves; a configuration without neighbours is a point. Every replicate draws new noise for all means
together, so that differences are paired. It also draws what the curves may do between their places. Resampling the
seeds themselves, the obvious percentile bootstrap, covers the hypervolume of a frontier only a third to two thirds of
the time at 3 seeds, and is not offered.

Gains: larger is better.

Shape legend: C configurations, S seeds, M objectives, B replicates, P points of all curves and of configurations on
none, N points of one front, D directions that errors have in common, E effects, K places of a curve, T points of a
curve, R points that are on the front of more than a few replicates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

from analysis.statistics.arrays import Bools, Floats, Integers, finite_or_none
from analysis.statistics.best_of_many import shrunk_volumes
from analysis.statistics.curves import Curve, fit_curve
from analysis.statistics.measurements import Measurements
from analysis.statistics.noise import Noise, estimate_noise
from analysis.statistics.pareto import CHUNK, fronts
from analysis.statistics.ranges import Ranges

Value = Callable[[Floats], Floats]  # points_BPM -> value_B
REPLICATES = 1000
SLOPES = 8  # replicates over which a slope is averaged
STEP = 1e-2  # step of a slope, in standard deviations of the effect
TIES = 0.7  # exponent of the share of replicates in which a configuration is on the front
BAND_REPLICATES = 400  # replicates for the band, which takes longest
RARE = 0.002  # a point that is on the front in a smaller share of replicates does not matter to the band


@dataclass(frozen=True)
class Statistic:
    """A bias-corrected estimate with its t-interval.

    Attributes:
        estimate: corrected.
        low, high: ends of the interval.
        error: standard error.
        freedom: degrees of freedom of the error.
        bias: what was subtracted from the plug-in value.
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The values of a function of the points in all replicates. The difference of two evaluations is paired.

    Attributes:
        plain: value for the curves and means as measured.
        bias: how much of that is luck.
        values_B: values with new noise, and with what the curves may do in their gaps.
        slope_D: slope in each common direction.
    """

    plain: float
    bias: float
    values_B: Floats
    slope_D: Floats

    def __sub__(self, other: Evaluation) -> Evaluation:
        return Evaluation(
            self.plain - other.plain,
            self.bias - other.bias,
            self.values_B - other.values_B,
            self.slope_D - other.slope_D,
        )


@dataclass(frozen=True, eq=False)
class _Effect:
    """An effect that several means have in common: of a seed on all of them, or of a seed on those of one training.

    Attributes:
        covariance_MM: covariance of the effect, in units of the means' scale.
        weight_C: weight of the effect in each mean.
        number: how many equal effects there are.
        size: how many configurations it moves.
        freedom: degrees of freedom of its estimated variance.
    """

    covariance_MM: Floats
    weight_C: Floats
    number: int
    size: int
    freedom: float


class Bootstrap:
    """Replicates of all curves and means, shared by every statistic.

    Args:
        measured: the configurations.
        replicates, seed: of the draws.

    Raises ValueError: no configuration has two seeds.

    Attributes:
        noise: the estimated noise of the means.
        curves: the curves of those lines that have one.
        point_C: the point of each configuration, on its first curve.
        joined_P: whether a point and the next one are neighbours on a curve.
        mean_PM: the points as measured, in gains.
        draws_BPM: the points with new noise and new gaps.
    """

    def __init__(self, measured: Measurements, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.measured, self.noise = measured, estimate_noise(measured)
        exact = self.noise.ranges.exact
        fitted = [
            fit_curve(line, self.noise, None if line.start_M is None else exact(line.start_M))
            for line in measured.lines
        ]
        self.curves: tuple[Curve, ...] = tuple(curve for curve in fitted if curve is not None)
        self._lay_out()
        self._seed, random = seed, np.random.default_rng(seed)
        self._errors_BCM = self.noise.draw(random, replicates)
        alone_BPM = np.zeros((replicates, len(self._alone), measured.mean_CM.shape[1]))
        self._gaps_BPM = np.concatenate([*(each.draw_gaps(random, replicates) for each in self.curves), alone_BPM], 1)
        self._z_draws_BPM = self._through(self._errors_BCM) + self._gaps_BPM
        back = self.noise.ranges.back
        self.mean_PM: Floats = back(self._z_mean_PM)
        self.draws_BPM: Floats = back(self._z_draws_BPM)
        self._noisy_BPM: Floats = self.points_with(self._errors_BCM)

    def _lay_out(self) -> None:
        """Number the points: those of every curve, then the configurations that lie on none."""
        num_configurations = len(self.noise.mean_CM)
        self.point_C = np.full(num_configurations, -1)
        self._start_of_curve: list[int] = []
        joined: list[Bools] = []
        number = 0
        for curve in self.curves:
            self._start_of_curve.append(number)
            free_K = (curve.rows_K >= 0) & (self.point_C[curve.rows_K] < 0)
            self.point_C[curve.rows_K[free_K]] = number + curve.places_K[free_K]
            joined.append(curve.joined_T)
            number += len(curve.joined_T)
        self._alone: Integers = np.flatnonzero(self.point_C < 0)
        self.point_C[self._alone] = number + np.arange(len(self._alone))
        self.joined_P = np.concatenate([*joined, np.zeros(len(self._alone), dtype=bool)])

    def _through(self, errors_BCM: Floats) -> Floats:
        """Return z_BPM of the points when the means have these errors."""
        alone_BPM = (self.noise.mean_CM + errors_BCM)[:, self._alone]
        return np.concatenate([*(curve.of(errors_BCM) for curve in self.curves), alone_BPM], axis=1)

    @cached_property
    def _z_mean_PM(self) -> Floats:
        return np.asarray(self._through(np.zeros((1, *self.noise.mean_CM.shape)))[0])

    @property
    def mean_CM(self) -> Floats:
        """The configurations' means, taken from their curve if they lie on one."""
        return np.asarray(self.mean_PM[self.point_C])

    @property
    def draws_BCM(self) -> Floats:
        """Replicates of the configurations' means."""
        return np.asarray(self.draws_BPM[:, self.point_C])

    def points_with(self, errors_BCM: Floats) -> Floats:
        """Return points_BPM, in gains, for means with these errors (on the scale of the noise)."""
        return self.noise.ranges.back(self._through(errors_BCM))

    def points_moved_by(self, changes_BCM: Floats) -> Floats:
        """Return points_BPM, in gains, for means with these changes: to first order, so that no bias enters."""
        z_changes_BPM = self._through(changes_BCM / self.measured.slope_CM) - self._z_mean_PM
        return np.asarray(self.mean_PM + self.noise.ranges.slope_back(self._z_mean_PM) * z_changes_BPM)

    def points_made_of(self, rows_C: Bools) -> Bools:
        """Return bool_P: the points of every curve, and of those of these configurations that lie on no curve."""
        kept_P = np.ones(len(self.mean_PM), dtype=bool)
        kept_P[self.point_C[self._alone[~rows_C[self._alone]]]] = False
        return kept_P

    def groups_of(self, rows_C: Bools) -> list[tuple[Integers, Bools]]:
        """Return the groups that some configurations form: points_N, and whether a point and the next are joined.

        A group is a curve that runs only through these configurations, or a single one of the remaining configurations.
        """
        groups: list[tuple[Integers, Bools]] = []
        covered_C = np.zeros_like(rows_C)
        for curve, start in zip(self.curves, self._start_of_curve, strict=True):
            on_curve_K = curve.rows_K[curve.rows_K >= 0]
            if rows_C[on_curve_K].all():
                covered_C[on_curve_K] = True
                groups.append((start + np.arange(len(curve.joined_T)), curve.joined_T))
        rest = self.point_C[rows_C & ~covered_C]
        return groups + [(np.array([point]), np.zeros(1, dtype=bool)) for point in rest]

    @cached_property
    def _effects(self) -> list[_Effect]:
        """The effects that means have in common; equal ones are counted together."""
        noise = self.noise
        freedom = max(int(noise.num_seeds_C.max()) - 1, 1)
        parts = [(np.ones(len(noise.mean_CM), dtype=bool), noise.shared_MM, freedom)]
        parts += [(rows_C, noise.training_MM, freedom * len(noise.trainings)) for rows_C in noise.trainings]
        effects = []
        for rows_C, covariance_MM, degrees in parts:
            columns_CN, count_N = np.unique(noise.weight_CS * rows_C[:, None], axis=1, return_counts=True)
            effects += [
                _Effect(covariance_MM, column_C, int(count), int(rows_C.sum()), degrees)
                for column_C, count in zip(columns_CN.T, count_N, strict=True)
            ]
        return effects

    @property
    def z_mean_CM(self) -> Floats:
        """The configurations' means on the scale of the noise (`Ranges`)."""
        return np.asarray(self._z_mean_PM[self.point_C])

    @cached_property
    def z_errors_BCM(self) -> Floats:
        """The errors that the replicates add to `z_mean_CM`."""
        return np.asarray(self._z_draws_BPM[:, self.point_C] - self.z_mean_CM)

    @cached_property
    def freedom_CM(self) -> Floats:
        """Degrees of freedom of the variance of `z_errors_BCM`."""
        first_BCM = self._z_draws_BPM[:SLOPES, self.point_C]
        slope_DCM = (self._z_moved_DBPM[:, :, self.point_C] - first_BCM).mean(axis=1) / STEP
        variance_CM = self.z_errors_BCM.var(axis=0, ddof=1)
        freedoms = [
            _freedom(self.noise, self._effects, slope_D, float(variance))
            for slope_D, variance in zip(slope_DCM.reshape(len(slope_DCM), -1).T, variance_CM.ravel(), strict=True)
        ]
        return np.array(freedoms).reshape(variance_CM.shape)

    @cached_property
    def _moved_DBPM(self) -> Floats:
        """A few replicates, moved slightly by each effect in each objective."""
        return self.noise.ranges.back(self._z_moved_DBPM)

    @cached_property
    def _z_moved_DBPM(self) -> Floats:
        """The moved replicates on the scale of the noise."""
        num_objectives = self.noise.mean_CM.shape[1]
        moved = []
        for effect in self._effects:
            for column in range(num_objectives):
                step_CM = np.zeros_like(self.noise.mean_CM)
                step_CM[:, column] = STEP * effect.weight_C * self.noise.scale_CM[:, column]
                moved.append(self._through(self._errors_BCM[:SLOPES] + step_CM) + self._gaps_BPM[:SLOPES])
        return np.stack(moved)

    def evaluate(self, value: Value) -> Evaluation:
        """Evaluate a function of the points (points_BPM -> value_B).

        Its bias is what new noise adds to it: a frontier's hypervolume is too large, because luck helps to choose the
        points it is made of.
        """
        values_B = value(self.draws_BPM)
        plain = float(value(self.mean_PM[None])[0])
        return Evaluation(plain, float(value(self._noisy_BPM).mean()) - plain, values_B, self._slopes(value, values_B))

    def evaluate_union(self, value: Value, groups: Sequence[Integers], corner_M: Floats) -> Evaluation:
        """Evaluate a hypervolume of several curves and points, corrected for the luck of the best of many.

        See `analysis.statistics.best_of_many`.
        """
        change, values_B = shrunk_volumes(self.mean_PM, self._noisy_BPM, self.draws_BPM, groups, corner_M)
        plain = float(value(self.mean_PM[None])[0])
        return Evaluation(plain, -change, values_B, self._slopes(value, value(self.draws_BPM[:SLOPES])))

    def _slopes(self, value: Value, values_B: Floats) -> Floats:
        moved_DB = value(self._moved_DBPM.reshape(-1, *self.mean_PM.shape)).reshape(len(self._moved_DBPM), -1)
        return np.asarray((moved_DB - values_B[:SLOPES]).mean(axis=1) / STEP)

    def statistic(
        self, value: Value | Evaluation, confidence: float = 0.95, ends: tuple[float, float] = (-math.inf, math.inf)
    ) -> Statistic:
        """Estimate a function of the points, with its interval.

        estimate = value(points) - bias
        z(estimate) +- t_{freedom, (1 + confidence) / 2} sd of z over replicates

        z is the value itself unless it has two `ends`; then it is the value on the scale of `Ranges`.
        """
        evaluation = value if isinstance(value, Evaluation) else self.evaluate(value)
        bias, error = evaluation.bias, float(evaluation.values_B.std(ddof=1))
        freedom = _freedom(self.noise, self._effects, evaluation.slope_D, error**2)
        scale = Ranges.of([ends])
        estimate = float(scale.of_unit(scale.unit(np.array([evaluation.plain - bias])))[0])
        z_error = float(scale.exact(evaluation.values_B[:, None]).std(ddof=1))
        half = float(stdtrit(freedom, (1 + confidence) / 2)) * z_error
        low, high = scale.back(scale.exact(np.array([[estimate]])) + np.array([[-half], [half]])).ravel()
        return Statistic(estimate, float(low), float(high), error, freedom, bias)

    @cached_property
    def _rivals_P(self) -> Bools:
        """The points that are on the front in more than a few replicates."""
        return np.asarray(fronts(self._z_draws_BPM).mean(axis=0) > RARE)

    def on_front(self) -> Floats:
        """Return probability_C that no other configuration dominates.

        It is the share of replicates in which none does, to the power of 0.7, with each configuration where it may lie
        itself, on its curve or off it. Replicates add noise to noise, so that neighbours dominate each other more often
        than in truth. The exponent was calibrated in simulations (`tests.studies.front_probability`).
        """
        random, own_BCM = np.random.default_rng([self._seed, 1]), self.noise.mean_CM + self._errors_BCM
        for curve, start in zip(self.curves, self._start_of_curve, strict=True):
            own_BKM = curve.draw_own(self._errors_BCM, random)
            on_curve_K = (curve.rows_K >= 0) & (self.point_C[curve.rows_K] == start + curve.places_K)
            own_BCM[:, curve.rows_K[on_curve_K]] = own_BKM[:, on_curve_K]
        return np.asarray(fronts(self.noise.ranges.back(own_BCM)).mean(axis=0) ** TIES)

    def band(self, confidence: float = 0.95) -> Band:
        """Find two fronts between which the whole front of the true curves lies, with this confidence.

        They are the fronts of points - k error and points + k' error. To find k, the replicates stand for measurements,
        and the front as measured for the truth: k is the smallest multiple for which the lower front of a replicate
        stays below the truth in all but (1 - confidence) / 2 of the replicates, and k' likewise for the upper front.
        Both are then converted from a normal to a Student quantile. A point that others dominate by far does not widen
        the band.
        """
        rivals_P = self._rivals_P
        mean_RM, draws_BRM = self._z_mean_PM[rivals_P], self._z_draws_BPM[:BAND_REPLICATES, rivals_P]
        error_RM = draws_BRM.std(axis=0, ddof=1)
        unit_RM = np.where(error_RM > 0, error_RM, np.inf)
        multiples = []
        for chunk_BRM in np.array_split(draws_BRM, 1 + draws_BRM.size * len(mean_RM) // CHUNK):
            below_BRR = np.full((len(chunk_BRM), len(mean_RM), len(mean_RM)), -np.inf)
            above_BRR = below_BRR.copy()
            for column in range(mean_RM.shape[1]):
                unit_R1 = unit_RM[:, None, column]
                gap_BRR = (chunk_BRM[:, :, None, column] - mean_RM[:, column]) / unit_R1
                np.maximum(below_BRR, gap_BRR, out=below_BRR)
                np.maximum(above_BRR, -gap_BRR, out=above_BRR)
            multiples.append([below_BRR.min(axis=2).max(axis=1), above_BRR.min(axis=1).max(axis=1)])
        multiple_2B = np.concatenate(multiples, axis=1)
        below, above = np.maximum(np.quantile(multiple_2B, (1 + confidence) / 2, axis=1), 0.0)
        freedom = float(np.median(self.noise.freedom_CM))
        low, high = (stdtrit(freedom, ndtr(multiple)) for multiple in (below, above))
        back = self.noise.ranges.back
        return Band(back(mean_RM - low * error_RM), back(mean_RM + high * error_RM))


def _freedom(noise: Noise, effects: Sequence[_Effect], slope_D: Floats, variance: float) -> float:
    """Return the degrees of freedom of a statistic's estimated variance.

    After Satterthwaite 1946: the part that seeds share has S - 1 degrees, the part of trainings has S - 1 for each
    training, and the rest has the remaining degrees. In the uncertainty of a shared part, only those terms count that
    vanish if the part is zero.
    """
    num_C = noise.num_seeds_C
    degrees = int(np.maximum(num_C - 1, 0).sum())
    shared, spread, used = 0.0, 0.0, set()
    slopes_EM = slope_D.reshape(len(effects), -1)
    for effect, slope_M in zip(effects, slopes_EM, strict=True):
        part = effect.number * float(slope_M @ effect.covariance_MM @ slope_M)
        leak = effect.number * float(slope_M @ noise.residual_MM @ slope_M) / effect.size
        shared += part
        spread += part * (part + 2 * leak) / effect.freedom
        used.add((id(effect.covariance_MM), effect.freedom))
    rest = max(degrees - sum(int(freedom) for _, freedom in used), 1)
    if variance <= 0:
        return float(rest)
    return variance**2 / (spread + max(variance - shared, 0.0) ** 2 / rest)


VERDICT_SEEDS = 3  # seeds that a verdict needs
TWO_SEEDS = (
    "two seeds say little about the variance: intervals are wide, P and the band are too sure where the two agree, and"
    " verdicts need a third seed"
)


@dataclass(frozen=True, eq=False)
class Band:
    """Points whose fronts bound the front of the true curves, from below and from above, in gains."""

    low_RM: Floats
    high_RM: Floats
