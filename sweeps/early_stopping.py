"""Early stopping along several objectives: at each rung, configurations that others leave behind are stopped.

Multi-objective successive halving (Schmucker et al. 2021, arXiv:2106.12639): the configurations that have reached a
rung are ranked by non-dominated sorting, inside a front by an epsilon-net, and the best share goes on. The extremes of
the front always go on: the frontier's ends are what a sweep is for. Whole configurations are stopped, by the means over
their seeds; stopping single seeds would leave those that were lucky, and intervals that do not hold.

Gains are scores with the sign that makes larger better. Shape suffixes: N configurations, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.statistics.pareto import non_dominated
from settings.common.errors import UserError
from trainables.trial import TrialConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EarlyStopping:
    """Which configurations of a searched method are stopped before their end.

    What it gains depends on how much half a training tells of a whole one; `python -m tests.studies.early_stopping`
    measures that. On the nano world of `bad_medical_advice`, at the cost of 6, 8 and 12 full trainings, the
    hypervolume of a method's frontier changes by +0.02, -0.01, -0.01 (KL penalty), by +0.02, -0.03, -0.03
    (up-weighted) and by +0.17, +0.04, +0.04 (mixed): it helps where trainings are few and most of them end at the
    same point. One more rung at a quarter costs up to 0.09.

    Attributes:
        rungs: shares of a trial's updates after which it is evaluated and compared.
        keep: share of the configurations at a rung that goes on, rounded up; the front's extremes do in any case.
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
        """The updates after which a trial is looked at: one per rung, at least 1, and before its end."""
        return tuple(min(max(1, round(at * trial.updates)), trial.updates) for at in self.rungs)


def order(gains_NM: ArrayLike) -> list[int]:
    """The rows from best to worst: front after front, each from its extremes to what lies farthest from those before.

    Distances are Euclidean after scaling each objective to [0, 1] over all rows. Ties go to the earlier row. Raises
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
    """The best rows of a front in each objective; of several the one that is better in the others."""
    gains = np.asarray(gains_NM, dtype=np.float64)
    ends = (max(front, key=lambda row, m=m: (gains[row, m], gains[row].sum())) for m in range(gains.shape[1]))  # type: ignore[misc]
    return list(dict.fromkeys(ends))


def promoted(gains_NM: ArrayLike, keep: float) -> set[int]:
    """The rows of which the trainings go on: the first `keep` of `order`, and the extremes of the first front."""
    gains = np.asarray(gains_NM, dtype=np.float64)
    if not len(gains):
        return set()
    ranked = order(gains)
    first = [int(row) for row in np.flatnonzero(non_dominated(gains))]
    return {*ranked[: math.ceil(keep * len(gains))], *extremes(gains, first)}


def _net(scaled_NM: Floats, front: Sequence[int]) -> list[int]:
    """A front from its extremes on, then always what is farthest from all before (an epsilon-net)."""
    net = extremes(scaled_NM, front)
    left = [row for row in front if row not in net]
    while left:
        gaps = [min(math.dist(scaled_NM[row], scaled_NM[other]) for other in net) for row in left]
        net.append(left.pop(int(np.argmax(gaps))))
    return net
