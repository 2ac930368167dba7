"""The best configuration among those that keep within bounds, and how good it really is.

Each configuration keeps a bound with some probability. It refers to the configuration's true mean, on its curve, and
follows from the noise of the means and its degrees of freedom.

    P = F_nu((z(mean) - z(bound)) / error),    F_nu Student's distribution function

Near an end of a score's range, P is overconfident. If all of 60 answers are right (every seed says 20 of 20), the bound
.975 would be kept with probability .97, although a true share of .975 gives such answers in .22 of the cases. So the
ratio is capped at that of the score test, which uses the error that the mean would have if the bound were the truth.
The inverse of this test is the interval of a point (Wilson 1927).

    |ratio| <= |mean - bound| / sqrt(4 error^2 bound (1 - bound)),    on [0, 1]

Where a configuration's seeds show no spread, its error is at least what its own n answers allow, 1 / (2 sqrt(n)).

The best of many configurations that seem to keep a bound is likely a lucky one. Two things correct for that. First, the
bar that P has to clear holds for all configurations together: it is a quantile of the largest of their errors, found in
steps that leave out configurations that are already accepted, and those far beyond the bound. Configurations on one
curve err together, so a dense search raises the bar little. Second, the value of the chosen configuration is lowered by
what the choice itself adds to it: the choice is repeated on one half of the seeds, and its value read on the other.

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

HOPELESS = 0.001  # a configuration less likely than this to keep the bounds cannot be mistaken for one that does


@dataclass(frozen=True)
class Bound:
    """A lower or an upper limit of a gain.

    Attributes:
        column: the objective's column.
        value: the limit.
        at_least: True if the gain must be at least `value`, False if at most.
    """

    column: int
    value: float
    at_least: bool = True


@dataclass(frozen=True, eq=False)
class Choice:
    """What is chosen, and what it is worth.

    Attributes:
        probability_CL: probability of keeping each bound, for each configuration on its own.
        probability_C: lower bound on the probability of keeping all: 1 minus the sum of the probabilities of breaking.
        bar: what `probability_C` has to reach so that the chosen one keeps the bounds with the required confidence.
        row: the chosen configuration; None if none clears the bar.
        naive: its gain as measured.
        optimism: how much of that is luck.
        low, high: ends of the interval of the gain, around `naive - optimism`.
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
        """The configuration that is most likely to keep all bounds."""
        return int(np.argmax(self.probability_C))


def choose(bootstrap: Bootstrap, bounds: Sequence[Bound], best: int, confidence: float = 0.95, seed: int = 0) -> Choice:
    """Choose the configuration with the largest gain in column `best` among those that keep all bounds.

    Args:
        confidence: with which the chosen configuration keeps them.
        seed: seed of the random halvings, used if there are too many to try all.
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
    """Return probability_CL that the true means keep each bound, given these measured means."""
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
    """Return how many standard errors means are from a bound if the bound is the truth; infinite without two ends.

    Args:
        error_C: standard error of the means, in z; raised to what the number of questions allows if all seeds agree.
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
    """Return a lower bound probability_C on the probability of keeping all bounds, however they depend on each other.

    It is 1 - sum (1 - P), written so that the smallest P keeps its digits.
    """
    if not probability_CL.shape[1]:
        return np.ones(len(probability_CL))
    lacking_CL = 1 - probability_CL
    others_C = lacking_CL.sum(axis=1) - lacking_CL.max(axis=1)
    return np.asarray(np.maximum(probability_CL.min(axis=1) - others_C, 0.0))


def _bar(bootstrap: Bootstrap, bounds: Sequence[Bound], probability_C: Floats, confidence: float) -> float:
    """Return a bar so high that, with this confidence, no configuration that just misses a bound seems to clear it."""
    error_CM = bootstrap.z_errors_BCM.std(axis=0, ddof=1)
    unit_BCM = bootstrap.z_errors_BCM / np.where(error_CM > 0, error_CM, 1.0)
    signs = [1.0 if bound.at_least else -1.0 for bound in bounds]
    seeming_BCL = np.stack(
        [ndtr(sign * unit_BCM[:, :, bound.column]) for sign, bound in zip(signs, bounds, strict=True)], axis=2
    )
    seeming_BC = seeming_BCL.max(axis=2)  # worst case: a configuration keeps all bounds but one
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
    """Return by how much the chosen gain is too good on average, for a choice on all seeds.

    One half of the seeds chooses by the same rule, and the other half says what that choice is worth. The luck of the
    best of several is proportional to the standard error, which converts the luck of a half into that of all seeds.
    Halves that choose nothing are left out.
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
