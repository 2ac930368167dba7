"""Ranges of scores and the scale within them, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.statistics.ranges import Ranges


def test_halves_quarters_and_ends() -> None:
    """arcsin sqrt of 0, 1/4, 1/2 and 1 is 0, 30, 45 and 90 degrees; a range [0, 100] is first brought to [0, 1]."""
    ranges = Ranges.of([(0, 1), (0, 100)])
    values = np.array([[0.0, 0.0], [0.25, 25.0], [0.5, 50.0], [1.0, 100.0]])
    degrees = np.array([0, 30, 45, 90])[:, None] * math.pi / 180
    np.testing.assert_allclose(ranges.forward(values), np.repeat(degrees, 2, axis=1), atol=1e-12)
    np.testing.assert_allclose(ranges.back(ranges.exact(values)), values, atol=1e-12)
    assert ranges.back(np.array([[-1.0, 9.0]])).tolist() == [[0.0, 100.0]]


def test_scores_without_two_ends_stay_as_they_are() -> None:
    ranges = Ranges.of([(-math.inf, math.inf), (0, math.inf)])
    values = np.array([[-3.0, 7.0]])
    assert ranges.forward(values).tolist() == ranges.back(values).tolist() == values.tolist()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.98])
def test_the_mean_of_many_angles_is_the_share(share: float) -> None:
    """A mean of arcsin sqrt(p) of 60 questions would give .014 for .02."""
    ranges = Ranges(np.zeros(1), np.ones(1), np.array([60.0]))
    hits = np.random.default_rng(0).binomial(60, share, (100_000, 1))
    angle = ranges.forward(hits / 60).mean(axis=0)
    assert ranges.back(angle).item() == pytest.approx(share, abs=0.0015)


def test_values_outside_are_named() -> None:
    with pytest.raises(ValueError, match=r"1.5 at \(0, 0\) lies outside the range \[0, 1\]"):
        Ranges.of([(0, 1)]).check(np.array([[1.5]]))
