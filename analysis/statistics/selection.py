"""Honest selection: configurations chosen on one half of the evidence and reported on the other.

The front of measured means is too good to be true, because luck helped to choose it. Here it is chosen on one half
of the seeds (or of the questions) and its scores are read from the other half, over many halvings. Gains: larger is
better.

Shape legend: C configurations, S seeds, M objectives, Q questions, N seeds or questions, K corners.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics.arrays import Bools, Floats, nan_mean
from analysis.statistics.pareto import attainment_surface, hypervolume, non_dominated

MOST_HALVINGS = 200


@dataclass(frozen=True, eq=False)
class Selection:
    """What is chosen, and what it is worth.

    Attributes:
        chosen_C: share of the halvings in which the configuration was on the front of the first half.
        optimistic: mean hypervolume of the chosen configurations, by the scores that chose them.
        pessimistic: by the scores of the other half, which they were not chosen by.
        optimistic_K2, pessimistic_K2: median attainment surfaces of the same, in two objectives; no corners in three.
        num_halvings: how many.
    """

    chosen_C: Floats
    optimistic: float
    pessimistic: float
    optimistic_K2: Floats
    pessimistic_K2: Floats
    num_halvings: int

    @property
    def optimism(self) -> float:
        """How much of the hypervolume is luck, at half of the evidence: an upper bound at all of it."""
        return self.optimistic - self.pessimistic


def select_by_seeds(gains_CSM: ArrayLike, worst_corner_M: ArrayLike, seed: int = 0) -> Selection | None:
    """Select on one half of the seeds, the larger one if they are odd. None when there are fewer than two seeds.

    Configurations without a trial in one of the halves sit that halving out.
    """
    gains = np.asarray(gains_CSM, dtype=np.float64)
    return _select(gains, _halves(gains.shape[1], seed), worst_corner_M)


def select_by_questions(gains_CQM: ArrayLike, worst_corner_M: ArrayLike, seed: int = 0) -> Selection | None:
    """Select on one half of the questions, with all seeds in both. None when there are fewer than two questions.

    Args:
        gains_CQM: mean over seeds of each question; nan in the objectives that the question does not speak of.
    """
    gains = np.asarray(gains_CQM, dtype=np.float64)
    return _select(gains, _halves(gains.shape[1], seed), worst_corner_M)


def _halves(number: int, seed: int) -> Iterable[Bools]:
    """Yield every way to choose the larger half of `number` things, or `MOST_HALVINGS` random ones."""
    size = math.ceil(number / 2)
    if number < 2:
        return
    if math.comb(number, size) <= MOST_HALVINGS:
        for chosen in itertools.combinations(range(number), size):
            yield np.isin(np.arange(number), chosen)
        return
    random = np.random.default_rng(seed)
    for _ in range(MOST_HALVINGS):
        yield random.permutation(number) < size


def _select(gains_CNM: Floats, halves: Iterable[Bools], worst_corner_M: ArrayLike) -> Selection | None:
    num_configurations, _, num_objectives = gains_CNM.shape
    chosen_C = np.zeros(num_configurations)
    fronts: tuple[list[Floats], list[Floats]] = ([], [])
    for first_N in halves:
        means = [nan_mean(gains_CNM[:, half_N], axis=1) for half_N in (first_N, ~first_N)]
        measured_C = np.isfinite(means[0]).all(axis=1) & np.isfinite(means[1]).all(axis=1)
        if not measured_C.any():
            continue
        front_C = np.zeros(num_configurations, dtype=bool)
        front_C[np.flatnonzero(measured_C)] = non_dominated(means[0][measured_C])
        chosen_C += front_C
        for points, mean_CM in zip(fronts, means, strict=True):
            points.append(mean_CM[front_C])
    number = len(fronts[0])
    if not number:
        return None
    volumes = [float(np.mean([hypervolume(points, worst_corner_M) for points in front])) for front in fronts]
    none_K2 = np.empty((0, 2))
    surfaces = [attainment_surface(front) if num_objectives == 2 else none_K2 for front in fronts]
    return Selection(chosen_C / number, volumes[0], volumes[1], surfaces[0], surfaces[1], number)
