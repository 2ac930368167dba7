"""The best configuration among those that keep within bounds, and how good it really is.

A configuration keeps a bound with a probability: that of its true mean, on its curve, from the noise of the means and
its degrees of freedom.

    P = F_nu((z(mean) - z(bound)) / error),    F_nu Student's distribution function

Near an end of a score that is too sure: of 60 answers which are all right, as where every seed says 20 of 20, the bound
.975 would be kept with .97, and a true share of .975 gives such answers in .22 of the cases. So the ratio is at most
that of the score test, which takes the error that the mean would have if the bound were the truth; its inverse is the
interval that points have (Wilson 1927).

    |ratio| <= |mean - bound| / sqrt(4 error^2 bound (1 - bound)),    on [0, 1]

and where a configuration's seeds show no spread, its error is at least what its own n answers allow, 1 / (2 sqrt(n)).

To take the best of many that seem to keep a bound is to take one that was lucky. Two things set that right. The bar
that P has to clear is that of all configurations together: the quantile of the largest of their errors, in steps that
leave out what is already believed, and what lies far beyond the bound. Configurations on one curve err together, so
that a dense search raises it little. And the value of the chosen one is lowered by what the choice itself adds to it:
the choice is made again on one half of the seeds, and read on the other.

Source: Romano and Wolf 2005, "Exact and approximate stepdown methods for multiple hypothesis testing"; Romano, Shaikh
and Wolf 2014, "A practical two-step method for testing moment inequalities" (what lies far beyond the bound).

Gains: larger is better.

Shape legend: C configurations, S seeds, M objectives, B replicates, L bounds, N some of the configurations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

from analysis.statistics.arrays import Bools, Floats, nan_mean
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.selection import halves

HOPELESS = 0.001  # a configuration that keeps a bound with less probability than that cannot be taken for one that does


@dataclass(frozen=True)
class Bound:
    """A gain that is at least, or at most, so much.

    Attributes:
        column: of the objective.
        value: of the gain.
        at_least: False where the gain may be at most `value`.
    """

    column: int
    value: float
    at_least: bool = True


@dataclass(frozen=True, eq=False)
class Choice:
    """What is chosen, and what it is worth.

    Attributes:
        probability_CL: that each bound is kept, for each configuration alone.
        probability_C: that all are: at least 1 minus the sum of what is lacking.
        bar: what `probability_C` has to be, so that the chosen one keeps the bounds with the confidence asked for.
        row: the chosen configuration; None when none clears the bar.
        naive: its gain as measured.
        optimism: how much of that is luck.
        low, high: ends of the interval of the gain, `naive - optimism` inside.
    """

    probability_CL: Floats
    probability_C: Floats
    bar: float
    row: int | None
    naive: float = math.nan
    optimism: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def gain(self) -> float:
        """The chosen configuration's gain, without the luck of the choice."""
        return self.naive - self.optimism

    @property
    def closest(self) -> int:
        """The configuration that keeps all bounds most probably."""
        return int(np.argmax(self.probability_C))


def choose(bootstrap: Bootstrap, bounds: Sequence[Bound], best: int, confidence: float = 0.95, seed: int = 0) -> Choice:
    """Choose the configuration with the largest gain in column `best` among those that keep all bounds.

    Args:
        confidence: with which the chosen configuration keeps them.
        seed: of the halvings, where there are too many seeds for all of them.
    """
    probability_CL = _probabilities(bootstrap, bootstrap.mean_CM, bounds)
    probability_C = _all_of(probability_CL)
    bar = _bar(bootstrap, bounds, probability_C, confidence)
    row = _best(bootstrap.mean_CM[:, best], probability_C >= bar)
    if row is None:
        return Choice(probability_CL, probability_C, bar, None)
    naive = float(bootstrap.mean_CM[row, best])
    optimism = _optimism(bootstrap, bounds, best, bar, seed)
    low, high = _interval(bootstrap, row, best, naive - optimism)
    return Choice(probability_CL, probability_C, bar, row, naive, optimism, low, high)


def _probabilities(bootstrap: Bootstrap, mean_CM: Floats, bounds: Sequence[Bound]) -> Floats:
    """Return probability_CL that true means keep each bound, when these are measured."""
    z_mean_CM, error_CM = bootstrap.noise.ranges.exact(mean_CM), bootstrap.z_errors_BCM.std(axis=0, ddof=1)
    columns = []
    for bound in bounds:
        gap_C = z_mean_CM[:, bound.column] - _z_of(bootstrap, bound)
        gap_C = gap_C if bound.at_least else -gap_C
        error_C = error_CM[:, bound.column]
        certain_C = np.where(gap_C >= 0, np.inf, -np.inf)
        ratio_C = np.where(error_C > 0, gap_C / np.where(error_C > 0, error_C, 1.0), certain_C)
        ratio_C = np.copysign(np.minimum(np.abs(ratio_C), _score_ratio(bootstrap, mean_CM, bound, error_C)), ratio_C)
        columns.append(stdtr(bootstrap.freedom_CM[:, bound.column], ratio_C))
    return np.stack(columns, axis=1) if columns else np.ones((len(mean_CM), 0))


def _score_ratio(bootstrap: Bootstrap, mean_CM: Floats, bound: Bound, error_C: Floats) -> Floats:
    """Return how many standard errors means are off a bound if that is the truth; infinite where there are no two ends.

    Args:
        error_C: of the means, in z; more is taken where seeds that agree hide what their questions leave open.
    """
    measured, column = bootstrap.measured, bound.column
    ranges = measured.ranges
    value_M = np.array(bootstrap.noise.mean_CM[0])
    value_M[column] = bound.value
    truth = float(ranges.unit(value_M)[column])
    if not (ranges.bounded_M[column] and 0 < truth < 1):
        return np.full(len(mean_CM), np.inf)
    gains_CS = measured.gains_CSM[:, :, column]
    agrees_C = np.nanmax(gains_CS, axis=1) == np.nanmin(gains_CS, axis=1)
    least_C = np.sqrt(measured.least_variance_CM[:, column] / measured.num_seeds_C)
    error_C = 2 * np.where(agrees_C, np.maximum(error_C, least_C), error_C) * math.sqrt(truth * (1 - truth))
    noisy = bootstrap.noise.ranges
    away_C = np.abs(noisy.measured_unit(noisy.exact(mean_CM))[:, column] - truth)
    return np.where(error_C > 0, away_C / np.where(error_C > 0, error_C, 1.0), np.inf)


def _z_of(bootstrap: Bootstrap, bound: Bound) -> float:
    """Return a bound on the scale of the noise."""
    value_M = np.array(bootstrap.noise.mean_CM[0])
    value_M[bound.column] = bound.value
    return float(bootstrap.noise.ranges.exact(value_M)[bound.column])


def _all_of(probability_CL: Floats) -> Floats:
    """Return probability_C of all bounds together: what it is at least, however they hang together.

    1 - sum (1 - P), written so that the smallest P keeps its digits.
    """
    if not probability_CL.shape[1]:
        return np.ones(len(probability_CL))
    lacking_CL = 1 - probability_CL
    others_C = lacking_CL.sum(axis=1) - lacking_CL.max(axis=1)
    return np.asarray(np.maximum(probability_CL.min(axis=1) - others_C, 0.0))


def _bar(bootstrap: Bootstrap, bounds: Sequence[Bound], probability_C: Floats, confidence: float) -> float:
    """Return the probability that no configuration which just misses a bound seems to reach, with this confidence."""
    error_CM = bootstrap.z_errors_BCM.std(axis=0, ddof=1)
    unit_BCM = bootstrap.z_errors_BCM / np.where(error_CM > 0, error_CM, 1.0)
    signs = [1.0 if bound.at_least else -1.0 for bound in bounds]
    seeming_BCL = np.stack(
        [ndtr(sign * unit_BCM[:, :, bound.column]) for sign, bound in zip(signs, bounds, strict=True)], axis=2
    )
    seeming_BC = seeming_BCL.max(axis=2)  # a configuration that keeps all bounds but one seems to keep that
    doubted_C, bar = probability_C >= HOPELESS, confidence
    while doubted_C.any():
        bar = max(float(np.quantile(seeming_BC[:, doubted_C].max(axis=1), confidence)), confidence)
        left_C = doubted_C & (probability_C < bar)
        if left_C.sum() == doubted_C.sum():
            break
        doubted_C = left_C
    return bar


def _best(gain_C: Floats, kept_C: Bools) -> int | None:
    return int(np.argmax(np.where(kept_C, gain_C, -np.inf))) if kept_C.any() else None


def _optimism(bootstrap: Bootstrap, bounds: Sequence[Bound], best: int, bar: float, seed: int) -> float:
    """Return how much too good the chosen gain is on average, at the whole evidence.

    A half of the seeds chooses, as all did, and the other half says what that is worth. The luck of the best of several
    goes with the standard error, by which that of a half is turned into that of the whole. What no half can choose
    adds nothing.
    """
    gains_CSM = bootstrap.measured.gains_CSM
    whole_CM = nan_mean(gains_CSM, axis=1)
    differences = []
    for first_S in halves(gains_CSM.shape[1], seed):
        means = [nan_mean(gains_CSM[:, half_S], axis=1) for half_S in (first_S, ~first_S)]
        measured_C = np.asarray(np.isfinite(np.concatenate(means, axis=1)).all(axis=1))
        changes_2CM = np.stack([np.where(measured_C[:, None], mean_CM - whole_CM, 0.0) for mean_CM in means])
        first_CM, second_CM = bootstrap.points_moved_by(changes_2CM)[:, bootstrap.point_C]
        kept_C = _all_of(_probabilities(bootstrap, first_CM, bounds)) >= bar
        row = _best(first_CM[:, best], kept_C & measured_C)
        if row is not None:
            share = math.sqrt(first_S.sum() / len(first_S))
            differences.append(share * float(first_CM[row, best] - second_CM[row, best]))
    return float(np.mean(differences)) if differences else 0.0


def _interval(bootstrap: Bootstrap, row: int, best: int, gain: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a configuration's gain around an estimate."""
    ranges, value_M = bootstrap.noise.ranges, np.array(bootstrap.mean_CM[row])
    value_M[best] = gain
    error = float(bootstrap.z_errors_BCM[:, row, best].std(ddof=1))
    half = float(stdtrit(bootstrap.freedom_CM[row, best], (1 + confidence) / 2)) * error
    z_2M = np.stack([ranges.exact(value_M)] * 2)
    z_2M[:, best] += [-half, half]
    low, high = ranges.back(z_2M)[:, best]
    return float(low), float(high)
