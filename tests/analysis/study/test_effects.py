"""Effects over seeds: means, paired differences, and when they decide something."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from analysis.findings.frontier import Estimate
from analysis.study.effects import (
    Shares,
    above,
    all_hold,
    below,
    difference,
    estimate_text,
    mean_by_seed,
    pooled,
    share_over_seeds,
    within,
)


def test_differences_are_paired_over_common_seeds() -> None:
    first, second = {0: 0.9, 1: 0.5, 2: 0.7}, {0: 0.8, 1: 0.4, 5: 0.0}
    estimate = difference(first, second)
    assert estimate.mean == pytest.approx(0.1)
    assert estimate.high - estimate.low == pytest.approx(0.0, abs=1e-12), "what moves both alike is no noise"
    assert difference(first, 0.7).mean == pytest.approx(0.0)


def test_the_interval_over_seeds_is_students() -> None:
    values = [2.0, 4.0, 9.0]
    half = 4.302653 * np.std(values, ddof=1) / math.sqrt(3)
    estimate = difference(dict(enumerate(values)), 0.0)
    assert (estimate.low, estimate.high) == pytest.approx((5 - half, 5 + half), abs=1e-5)
    assert math.isnan(difference({3: 0.5}, 0.0).low)
    assert math.isnan(difference({}, 0.0).mean)


def test_average_takes_the_common_seeds() -> None:
    assert mean_by_seed([{0: 0.0, 1: 1.0}, {1: 0.0, 2: 1.0}]) == {1: 0.5}
    assert mean_by_seed([]) == {}


@pytest.mark.parametrize(
    ("low", "high", "is_above", "is_below"),
    [(0.1, 0.3, True, False), (-0.1, 0.1, None, None), (-0.3, -0.1, False, True), (math.nan, math.nan, None, None)],
)
def test_an_interval_decides_or_not(low: float, high: float, is_above: bool | None, is_below: bool | None) -> None:
    estimate = Estimate((low + high) / 2, low, high)
    assert above(estimate) is is_above
    assert below(estimate) is is_below


def test_text() -> None:
    assert estimate_text(Estimate(0.5, 0.4, 0.6)) == "0.50 [0.40, 0.60]"
    assert estimate_text(Estimate(0.5, 0.4, 0.6), sign=True) == "+0.50 [+0.40, +0.60]"
    assert estimate_text(Estimate(0.5, math.nan, math.nan)) == "0.50"


@pytest.mark.parametrize(
    ("low", "high", "is_within"), [(-0.1, 0.1, True), (-0.2, 0.1, None), (0.15, 0.3, False), (math.nan, math.nan, None)]
)
def test_an_interval_lies_within_a_margin_or_not(low: float, high: float, is_within: bool | None) -> None:
    assert within(Estimate((low + high) / 2, low, high), 0.1) is is_within


def test_a_statement_holds_if_all_its_parts_do() -> None:
    assert all_hold([True, True]) is True
    assert all_hold([True, None]) is None
    assert all_hold([None, False]) is False


def test_shares_have_a_score_interval() -> None:
    """0, 0.2 and 0.4: mean 0.2, standard error 0.11547, t 4.302653.

    Variance of the angle 0.013333 / (4 * 0.2 * 0.8) = 0.0208333, so w = 4 * 0.0208333 * 4.302653^2 = 1.542736. Centre
    (0.2 + w / 2) / (1 + w) = 0.382017, half sqrt(0.16 w + w^2 / 4) / (1 + w) = 0.360840. Student's is -0.30 to 0.70.
    """
    estimate = share_over_seeds({0: 0.0, 1: 0.2, 2: 0.4})
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.2, 0.021177, 0.742857), abs=1e-5)
    agreed = share_over_seeds({0: 1.0, 1: 1.0})
    assert (agreed.low, agreed.high) == (1.0, 1.0)
    assert math.isnan(share_over_seeds({0: 0.5}).low)


def shares(values: Sequence[float], number: int) -> Shares:
    """Shares of `number` questions for each seed."""
    return Shares(dict(enumerate(values)), dict.fromkeys(range(len(values)), number))


def test_a_share_is_not_known_better_than_its_questions_allow() -> None:
    """90 of 90 answers are right, 30 of each seed, t 4.302653: the interval of a frontier's table.

    Variance 0.375 / 90^2 = 4.62963e-5, of the angle 4.62963e-5 / (4 * 0.995868 * 0.004132) = 0.00281255, which 88.887
    questions have. The lower end is 1 / (1 + 4.302653^2 / 88.887) = 0.827630. At one half, 300 questions have the
    standard error 0.0288675 and, by Wilson, half of 2 * 1.959964 * 0.0288675 / sqrt(1 + 1.959964^2 / 300) = 0.0562.
    """
    estimate = share_over_seeds(shares([1.0, 1.0, 1.0], 30))
    assert (estimate.low, estimate.high) == pytest.approx((0.827630, 1.0), abs=1e-5)
    half = share_over_seeds(shares([0.5, 0.5, 0.5], 100))
    assert (half.low, half.high) == pytest.approx((0.4438, 0.5562), abs=1e-4)
    mean = mean_by_seed([shares([1.0], 30), shares([0.5], 10)])
    assert isinstance(mean, Shares)
    assert mean.questions == {0: pytest.approx(30)}, "2^2 / (1/30 + 1/10)"
    assert pooled([shares([1.0, 0.5], 30), shares([0.0], 10)]) == {0: 1.0, 1: 0.5, 2: 0.0}
    assert pooled([shares([1.0, 0.5], 30), shares([0.0], 10)]).questions == {0: 30, 1: 30, 2: 10}  # type: ignore[attr-defined]
    assert type(mean_by_seed([shares([1.0], 30), {0: 0.5}])) is dict, "one number is not known"


def test_a_difference_of_shares_is_not_known_better_than_the_answers_that_it_changes() -> None:
    """-0.21 of 300 answers. Away from 0 Wilson's end for 63 of 300, w = 1.959964^2 / 300 = 0.0128049:

    (0.21 + w / 2 + 1.959964 sqrt(0.21 * 0.79 / 300 + w / 1200)) / (1 + w) = 0.259612. Towards 0 Wald's, for the share
    (63 + 3/8) / 300.75 = 0.210723: 0.21 - 1.959964 * 0.0235457 = 0.163851. Between seeds Student's half is only 0.0248.
    Equal answers have Wilson's end for 0 of 300 on both sides, w / (1 + w) = 0.012643.
    """
    fell = difference(shares([0.6, 0.61, 0.59], 100), 0.81)
    assert (fell.low, fell.high) == pytest.approx((-0.259612, -0.163851), abs=1e-5)
    same = difference(shares([0.5] * 3, 100), shares([0.5] * 3, 200))
    assert (same.low, same.high) == pytest.approx((-0.012643, 0.012643), abs=1e-5)
    apart = difference(shares([1.0] * 5, 20), shares([0.0] * 5, 20))
    alone = share_over_seeds(shares([1.0] * 5, 20))
    assert (apart.low, apart.high) == pytest.approx((alone.low, 1.0)), "no better than the share itself"
    below = difference(shares([0.0] * 5, 20), 1.0)
    assert (below.low, below.high) == pytest.approx((-1.0, -alone.low))
    assert difference({0: 0.5, 1: 0.5}, 0.5).low == 0.0, "without questions there is none"


def test_only_common_seeds_have_answers() -> None:
    first, second = Shares({0: 0.2, 1: 0.4, 2: 0.4}, dict.fromkeys(range(3), 50)), shares([0.2, 0.2], 50)
    assert difference(first, second) == difference(Shares({0: 0.2, 1: 0.4}, {0: 50, 1: 50}), second)


def test_differences_of_shares_stay_between_minus_one_and_one() -> None:
    wide = difference({0: 0.9, 1: 0.5, 2: 0.7}, {0: 0.0, 1: 0.1, 2: 0.0})
    assert wide.mean + 4.302653 * np.std([0.9, 0.4, 0.7], ddof=1) / math.sqrt(3) > 1
    assert -1 < wide.low < wide.mean < wide.high < 1
    losses = difference({0: 2.0, 1: 0.5}, 0.0)
    assert losses.high > 2, "what is no share keeps Student's interval"
