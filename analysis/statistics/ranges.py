"""The range of a score, and a scale without ends.

    z = arcsin sqrt((n unit + 3/8) / (n + 3/4)),    unit = (score - low) / (high - low)

On this scale the noise of a share of n questions is nearly the same everywhere, and everything drawn on it maps back
into the range. The mean of z corresponds to (n unit + 1/8) / (n + 1/4), which `back` undoes. A score without two ends
is not transformed.

Source: Anscombe 1948, "The transformation of Poisson, binomial and negative-binomial data".

Shape legend: M objectives; X stands for any leading axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics.arrays import Bools, Floats

ROUNDING = 1e-9  # part of a range by which a mean may lie outside it
PULL = 3 / 8  # answers added to both sides of a share, so that the variance of z is nearly constant
PULL_OF_MEAN = 1 / 8  # the same for the share that corresponds to the mean of z


@dataclass(frozen=True, eq=False)
class Ranges:
    """The ends of each objective.

    Attributes:
        low_M, high_M: ends; infinite where there are none.
        answers_M: n, the number of independent questions that would give the noise of a mean; 0 if it has no noise.
    """

    low_M: Floats
    high_M: Floats
    answers_M: Floats | None = None

    @staticmethod
    def of(ends: ArrayLike) -> Ranges:
        """Build ranges from pairs (low, high), one for each objective."""
        ends_M2 = np.asarray(ends, dtype=np.float64).reshape(-1, 2)
        return Ranges(ends_M2[:, 0], ends_M2[:, 1])

    @staticmethod
    def unknown(number: int) -> Ranges:
        """Build ranges for objectives without known ends."""
        return Ranges(np.full(number, -np.inf), np.full(number, np.inf))

    @property
    def bounded_M(self) -> Bools:
        """Which objectives have two ends."""
        return np.asarray(np.isfinite(self.low_M) & np.isfinite(self.high_M))

    @property
    def width_M(self) -> Floats:
        """high - low; 1 where there are no two ends."""
        ends_2M = np.where(self.bounded_M, [self.low_M, self.high_M], [[0.0], [1.0]])
        return np.asarray(ends_2M[1] - ends_2M[0])

    @property
    def _base_M(self) -> Floats:
        return np.where(self.bounded_M, self.low_M, 0.0)

    def check(self, values_XM: Floats) -> None:
        """Raise ValueError if a value lies outside its range."""
        slack_M = ROUNDING * self.width_M
        outside_XM = (values_XM < self.low_M - slack_M) | (values_XM > self.high_M + slack_M)
        if outside_XM.any():
            place = tuple(int(index) for index in np.argwhere(outside_XM)[0])
            low, high = self.low_M[place[-1]], self.high_M[place[-1]]
            raise ValueError(f"value {values_XM[place]:g} at {place} lies outside the range [{low:g}, {high:g}]")

    def unit(self, values_XM: Floats) -> Floats:
        """Map each range to [0, 1]; objectives without two ends stay as they are."""
        unit_XM = (values_XM - self._base_M) / self.width_M
        return np.asarray(np.where(self.bounded_M, np.clip(unit_XM, 0.0, 1.0), unit_XM))

    def of_unit(self, unit_XM: Floats) -> Floats:
        """Map [0, 1] back to each range."""
        return np.asarray(self._base_M + self.width_M * unit_XM)

    def forward(self, values_XM: Floats, part: float = 1.0) -> Floats:
        """Return z of means over `part` of the questions."""
        return self._angle(values_XM, PULL, part)

    def exact(self, values_XM: Floats) -> Floats:
        """Return z of values without noise, so that `back` returns these values."""
        return self._angle(values_XM, PULL_OF_MEAN, 1.0)

    def _angle(self, values_XM: Floats, pull: float, part: float) -> Floats:
        if not self.bounded_M.any():
            return values_XM
        unit_XM, answers_M = self.unit(values_XM), part * self._answers_M
        known_M = answers_M > 0
        total_M = np.where(known_M, answers_M + 2 * pull, 1.0)
        share_XM = np.where(known_M, (unit_XM * answers_M + pull) / total_M, unit_XM)
        return np.asarray(np.where(self.bounded_M, np.arcsin(np.sqrt(np.clip(share_XM, 0.0, 1.0))), values_XM))

    @property
    def _answers_M(self) -> Floats:
        return np.zeros_like(self.low_M) if self.answers_M is None else self.answers_M

    def back(self, z_XM: Floats) -> Floats:
        """Return the values that correspond to means z; a z beyond an end becomes the end."""
        if not self.bounded_M.any():
            return z_XM
        share_XM, known_M = np.sin(np.clip(z_XM, 0.0, math.pi / 2)) ** 2, self._answers_M > 0
        answers_M = np.where(known_M, self._answers_M, 1.0)
        unit_XM = np.where(known_M, (share_XM * (answers_M + 2 * PULL_OF_MEAN) - PULL_OF_MEAN) / answers_M, share_XM)
        return np.asarray(np.where(self.bounded_M, self.of_unit(np.clip(unit_XM, 0.0, 1.0)), z_XM))

    def measured_unit(self, z_XM: Floats) -> Floats:
        """Return the means on [0, 1] that `forward` maps to z; objectives without two ends stay as they are."""
        answers_M = self._answers_M
        known_M = answers_M > 0
        share_XM = np.sin(np.clip(z_XM, 0.0, math.pi / 2)) ** 2
        raw_XM = (share_XM * (answers_M + 2 * PULL) - PULL) / np.where(known_M, answers_M, 1.0)
        return np.asarray(np.where(self.bounded_M, np.clip(np.where(known_M, raw_XM, share_XM), 0.0, 1.0), z_XM))

    def slope_back(self, z_XM: Floats) -> Floats:
        """Return the derivative of `back` at z, as if there were no ends."""
        answers_M = self._answers_M
        grown_M = np.where(answers_M > 0, 1 + 2 * PULL_OF_MEAN / np.where(answers_M > 0, answers_M, 1.0), 1.0)
        return np.asarray(np.where(self.bounded_M, self.width_M * grown_M * np.sin(2 * z_XM), np.ones_like(z_XM)))

    def slope(self, unit_XM: Floats) -> Floats:
        """Return d value / d z at values on [0, 1] (`unit`); 1 for objectives without two ends."""
        inside_XM = np.clip(unit_XM, 0.0, 1.0)
        return np.asarray(
            np.where(self.bounded_M, 2 * self.width_M * np.sqrt(inside_XM * (1 - inside_XM)), np.ones_like(unit_XM))
        )
