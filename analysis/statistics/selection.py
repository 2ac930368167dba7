"""Honest selection: a front chosen on one half of the evidence and reported on the other.

The front of measured means is too good to be true, because luck helped to choose it. Here it is chosen on one half of
the seeds (or of the questions), on the same curves as in the other statistics. Its scores are read from the other half,
and the result is averaged over many halvings. The scores of the other half are summed in the order in which the points
were chosen: taking that half's own best points would be luck again. Gains: larger is better.

Shape legend: C configurations, S seeds, M objectives, Q questions, N seeds or questions, P points, K corners, F points
of a front.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics.arrays import Bools, Floats, nan_mean
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.pareto import attainment_surface, hypervolumes, non_dominated

MOST_HALVINGS = 60


@dataclass(frozen=True, eq=False)
class Selection:
    """What is chosen, and what it is worth.

    Attributes:
        chosen_C: share of the halvings in which the configuration was on the front of the first half.
        optimistic: mean hypervolume of the chosen front, by the scores that chose it.
        pessimistic: the same by the scores of the other half.
        optimistic_K2, pessimistic_K2: median attainment surfaces of the chosen configurations, in two objectives; no
            corners in three.
        num_halvings: number of halvings.
    """

    chosen_C: Floats
    optimistic: float
    pessimistic: float
    optimistic_K2: Floats
    pessimistic_K2: Floats
    num_halvings: int

    @property
    def optimism(self) -> float:
        """How much of the hypervolume is luck if half of the evidence chooses."""
        return self.optimistic - self.pessimistic


def select_by_seeds(bootstrap: Bootstrap, worst_corner_M: ArrayLike, seed: int = 0) -> Selection | None:
    """Select on one half of the seeds, the larger one if their number is odd. None with fewer than two seeds.

    A configuration without a trial in one of the halves is left out of that halving.
    """
    gains_CSM = bootstrap.measured.gains_CSM
    return _select(bootstrap, gains_CSM, halves(gains_CSM.shape[1], seed), worst_corner_M)


def select_by_questions(
    bootstrap: Bootstrap, gains_CQM: ArrayLike, worst_corner_M: ArrayLike, seed: int = 0
) -> Selection | None:
    """Select on one half of the questions, with all seeds in both halves. None with fewer than two questions.

    Args:
        gains_CQM: mean over seeds of each question; nan in the objectives that the question does not measure.
    """
    gains = np.asarray(gains_CQM, dtype=np.float64)
    return _select(bootstrap, gains, halves(gains.shape[1], seed), worst_corner_M)


def halves(number: int, seed: int) -> Iterable[Bools]:
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


def _select(
    bootstrap: Bootstrap, gains_CNM: Floats, halves: Iterable[Bools], worst_corner_M: ArrayLike
) -> Selection | None:
    corner_M = np.asarray(worst_corner_M, dtype=np.float64)
    whole_CM = nan_mean(gains_CNM, axis=1)
    chosen_C = np.zeros(len(gains_CNM))
    fronts: tuple[list[Floats], list[Floats]] = ([], [])
    volumes = []
    for first_N in halves:
        means = [nan_mean(gains_CNM[:, half_N], axis=1) for half_N in (first_N, ~first_N)]
        measured_C = np.asarray(np.isfinite(np.concatenate(means, axis=1)).all(axis=1))
        if not measured_C.any():
            continue
        changes_2CM = np.stack([np.where(measured_C[:, None], mean_CM - whole_CM, 0.0) for mean_CM in means])
        first_PM, second_PM = bootstrap.points_moved_by(changes_2CM)
        kept_P = bootstrap.points_made_of(measured_C)
        volumes.append(_volumes(first_PM[kept_P], second_PM[kept_P], bootstrap.joined_P[kept_P], corner_M))
        front_C = np.zeros(len(gains_CNM), dtype=bool)
        rows_PM = [points_PM[bootstrap.point_C] for points_PM in (first_PM, second_PM)]
        front_C[measured_C] = non_dominated(rows_PM[0][measured_C])
        chosen_C += front_C
        for points, rows_CM in zip(fronts, rows_PM, strict=True):
            points.append(rows_CM[front_C])
    number = len(volumes)
    if not number:
        return None
    optimistic, pessimistic = np.mean(volumes, axis=0).tolist()
    none_K2 = np.empty((0, 2))
    surfaces = [attainment_surface(front) if len(corner_M) == 2 else none_K2 for front in fronts]
    return Selection(chosen_C / number, optimistic, pessimistic, surfaces[0], surfaces[1], number)


def _volumes(first_PM: Floats, second_PM: Floats, joined_P: Bools, corner_M: Floats) -> tuple[float, float]:
    """Return the hypervolume of the first points' front, and the hypervolume of the same front by the second points.

    In three objectives, the latter is the hypervolume of these second points' own front.
    """
    inside_P = (first_PM > corner_M).all(axis=1)
    optimistic = float(hypervolumes(first_PM[None], corner_M, joined_P)[0])
    if not inside_P.any():
        return optimistic, 0.0
    front_P = np.zeros(len(first_PM), dtype=bool)
    front_P[inside_P] = non_dominated(first_PM[inside_P])
    if len(corner_M) == 3:
        return optimistic, float(hypervolumes(second_PM[front_P][None], corner_M)[0])
    front_F = np.flatnonzero(front_P)
    front_F = front_F[np.lexsort((first_PM[front_F, 1], -first_PM[front_F, 0]))]
    neighbours_F = (np.abs(np.diff(front_F)) == 1) & joined_P[np.minimum(front_F[:-1], front_F[1:])]
    x_F, y_F = (np.maximum(second_PM[front_F] - corner_M, 0.0)).T
    strips = float((-np.diff(x_F, append=0.0) * y_F).sum())
    triangles = float((-np.diff(x_F) * np.diff(y_F) / 2)[neighbours_F].sum())
    return optimistic, strips + triangles
