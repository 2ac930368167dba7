"""Intervals of proportions: by hand, and against scipy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.proportions import clustered_interval, score_interval, wilson


def test_score_interval_is_wilsons_for_independent_questions() -> None:
    """A share of n questions has the variance 1 / (4 n) on the scale of its angle."""
    low, high = score_interval([0.0, 0.3, 1.0], np.full(3, 1 / (4 * 50)), stats.norm.ppf(0.975))
    for place, hits in enumerate((0, 15, 50)):
        assert (low[place], high[place]) == pytest.approx(wilson(hits, 50), abs=1e-12)


def test_a_share_without_noise_is_a_point() -> None:
    low, high = score_interval([0.4], [0.0], [2.0])
    assert low.item() == high.item() == pytest.approx(0.4)
    assert np.isnan(score_interval([1.0], [0.1], [np.nan])).all()


@pytest.mark.parametrize(("successes", "number"), [(0, 10), (3, 10), (10, 10), (57, 300)])
def test_wilson_is_scipys(successes: int, number: int) -> None:
    expected = stats.binomtest(successes, number).proportion_ci(0.95, method="wilson")
    assert wilson(successes, number) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_refuses() -> None:
    for successes, number in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="proportion"):
            wilson(successes, number)


def test_clusters_by_hand() -> None:
    """3 of 4, 1 of 4 and 2 of 4: mean .5, deviations 1, -1, 0; V = 3/2 * 2 / 144 = .25 / 12."""
    made = clustered_interval([3, 1, 2, 0], [4, 4, 4, 0])
    assert (made.mean, made.error, made.design, made.num_clusters) == pytest.approx((0.5, math.sqrt(1 / 48), 1.0, 3))
    weight = stats.t.ppf(0.975, 2) ** 2 / 12  # V = p (1 - p) / 12, so that there are 12 independent answers
    assert made.high == pytest.approx(0.5 + math.sqrt(weight / 4 + weight**2 / 4) / (1 + weight))


def test_clusters_edges() -> None:
    assert math.isnan(clustered_interval([], []).mean)
    single = clustered_interval([1], [2])
    assert single.mean == 0.5
    assert math.isnan(single.low)
    alike = clustered_interval([2, 2], [2, 2])
    assert alike.low == pytest.approx(1 / (1 + stats.t.ppf(0.975, 1) ** 2 / 4))  # four answers, all alike
    assert alike.high == 1.0
    assert math.isnan(alike.design)
