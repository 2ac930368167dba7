"""Means that are equal but for the order of their sums."""

import math

import numpy as np
import pytest

from analysis.statistics.arrays import round_means


def test_sums_in_another_order_are_equal_at_any_scale_and_other_means_stay_apart() -> None:
    sums = [(0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)]
    assert sums[0] != sums[1]
    for scale in (1e-8, 1.0, 1e8, -3.0):
        rounded = round_means([[scale * each] for each in (*sums, sums[0] * (1 + 1e-7))])
        assert rounded[0] == rounded[1] != rounded[2]
        assert rounded[:, 0] == pytest.approx([scale * 0.6] * 3, rel=1e-6)


def test_an_outlier_does_not_flatten_the_others() -> None:
    """A diverged loss of 1e10 beside 2.9 and 2.6."""
    assert round_means([[-2.9], [-2.6], [-1e10]])[:, 0].tolist() == pytest.approx([-2.9, -2.6, -1e10])


def test_what_cancels_is_zero_beside_larger_means() -> None:
    assert round_means([[0.1 + 0.2 - 0.3], [0.0], [0.5]])[:2].tolist() == [[0.0], [0.0]]


def test_odd_numbers_stay_and_columns_are_apart() -> None:
    odd = [[math.nan, 1e300], [0.25, 0.0], [math.inf, 1e300]]
    assert np.allclose(round_means(odd), odd, rtol=1e-12, atol=0.0, equal_nan=True)
    assert round_means([[1e-310], [2e-310]])[:, 0] == pytest.approx([1e-310, 2e-310], rel=1e-6)
    assert round_means([]).size == 0 and round_means([[0.0], [0.0]]).tolist() == [[0.0], [0.0]]
