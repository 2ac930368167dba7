"""Compare the frontiers of methods: differences paired over common seeds, with intervals, and what more seeds can tell.

Gains: larger is better.

Shape legend: C configurations, M objectives, B replicates, K points without noise, P points of the
bootstrap, N points of a front.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from analysis.statistics.arrays import Bools, Floats, finite_or_none
from analysis.statistics.bootstrap import VERDICT_SEEDS, Bootstrap, Evaluation, Statistic
from analysis.statistics.pareto import dominated, hypervolumes

POWER = 0.8
MOST_SEEDS = 100  # more than that is advice nobody follows


@dataclass(frozen=True, eq=False)
class Front:
    """Some of the configurations, and points that are known without noise, such as the base model.

    Attributes:
        rows_C: which configurations.
        anchors_KM: the points; K may be 0.
        shared_C: the configurations that the other front of a comparison has, too.
    """

    rows_C: Bools
    anchors_KM: Floats
    shared_C: Bools | None = None

    def evaluate(self, bootstrap: Bootstrap, worst_corner_M: ArrayLike) -> Evaluation:
        """Evaluate the front's hypervolume.

        If it consists of several curves or points besides the shared ones, the luck of the best of many is subtracted.
        """
        corner_M = np.asarray(worst_corner_M, dtype=np.float64)
        groups = bootstrap.groups_of(self.rows_C)
        points_N, joined_N = (np.concatenate(parts) for parts in zip(*groups, strict=True))
        joined_N = np.concatenate([joined_N, np.zeros(len(self.anchors_KM), dtype=bool)])

        def volume(points_BPM: Floats) -> Floats:
            anchors_BKM = np.broadcast_to(self.anchors_KM, (len(points_BPM), *self.anchors_KM.shape))
            return hypervolumes(np.concatenate([points_BPM[:, points_N], anchors_BKM], 1), corner_M, joined_N)

        own_C = self.rows_C if self.shared_C is None else self.rows_C & ~self.shared_C
        if len(bootstrap.groups_of(own_C)) <= 1:
            return bootstrap.evaluate(volume)
        return bootstrap.evaluate_union(volume, [points for points, _ in groups], corner_M)


@dataclass(frozen=True)
class Difference:
    """The hypervolume of the first front minus that of the second, paired over seeds.

    Attributes:
        first, second: their names.
        statistic: the bias-corrected difference with its interval.
        p_value: two-sided, of the hypothesis that the hypervolumes are equal.
        adjusted: p-value after Holm 1979, over all pairs that were compared together; nan with two seeds, which give
            intervals but no verdicts.
        dominates, dominated: share of the replicates in which every point of the second is dominated or equalled by
            one of the first but not the other way round, and the reverse.
        detectable: the smallest true difference that would be found with 80 % power at 5 %, with these seeds.
        seeds: how many seeds, the same number for both, would find a true difference as large as the estimate with
            that power; None if more than `MOST_SEEDS`.
    """

    first: str
    second: str
    statistic: Statistic
    p_value: float
    dominates: float
    dominated: float
    detectable: float
    seeds: int | None
    adjusted: float = field(default=math.nan)

    @property
    def clear(self) -> bool:
        """Whether the difference is significant at 5 % after adjustment."""
        return self.adjusted <= 0.05

    @property
    def p_text(self) -> str:
        """The adjusted p-value, e.g. "p = 0.255 (Holm)"; with a digit more where it would look like the 5 % level."""
        if self.adjusted < 0.001:
            return "p < 0.001 (Holm)"
        digits = 3 if f"{self.adjusted:.3f}" != "0.050" else 4
        return f"p = {self.adjusted:.{digits}f} (Holm)"

    def __neg__(self) -> Difference:
        return replace(
            self,
            first=self.second,
            second=self.first,
            statistic=-self.statistic,
            dominates=self.dominated,
            dominated=self.dominates,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the difference as JSON data."""
        return self.statistic.to_json() | {
            "first": self.first,
            "second": self.second,
            "p_value": self.p_value,
            "p_adjusted": finite_or_none(self.adjusted),
            "p_first_dominates": self.dominates,
            "p_second_dominates": self.dominated,
            "detectable": self.detectable,
            "seeds_for_80_percent_power": self.seeds,
        }


def estimate_hypervolume(
    bootstrap: Bootstrap, front: Front, worst_corner_M: ArrayLike, confidence: float = 0.95
) -> Statistic:
    """Estimate a front's hypervolume, bias-corrected, with its interval, which stays within the scores' ranges."""
    most = float(np.prod(bootstrap.noise.ranges.high_M - np.asarray(worst_corner_M, dtype=np.float64)))
    # `most` is nan if one range ends at the corner and another is infinite
    ends = (0.0, most) if most > 0 else (-math.inf, math.inf)
    return bootstrap.statistic(front.evaluate(bootstrap, worst_corner_M), confidence, ends)


def compare_fronts(
    bootstrap: Bootstrap,
    fronts: Mapping[str, Front],
    worst_corner_M: ArrayLike,
    pairs: Sequence[tuple[str, str]] | None = None,
    confidence: float = 0.95,
) -> list[Difference]:
    """Estimate the paired differences of hypervolume between fronts, their p-values adjusted together.

    Args:
        fronts: name -> front.
        pairs: (first, second); None means every pair, in the order of the names.
    """
    chosen = list(itertools.combinations(fronts, 2)) if pairs is None else list(pairs)
    needed = {name for pair in chosen for name in pair}
    volumes = {name: fronts[name].evaluate(bootstrap, worst_corner_M) for name in needed}
    compared = [_compare(bootstrap, fronts, volumes, pair, confidence) for pair in chosen]
    return compared if bootstrap.noise.num_seeds_C.max() < VERDICT_SEEDS else _adjusted(compared)


def adjust(differences: Sequence[Difference]) -> list[Difference]:
    """Adjust the p-values of some differences together; with two seeds they stay unadjusted (nan)."""
    return list(differences) if any(math.isnan(each.adjusted) for each in differences) else _adjusted(differences)


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    adjusted = holm([difference.p_value for difference in differences])
    return [replace(difference, adjusted=p_value) for difference, p_value in zip(differences, adjusted, strict=True)]


def _compare(
    bootstrap: Bootstrap,
    fronts: Mapping[str, Front],
    volumes: Mapping[str, Evaluation],
    pair: tuple[str, str],
    confidence: float,
) -> Difference:
    first, second = (fronts[name] for name in pair)
    statistic = bootstrap.statistic(volumes[pair[0]] - volumes[pair[1]], confidence)
    covers_B, covered_B = _covers(bootstrap, first, second), _covers(bootstrap, second, first)
    num_seeds = int(bootstrap.noise.num_seeds_C.max())
    return Difference(
        *pair,
        statistic,
        statistic.p_value,
        dominates=float((covers_B & ~covered_B).mean()),
        dominated=float((covered_B & ~covers_B).mean()),
        detectable=_detectable(statistic.error, statistic.freedom),
        seeds=_seeds_for(abs(statistic.estimate), statistic, num_seeds),
    )


def _covers(bootstrap: Bootstrap, front: Front, rival: Front) -> Bools:
    """Return bool_B: whether each configuration of the rival is dominated or equalled by one of the front."""
    means_BCM = bootstrap.draws_BCM
    return np.asarray(dominated(means_BCM[:, rival.rows_C], means_BCM[:, front.rows_C], strictly=False).all(axis=1))


def _detectable(error: float, freedom: float) -> float:
    return float(stdtrit(freedom, 0.975) + stdtrit(freedom, POWER)) * error


def _seeds_for(target: float, statistic: Statistic, num_seeds: int) -> int | None:
    """Return the number of seeds at which the detectable difference shrinks to `target`; None if too many."""
    for seeds in range(2, MOST_SEEDS + 1):
        freedom = statistic.freedom * (seeds - 1) / max(num_seeds - 1, 1)
        if _detectable(statistic.error * math.sqrt(num_seeds / seeds), freedom) <= target:
            return seeds
    return None


def relative_to(best: str, differences: Sequence[Difference]) -> dict[str, Statistic]:
    """Map each front that was compared with `best` to its hypervolume minus that of `best`."""
    second = {pair.first: pair.statistic for pair in differences if pair.second == best}
    return second | {pair.second: -pair.statistic for pair in differences if pair.first == best}


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that they hold for all hypotheses together, whatever their dependence (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Advice:
    """A configuration that may or may not be on the frontier: more seeds would settle it.

    Attributes:
        row: the configuration's row of the table.
        probability: probability that it is on the front.
        add: seeds to add to it and to its closest rival to tell them apart with a 95 % interval; None if it would take
            more than `MOST_SEEDS`.
        rival: row of the closest rival.
    """

    row: int
    probability: float
    add: int | None
    rival: int


def advise_seeds(bootstrap: Bootstrap, probability_C: Floats, low: float = 0.05, high: float = 0.95) -> list[Advice]:
    """Find where more seeds would settle the frontier, the least settled configuration first.

    A configuration leaves the front (or joins it) when it moves past its closest rival. Their distance, in standard
    errors of the difference of the two means, grows with the square root of the number of seeds.
    """
    mean_CM, draws_BCM = bootstrap.mean_CM, bootstrap.draws_BCM
    num_C = bootstrap.noise.num_seeds_C
    covariance_MCC = np.stack(
        [np.atleast_2d(np.cov(draws_BCM[:, :, m], rowvar=False)) for m in range(mean_CM.shape[1])]
    )
    variance_MC = np.einsum("mcc->mc", covariance_MCC)
    advice = []
    for row in np.flatnonzero((probability_C > low) & (probability_C < high)):
        left_MC = variance_MC[:, row, None] + variance_MC - 2 * covariance_MCC[:, row]
        error_CM = np.sqrt(np.maximum(left_MC, 0.0)).T  # rounding can make a zero variance negative
        ahead_CM = (mean_CM[row] - mean_CM) / np.where(error_CM > 0, error_CM, np.inf)
        ahead_C = ahead_CM.max(axis=1)  # how far it is from being covered by each; negative if it is covered
        ahead_C[row] = np.inf
        rival = int(np.argmin(ahead_C))
        distance = abs(float(ahead_C[rival]))
        have = int(min(num_C[row], num_C[rival]))
        needed = math.ceil(have * (1.96 / distance) ** 2) if distance > 0 else MOST_SEEDS + have + 1
        add = max(needed - have, 1)
        advice.append(Advice(int(row), float(probability_C[row]), add if add <= MOST_SEEDS else None, rival))
    return sorted(advice, key=lambda each: abs(each.probability - 0.5))
