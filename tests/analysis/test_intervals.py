"""Pooled t-intervals: by hand, against scipy's own, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.intervals import intervals_by_method, pooled_intervals, pooled_variance


def column(*rows: list[float]) -> np.ndarray:
    """Rows of seeds as values_CSM with one objective."""
    return np.array(rows)[:, :, None]


def test_pooled_variance_by_hand() -> None:
    """(1, 3): mean 2, squares 1 + 1. (0, 3, 6): mean 3, squares 9 + 9. Together 20 over 1 + 2 degrees of freedom."""
    variance_M, freedom = pooled_variance(column([1, 3, math.nan], [0, 3, 6]))
    assert freedom == 3
    assert variance_M.tolist() == pytest.approx([20 / 3])


def test_intervals_by_hand() -> None:
    """df 3, t = 3.18245, s^2 = 20/3: half widths t sqrt(20/6) = 5.8103 for two seeds and t sqrt(20/9) = 4.7441."""
    made = pooled_intervals(column([1, 3, math.nan], [0, 3, 6]))
    assert made.num_seeds_C.tolist() == [2, 3]
    assert made.mean_CM.ravel().tolist() == [2.0, 3.0]
    half = (made.high_CM - made.mean_CM).ravel()
    assert half.tolist() == pytest.approx([5.8103, 4.7441], abs=1e-4)
    assert (made.mean_CM - made.low_CM).ravel().tolist() == pytest.approx(half.tolist())


def test_one_configuration_is_the_ordinary_t_interval() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    made = pooled_intervals(column(values))
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert [made.low_CM.item(), made.high_CM.item()] == pytest.approx([low, high])


def test_objectives_do_not_share_a_variance() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 2)) * [1.0, 5.0]
    both = pooled_intervals(values)
    for axis in range(2):
        alone = pooled_intervals(values[:, :, axis : axis + 1])
        assert np.array_equal(both.low_CM[:, axis], alone.low_CM[:, 0])


def test_a_single_seed_has_no_interval() -> None:
    made = pooled_intervals(column([1.0], [2.0]))
    assert made.mean_CM.ravel().tolist() == [1.0, 2.0]
    assert np.isnan(made.low_CM).all()
    assert np.isnan(made.high_CM).all()


def test_a_single_seed_borrows_its_neighbours_variance() -> None:
    """(1, 3) alone has s^2 = 2 and df 1, t = 12.7062: half widths t and t sqrt 2."""
    made = pooled_intervals(column([1, 3], [5, math.nan]))
    assert (made.high_CM - made.mean_CM).ravel().tolist() == pytest.approx([12.7062, 17.9693], abs=1e-4)


def test_no_trial_no_mean() -> None:
    made = pooled_intervals(column([1, 3], [math.nan, math.nan]))
    assert np.isnan([made.mean_CM[1, 0], made.low_CM[1, 0], made.high_CM[1, 0]]).all()
    assert made.num_seeds_C.tolist() == [2, 0]
    assert math.isfinite(made.low_CM[0, 0])


def test_intervals_are_not_clipped() -> None:
    made = pooled_intervals(column([0.9, 1.0], [0.0, 0.1]))
    assert made.high_CM.max() > 1
    assert made.low_CM.min() < 0


def test_methods_do_not_share_a_variance() -> None:
    """Rows of two methods, interleaved; b's seeds are all alike and so its interval is a point."""
    values = column([1, 3], [7, 7], [2, 6])
    made = intervals_by_method(values, ["a", "b", "a"])
    alone = pooled_intervals(values[[0, 2]])
    assert made.low_CM[[0, 2]].tolist() == alone.low_CM.tolist()
    assert (made.low_CM[1, 0], made.high_CM[1, 0]) == (7.0, 7.0)
    assert made.mean_CM.ravel().tolist() == [2.0, 7.0, 4.0]


def test_confidence() -> None:
    """df 1: t_.75 = 1, so the 50 % interval of (1, 3) is 2 +- 1."""
    made = pooled_intervals(column([1, 3]), confidence=0.5)
    assert [made.low_CM.item(), made.high_CM.item()] == pytest.approx([1.0, 3.0])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="configuration 1, seed 0"):
        pooled_intervals(column([1.0, 2.0], [math.inf, 1.0]))
    with pytest.raises(ValueError, match="configuration 0, seed 1"):
        pooled_intervals(np.array([[[1.0, 2.0], [1.0, math.nan]]]))
    with pytest.raises(ValueError, match=r"\[C, S, M\]"):
        pooled_intervals(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="confidence"):
        pooled_intervals(column([1.0, 2.0]), confidence=95)
    with pytest.raises(ValueError, match="as many methods"):
        intervals_by_method(column([1.0, 2.0]), ["a", "b"])


def simulated(deviation_C: np.ndarray, repetitions: int = 4000) -> tuple[np.ndarray, float]:
    """Share of intervals over 3 seeds that hold the true mean, by configuration; and the mean width.

    Each repetition is an objective of its own, which is what makes one call enough.
    """
    rng = np.random.default_rng(1)
    truth_C = np.arange(len(deviation_C))[:, None, None]
    values_CSM = truth_C + deviation_C[:, None, None] * rng.normal(size=(len(deviation_C), 3, repetitions))
    made = pooled_intervals(values_CSM)
    covered_CM = (made.low_CM <= truth_C[:, :, 0]) & (truth_C[:, :, 0] <= made.high_CM)
    return covered_CM.mean(axis=1), float((made.high_CM - made.low_CM).mean())


def test_coverage_and_width() -> None:
    """95 % intervals of six configurations with equal variance cover 93 to 97 %, at 0.56 of the width of unpooled ones.

    The standard error of a share over 4000 repetitions is 0.35 %.
    """
    share_C, width = simulated(np.ones(6))
    assert ((share_C > 0.93) & (share_C < 0.97)).all()
    share_1, alone = simulated(np.ones(1))
    assert 0.93 < share_1[0] < 0.97
    assert width / alone == pytest.approx(0.56, abs=0.02)


def test_coverage_with_unequal_variance_is_as_documented() -> None:
    """Too wide at the quiet end, too narrow at the noisy one, 94 % on average."""
    share_C, _ = simulated(np.linspace(0.5, 1.5, 6))
    assert share_C[0] > 0.99
    assert 0.80 < share_C[-1] < 0.88
    assert share_C.mean() == pytest.approx(0.94, abs=0.01)
