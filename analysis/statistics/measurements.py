"""The input of the statistics of frontiers: gains, what configurations share, and which knobs are continuous.

Gains are scores oriented so that larger is better.

Shape legend: C configurations, S seeds, M objectives, K configurations of a line, D knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics.arrays import Bools, Floats, Integers, nan_mean
from analysis.statistics.ranges import PULL, Ranges


@dataclass(frozen=True, eq=False)
class Line:
    """Configurations that differ only in numeric knobs, so that there are others between them.

    Attributes:
        rows_K: which configurations.
        knobs_KD: their knob values.
        start_M: gains at 0 of a single knob, if these are known without noise: an adapter scaled to zero is the base
            model.
    """

    rows_K: Integers
    knobs_KD: Floats
    start_M: Floats | None = None


@dataclass(frozen=True, eq=False)
class Measurements:
    """Configurations with at least one trial each. Build it with `measurements`.

    Attributes:
        gains_CSM: nan where a configuration has no trial of a seed.
        method_C: number of each configuration's method; variances are shrunk within a method.
        training_C: configurations with the same number are read from one training, and share its noise.
        count_CSM: graded questions behind each value; nan where unknown.
        ranges: of the objectives, as gains.
        lines: the continuous knobs; a configuration may lie on several, or on none.
    """

    gains_CSM: Floats
    method_C: Integers
    training_C: Integers
    count_CSM: Floats
    ranges: Ranges
    lines: tuple[Line, ...]

    @cached_property
    def present_CS(self) -> Bools:
        """Which trials exist."""
        return np.asarray(~np.isnan(self.gains_CSM).any(axis=2))

    @cached_property
    def num_seeds_C(self) -> Integers:
        """The number of trials of each configuration."""
        return self.present_CS.sum(axis=1)

    @cached_property
    def mean_CM(self) -> Floats:
        """The means over seeds."""
        return nan_mean(self.gains_CSM, axis=1)

    @cached_property
    def answers_CM(self) -> Floats:
        """The number of graded questions behind each mean, over all seeds; 0 where it is unknown."""
        return np.asarray(np.where(np.isnan(self.count_CSM).all(axis=1), 0.0, np.nansum(self.count_CSM, axis=1)))

    @cached_property
    def is_share_M(self) -> Bools:
        """Whether an objective is a share of questions: every value times its number of questions is whole."""
        unit_CSM = self.ranges.unit(self.gains_CSM)
        hits_CSM = unit_CSM * self.count_CSM
        known_CSM = ~np.isnan(hits_CSM)
        whole_CSM = np.abs(hits_CSM - np.round(hits_CSM)) < 1e-6 * np.maximum(self.count_CSM, 1)
        every_CSM = (whole_CSM & (self.count_CSM > 0)) | np.isnan(self.gains_CSM)
        return np.asarray(self.ranges.bounded_M & every_CSM.all(axis=(0, 1)) & known_CSM.any(axis=(0, 1)))

    @cached_property
    def slope_CM(self) -> Floats:
        """The slope d score / d z (`Ranges`) at each mean, after moving the means off the ends as Anscombe does.

        Where the number of questions is unknown, a trial counts as one.
        """
        answers_CM = np.where(self.answers_CM > 0, self.answers_CM, self.num_seeds_C[:, None])
        pulled_CM = (self.ranges.unit(self.mean_CM) * answers_CM + PULL) / (answers_CM + 2 * PULL)
        return self.ranges.slope(pulled_CM)

    @cached_property
    def least_variance_CM(self) -> Floats:
        """The least variance in z of one trial's share of n questions, 1 / (4 n); 0 for other scores."""
        per_trial_CM = self.answers_CM / self.num_seeds_C[:, None]
        known_CM = self.is_share_M & (per_trial_CM > 0)
        return np.asarray(np.where(known_CM, 1 / (4 * np.where(known_CM, per_trial_CM, 1.0)), 0.0))


def measurements(
    gains_CSM: ArrayLike,
    method_C: ArrayLike,
    *,
    training_C: ArrayLike | None = None,
    count_CSM: ArrayLike | None = None,
    ranges: Ranges | None = None,
    lines: Sequence[Line] = (),
) -> Measurements:
    """Check and complete measurements. By default every configuration is a training and a point of its own.

    Raises ValueError: values that are infinite or lack some objectives; a configuration without a trial; a value
    outside its objective's range.
    """
    gains = np.asarray(gains_CSM, dtype=np.float64)
    if gains.ndim != 3:
        raise ValueError(f"gains must have the shape [C, S, M], got {gains.shape}")
    missing_CSM = np.isnan(gains)
    bad_CS = np.isinf(gains).any(axis=2) | (missing_CSM.any(axis=2) & ~missing_CSM.all(axis=2))
    if bad_CS.any():
        row, column = (int(index) for index in np.argwhere(bad_CS)[0])
        raise ValueError(
            f"configuration {row}, seed {column}: {gains[row, column].tolist()} is infinite, or lacks some objectives"
        )
    empty_C = missing_CSM.all(axis=(1, 2))
    if empty_C.any():
        raise ValueError(f"configuration {int(np.argmax(empty_C))} has no trial")
    known = Ranges.unknown(gains.shape[2]) if ranges is None else ranges
    known.check(gains)
    methods, trainings = (
        np.arange(len(gains)) if ids is None else np.unique(np.asarray(ids), return_inverse=True)[1].ravel()
        for ids in (method_C, training_C)
    )
    if len(methods) != len(gains) or len(trainings) != len(gains):
        raise ValueError(f"{len(gains)} configurations need as many methods and trainings")
    counts = np.full(gains.shape, np.nan) if count_CSM is None else np.asarray(count_CSM, dtype=np.float64)
    return Measurements(gains, methods, trainings, counts, known, tuple(lines))
