"""Pooled t-intervals: by hand, against scipy's own, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import digamma, polygamma

from analysis.statistics.intervals import (
    TwoWay,
    intervals_by_method,
    pooled_intervals,
    shrunk_spread,
    two_way_interval,
)
from analysis.statistics.measurements import Measurements, measurements
from analysis.statistics.ranges import Ranges


def column(*rows: list[float]) -> np.ndarray:
    """Rows of seeds as values_CSM with one objective."""
    return np.array(rows)[:, :, None]


def test_spread_by_hand() -> None:
    """(1, 3): mean 2, squares 1 + 1. (0, 3, 6): mean 3, squares 9 + 9. Together 20 over 1 + 2 degrees of freedom.

    Two variances are too few to shrink by: both are the pool. Products of the residuals (-1, 1) and (-3, 0, 3) on the
    two common seeds add up to 3, and would to 2 (1 - 1/2 - 1/3 + 2/6) = 1 for a shared effect of variance 1: so 3 of
    20/3 are shared, r = .45, and 3 degrees of freedom are worth 3 / (1 + .45^2).
    """
    spread = shrunk_spread(column([1, 3, math.nan], [0, 3, 6]))
    assert spread.variance_CM.ravel().tolist() == pytest.approx([20 / 3, 20 / 3])
    assert spread.freedom_CM.ravel().tolist() == pytest.approx([3 / 1.2025, 3 / 1.2025])


def test_intervals_by_hand() -> None:
    """s^2 = 20/3 with 3 / 1.2025 degrees of freedom: half widths t sqrt(20/6) for two seeds, t sqrt(20/9) for three."""
    made = pooled_intervals(column([1, 3, math.nan], [0, 3, 6]))
    assert made.num_seeds_C.tolist() == [2, 3]
    assert made.mean_CM.ravel().tolist() == [2.0, 3.0]
    half = (made.high_CM - made.mean_CM).ravel()
    t = stats.t.ppf(0.975, 3 / 1.2025)
    assert half.tolist() == pytest.approx([t * math.sqrt(20 / 6), t * math.sqrt(20 / 9)])
    assert (made.mean_CM - made.low_CM).ravel().tolist() == pytest.approx(half.tolist())


def test_seeds_that_move_all_configurations_alike_are_one_piece_of_evidence() -> None:
    """Three configurations with the same residuals have the freedom of one: 6 / (1 + 2) = 2."""
    spread = shrunk_spread(column([1, 2, 3], [11, 12, 13], [0, 1, 2]))
    assert spread.freedom_CM.ravel().tolist() == pytest.approx([2, 2, 2])


def test_variances_shrink_as_far_as_they_agree() -> None:
    """Smyth's estimates solve his two moment equations; very different variances keep nearly their own."""
    rng = np.random.default_rng(0)
    deviation_C = np.exp(rng.normal(size=40))
    values = deviation_C[:, None, None] * rng.normal(size=(40, 6, 1))
    spread = shrunk_spread(values)
    own_C = values.var(axis=1, ddof=1).ravel()
    logs_C = np.log(own_C) - digamma(2.5) + np.log(2.5)
    beyond = logs_C.var(ddof=1) - polygamma(1, 2.5)
    prior = optimize.brentq(lambda d: float(polygamma(1, d / 2)) - beyond, 1e-3, 1e3)
    expected_C = (prior * own_C.mean() + 5 * own_C) / (prior + 5)
    assert spread.variance_CM.ravel().tolist() == pytest.approx(expected_C.tolist(), rel=1e-6)
    assert spread.freedom_CM.max() < 10


def test_seeds_that_are_all_alike_do_not_make_the_others_quiet() -> None:
    """(0, 1, 2) has variance 1 with 2 degrees of freedom; the configuration at its ceiling gets half of it."""
    spread = shrunk_spread(column([0, 1, 2], [5, 5, 5]))
    assert spread.variance_CM.ravel().tolist() == [1.0, 0.5]
    assert spread.freedom_CM.ravel().tolist() == [2.0, 2.0]
    assert shrunk_spread(column([5, 5], [5, 5])).variance_CM.ravel().tolist() == [0.0, 0.0]


def test_equal_variances_are_pooled() -> None:
    """Variances that differ less than chance would make them: the pool, and its whole freedom."""
    spread = shrunk_spread(column([0, 1, 2], [6, 5, 4], [1, 3, 2], [3, 1, 2]))
    assert spread.variance_CM.ravel().tolist() == pytest.approx([1.0] * 4)


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
    made = intervals_by_method(measurements(values, ["a", "b", "a"]))
    alone = pooled_intervals(values[[0, 2]])
    assert made.low_CM[[0, 2]].tolist() == alone.low_CM.tolist()
    assert (made.low_CM[1, 0], made.high_CM[1, 0]) == (7.0, 7.0)
    assert made.mean_CM.ravel().tolist() == [2.0, 7.0, 4.0]


def shares(hits: list[list[int]], number: int) -> Measurements:
    """Measurements of one method and one share."""
    values_CSM = column(*hits) / number
    return measurements(
        values_CSM,
        ["a"] * len(hits),
        count_CSM=np.full(values_CSM.shape, number),
        ranges=Ranges.of([(0, 1)]),
    )


def test_a_share_at_its_ceiling_is_not_known_better_than_its_questions_allow() -> None:
    """Three seeds with 20 of 20: Wilson's interval for 60 of 60, with Student's quantile of 2 degrees in place of z."""
    made = intervals_by_method(shares([[20, 20, 20]], 20))
    t = stats.t.ppf(0.975, 2)
    assert made.high_CM.item() == 1.0
    assert made.low_CM.item() == pytest.approx(1 / (1 + t**2 / 60))


def test_intervals_of_shares_stay_within_their_range() -> None:
    """19 and 13 of 20: a t-interval with 1 degree would reach from below 0 to beyond 1."""
    made = intervals_by_method(shares([[19, 13], [1, 8]], 20))
    assert (made.low_CM >= 0).all()
    assert (made.high_CM <= 1).all()
    plain = pooled_intervals(column([0.95, 0.65], [0.05, 0.4]))
    assert plain.high_CM.max() > 1
    assert plain.low_CM.min() < 0


@pytest.mark.parametrize("number", [20, 200])
def test_coverage_of_a_share_near_its_ceiling(number: int) -> None:
    """One configuration, three seeds, a true share of .98: .70 of the t-intervals held it with 20 questions."""
    random = np.random.default_rng(number)
    held = []
    for hits in random.binomial(number, 0.98, (400, 3)):
        made = intervals_by_method(shares([hits.tolist()], number))
        held.append(made.low_CM.item() <= 0.98 <= made.high_CM.item())
    assert 0.92 <= np.mean(held) <= 1


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


def simulated(deviation_C: np.ndarray, shared: float = 0.0, repetitions: int = 4000) -> tuple[np.ndarray, float]:
    """Share of intervals over 3 seeds that hold the true mean, by configuration; and the mean width.

    Each repetition is an objective of its own, which is what makes one call enough.
    """
    rng = np.random.default_rng(1)
    truth_C = np.arange(len(deviation_C))[:, None, None]
    effect_1SM = math.sqrt(shared) * rng.normal(size=(1, 3, repetitions))
    noise_CSM = effect_1SM + math.sqrt(1 - shared) * rng.normal(size=(len(deviation_C), 3, repetitions))
    made = pooled_intervals(truth_C + deviation_C[:, None, None] * noise_CSM)
    covered_CM = (made.low_CM <= truth_C[:, :, 0]) & (truth_C[:, :, 0] <= made.high_CM)
    return covered_CM.mean(axis=1), float((made.high_CM - made.low_CM).mean())


def test_coverage_and_width() -> None:
    """95 % intervals of six configurations with equal variance cover 93 to 97 %, at 0.6 of the width of unpooled ones.

    The standard error of a share over 4000 repetitions is 0.35 %.
    """
    share_C, width = simulated(np.ones(6))
    assert ((share_C > 0.93) & (share_C < 0.97)).all()
    share_1, alone = simulated(np.ones(1))
    assert 0.93 < share_1[0] < 0.97
    assert width / alone == pytest.approx(0.61, abs=0.03)


def test_coverage_with_unequal_variance() -> None:
    """Standard deviations from 0.5 to 1.5: 95 % on average, and no knob value is far off."""
    share_C, _ = simulated(np.linspace(0.5, 1.5, 6))
    assert share_C.mean() == pytest.approx(0.95, abs=0.015)
    assert share_C.min() > 0.87


def test_coverage_with_shared_seed_effects() -> None:
    share_C, _ = simulated(np.ones(12), shared=0.5)
    assert share_C.mean() == pytest.approx(0.95, abs=0.015)


def test_two_way_by_hand() -> None:
    """Rows (0, 2), (2, 8): mean 3; row means 1, 5 and column means 1, 5, both with variance 8, over 2 each: 4.

    Left over: 1, -1, -1, 1, squares 4 over 1 degree, over 4 values: 1. So V = 4 + 4 - 1 = 7, of which 4 are the seeds';
    freedom 49 / (16 / 1 + 9 / 1) = 1.96.
    """
    made = two_way_interval([[0, 2], [2, 8]])
    half = stats.t.ppf(0.975, 49 / 25) * math.sqrt(7)
    assert (made.mean, made.low, made.high) == pytest.approx((3.0, 3 - half, 3 + half))
    assert made.seed_share == pytest.approx(4 / 7)


def test_two_way_is_what_resampling_both_tends_to() -> None:
    """The variance of the mean when seeds and questions are drawn anew, with replacement, from many of each."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(60, 1)) + 2 * rng.normal(size=(1, 80)) + 3 * rng.normal(size=(60, 80))
    resampled = [values[rng.integers(60, size=60)][:, rng.integers(80, size=80)].mean() for _ in range(4000)]
    made = two_way_interval(values, confidence=0.5)
    error = (made.high - made.mean) / stats.norm.ppf(0.75)
    assert error == pytest.approx(float(np.std(resampled)), rel=0.05)


def test_two_way_coverage() -> None:
    """3 seeds and 40 questions from infinitely many of each: about 95 %, and 60 % if questions are taken as fixed."""
    rng = np.random.default_rng(4)
    covered = naive = 0
    for _ in range(1500):
        values = 0.3 * rng.normal(size=(3, 1)) + 2 * rng.normal(size=(1, 40)) + rng.normal(size=(3, 40))
        made = two_way_interval(values, variance=0.09 + 1 / 40, freedom=20)
        covered += made.low <= 0 <= made.high
        naive += abs(values.mean()) <= 2.09 * math.sqrt((0.09 + 1 / 40) / 3)
    assert covered / 1500 == pytest.approx(0.95, abs=0.02)
    assert naive / 1500 < 0.75


def test_two_way_edges() -> None:
    """One question, one seed, answers missing; nothing at all is refused."""
    assert two_way_interval([[1.0], [3.0]]).seed_share == 1.0
    alone = two_way_interval([[0.0, 1.0, 1.0, 0.0, math.nan]])
    assert (alone.mean, alone.seed_share) == (0.5, 0.0)
    half = stats.t.ppf(0.975, 3) * math.sqrt((1 / 3) / 4)
    assert alone.high == pytest.approx(0.5 + half)
    assert two_way_interval([[1.0, 1.0], [1.0, 1.0]]) == TwoWay(1.0, 1.0, 1.0, 0.0)
    for bad in ([[math.nan]], [[math.inf]], [1.0]):
        with pytest.raises(ValueError, match=r"\[S, Q\]"):
            two_way_interval(bad)
