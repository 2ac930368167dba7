"""A front from few trainings: both ends of a knob, blends of their adapters, and trainings where gaps remain.

With `Search(front="cheap")`, a method that is searched in one number is trained at both ends of its range. Blends of
these two adapters cost no training and are read out first. Each further training goes into the widest gap of the front
so far, at the value of the knob that should fall into its middle. The method is done when no gap is wider than noise,
or the budget is spent.

Shape legend: C configurations, S seeds, M objectives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import stdtrit

from analysis.statistics.pareto import non_dominated
from settings.setting import Score
from sweeps.case import Arm
from sweeps.controls import ENDS
from sweeps.search.proposer import Proposal, Proposer, TrialSummary

NEAR = 0.02  # of the range; a value this close to a trained one adds nothing new
CONFIDENCE = 0.975  # one-sided; a gap within this interval counts as noise


@dataclass(frozen=True)
class FrontPoint:
    """A configuration that has a result.

    Attributes:
        gains: means over seeds, larger is better.
        position: where its knob's value lies in the range, on the knob's scale; None for a blend.
    """

    gains: tuple[float, float]
    position: float | None = None


class GapProposer(Proposer):
    """Choose the ends of a knob, then values where the front still has gaps. All results are told before each choice.

    Args:
        readouts: the proposer of the blends of both ends.
        others: see `Proposer`.
    """

    def __init__(self, arm: Arm, objectives: Sequence[Score], seed: int, readouts: Proposer) -> None:
        super().__init__(arm, objectives, seed, round_size=len(ENDS))
        self._readouts = readouts

    def next(self, admits: Callable[[Mapping[str, Any]], bool] = lambda values: True) -> Proposal | None:
        """Propose a configuration; None if results must come first, the arm is exhausted, or it is not admitted."""
        if len(self.asked) >= len(ENDS) and not self.exhausted:
            blends = self._readouts
            if len(self.told) < len(self.asked) or not blends.exhausted or len(blends.told) < len(blends.asked):
                return None
        return super().next(admits)

    def _search(self, number: int, first: int) -> Mapping[str, Any] | None:
        if number < len(ENDS):
            return self.arm.space.at([ENDS[number]])
        trained = [
            FrontPoint(self._gains(summary), self.arm.space.position(self.asked[told])[0])
            for told, summary in sorted(self.told.items())
            if summary.values is not None
        ]
        blends = [FrontPoint(self._gains(summary)) for summary in self._readouts.told.values() if summary.values]
        noise = noise_of([*self.told.values(), *self._readouts.told.values()], len(self.objectives))
        gap = widest_gap([*trained, *blends], noise)
        if gap is None:
            self.ended = (
                f"{self.arm.key}: no gap of the front is wider than noise; {number} of {self.arm.budget} trained"
            )
            return None
        return self.arm.space.at([position_in(gap, trained)])

    def _gains(self, summary: TrialSummary) -> tuple[float, float]:
        assert summary.values is not None
        x, y = (score.sign * value for value, score in zip(summary.values, self.scores, strict=True))
        return x, y


def noise_of(summaries: Sequence[TrialSummary], objectives: int) -> tuple[float, ...]:
    """Return how far two equal configurations' means may lie apart by chance, in each objective, at 95 % confidence.

    The part of a seed's effect that all configurations share cancels in differences and does not count. The rest is
    pooled over the configurations that have all seeds; 0 if there are fewer than two of either.
    """
    seeds = [summary.notes.get("values_per_seed", {}) for summary in summaries]
    common = sorted(max(seeds, key=len, default={}))
    values_CSM = np.array([[own[seed] for seed in common] for own in seeds if own and set(common) <= own.keys()])
    if values_CSM.ndim < 3 or min(values_CSM.shape[:2]) < 2:
        return (0.0,) * objectives
    apart_CSM = values_CSM - values_CSM.mean(axis=0) - values_CSM.mean(axis=1, keepdims=True) + values_CSM.mean((0, 1))
    degrees = (values_CSM.shape[0] - 1) * (values_CSM.shape[1] - 1)
    variance_M = (apart_CSM**2).sum(axis=(0, 1)) / degrees
    factor = float(stdtrit(degrees, CONFIDENCE)) * math.sqrt(2 / values_CSM.shape[1])
    return tuple((factor * np.sqrt(variance_M)).tolist())


def widest_gap(points: Sequence[FrontPoint], noise: Sequence[float]) -> tuple[FrontPoint, FrontPoint] | None:
    """Return the neighbours on the front with the largest rectangle between them, in units of both ranges.

    A gap counts if both sides of its rectangle are wider than noise. None if there is no such gap.
    """
    gains = np.array([point.gains for point in points])
    if len(gains) < 2:
        return None
    front = sorted(itertools.compress(points, non_dominated(gains)), key=lambda point: point.gains)
    found, largest = None, 0.0
    for left, right in pairwise(front):
        sides = [abs(one - other) for one, other in zip(left.gains, right.gains, strict=True)]
        area = math.prod(sides)
        if all(side > least for side, least in zip(sides, noise, strict=True)) and area > largest:
            found, largest = (left, right), area
    return found


def position_in(gap: tuple[FrontPoint, FrontPoint], trained: Sequence[FrontPoint]) -> float:
    """Return the knob position whose first objective should fall into the middle of a gap.

    It is interpolated between trained neighbours. If none enclose the middle, or the place is taken, it is the middle
    of the widest interval without a training.
    """
    middle = (gap[0].gains[0] + gap[1].gains[0]) / 2
    places = sorted((point.position or 0.0, point.gains[0]) for point in trained)
    taken = [place for place, _ in places]
    for (before, low), (after, high) in pairwise(places):
        if (low - middle) * (high - middle) <= 0 and low != high:
            position = before + (after - before) * (middle - low) / (high - low)
            if all(abs(position - place) >= NEAR for place in taken):
                return position
    start, end = max(pairwise([0.0, *taken, 1.0]), key=lambda pair: pair[1] - pair[0])
    return (start + end) / 2
