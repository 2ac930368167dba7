"""Early stopping with several objectives: at each rung the best configurations are promoted, the others stopped.

Multi-objective successive halving (Schmucker et al. 2021, arXiv:2106.12639): the configurations that have reached a
rung are ranked by non-dominated sorting, and within a front by an epsilon-net; the best share continues. The extremes
of the front always continue: the ends of the frontier are what a sweep is for. Whole configurations are stopped, by the
means over their seeds: stopping single seeds would keep the lucky ones and invalidate the intervals.

Gains are scores with their sign set so that larger is better.

Shape legend: N configurations, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics.arrays import Floats
from analysis.statistics.pareto import non_dominated
from settings.common.errors import UserError
from settings.setting import Score
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

Gains = tuple[float, ...]


@dataclass(frozen=True)
class EarlyStopping:
    """A rule that stops configurations of searched methods early.

    The benefit depends on how well half a training predicts the whole; `python -m tests.studies.early_stopping`
    measures that. On the nano world of `bad_medical_advice`, at the cost of 6, 8 and 12 full trainings, the
    hypervolume of a method's frontier changes by +0.02, -0.01, -0.01 (KL penalty), by +0.02, -0.03, -0.03
    (up-weighted) and by +0.17, +0.04, +0.04 (mixed): it helps where trainings are few and most of them end at the
    same point. One more rung at a quarter costs up to 0.09.

    Attributes:
        rungs: shares of a trial's updates after which it is evaluated and compared.
        keep: share of the configurations at a rung that continues, rounded up; the front's extremes always do.
    """

    rungs: tuple[float, ...] = (0.5,)
    keep: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple(self.rungs))
        if not self.rungs or list(self.rungs) != sorted(set(self.rungs)) or not all(0 < at < 1 for at in self.rungs):
            raise UserError(f"early stopping: rungs must be growing shares between 0 and 1, got {self.rungs!r}")
        if not 0 < self.keep < 1:
            raise UserError(f"early stopping: keep must be a share between 0 and 1, got {self.keep!r}")

    def steps(self, trial: TrialConfig) -> tuple[int, ...]:
        """Return the updates after which a trial is compared: one per rung, at least 1, at most its length."""
        return tuple(min(max(1, round(at * trial.updates)), trial.updates) for at in self.rungs)


class RungDecision(Enum):
    """What happens to a configuration or a trial at a rung; WAIT until others have arrived."""

    CONTINUE = "continue"
    STOP = "stop"
    WAIT = "wait"


@dataclass(frozen=True)
class RungRuling:
    """A decision at a rung; `stopped_because` is empty unless the decision is STOP."""

    decision: RungDecision
    stopped_because: str = ""


def gains_at_rung(seeds: Sequence[Outcome], objectives: Sequence[Score]) -> Gains:
    """Average a configuration's objectives over its seeds at a rung; () if none was measured there."""
    names = [score.name for score in objectives]
    measured = [values for values in (outcome.values(names) for outcome in seeds) if values is not None]
    return tuple(
        score.sign * fmean(column) for score, column in zip(objectives, zip(*measured, strict=True), strict=False)
    )


def decide_configuration(number: int, gains: Mapping[int, Gains | None], keep: float) -> RungRuling:
    """Decide about configuration `number` of an arm at a rung.

    Args:
        gains: by number, of all configurations of its round and earlier rounds: () if the configuration ended before
            the rung or could not be measured there, None if it has not arrived yet.
        keep: share of the measured configurations that continues.
    """
    if None in gains.values():
        return RungRuling(RungDecision.WAIT)
    measured = {rival: values for rival, values in gains.items() if values}
    continuing = promoted(list(measured.values()), keep)
    if number not in measured or list(measured).index(number) in continuing:
        return RungRuling(RungDecision.CONTINUE)
    reason = f"not among the {len(continuing)} promoted of {len(measured)} configurations"
    return RungRuling(RungDecision.STOP, reason)


def decide_trial(rulings: Sequence[RungRuling]) -> RungRuling:
    """Decide about a trial that one or more configurations share: it is stopped if all of them are."""
    for decision in (RungDecision.CONTINUE, RungDecision.WAIT):
        if any(ruling.decision is decision for ruling in rulings):
            return RungRuling(decision)
    return rulings[0]


def order(gains_NM: ArrayLike) -> list[int]:
    """Rank the rows from best to worst: front by front, each from its extremes to the rows farthest from those.

    Distances are Euclidean after scaling each objective to [0, 1] over all rows. Ties go to the earlier row. Raise
    ValueError for nan or infinity.
    """
    gains = np.asarray(gains_NM, dtype=np.float64)
    span = np.ptp(gains, axis=0) if len(gains) else np.ones(0)
    scaled = (gains - gains.min(axis=0, initial=np.inf)) / np.where(span > 0, span, 1.0)
    ranked: list[int] = []
    left = list(range(len(gains)))
    while left:
        front = [left[row] for row in np.flatnonzero(non_dominated(gains[left]))]
        ranked += _net(scaled, front)
        left = [row for row in left if row not in front]
    return ranked


def extremes(gains_NM: ArrayLike, front: Sequence[int]) -> list[int]:
    """Return the best row of a front in each objective; among equals, the one that is better in the others."""
    gains = np.asarray(gains_NM, dtype=np.float64)
    ends = (max(front, key=lambda row, m=m: (gains[row, m], gains[row].sum())) for m in range(gains.shape[1]))  # type: ignore[misc]
    return list(dict.fromkeys(ends))


def promoted(gains_NM: ArrayLike, keep: float) -> set[int]:
    """Return the rows whose trainings continue: the first `keep` of `order`, and the extremes of the first front."""
    gains = np.asarray(gains_NM, dtype=np.float64)
    if not len(gains):
        return set()
    ranked = order(gains)
    first = [int(row) for row in np.flatnonzero(non_dominated(gains))]
    return {*ranked[: math.ceil(keep * len(gains))], *extremes(gains, first)}


def _net(scaled_NM: Floats, front: Sequence[int]) -> list[int]:
    """Order a front: its extremes, then repeatedly the row farthest from all before it (an epsilon-net)."""
    net = extremes(scaled_NM, front)
    left = [row for row in front if row not in net]
    while left:
        gaps = [min(math.dist(scaled_NM[row], scaled_NM[chosen]) for chosen in net) for row in left]
        net.append(left.pop(int(np.argmax(gaps))))
    return net
