"""Agreement of two judges, by hand."""

from __future__ import annotations

import math

import pytest

from analysis.statistics.judge_agreement import Pair, agreement_by_question, measure_agreement, other_scale

NAN = math.nan


def test_by_hand() -> None:
    """Differences 10, -10, 30: mean 10, sd 20; t(2) = 4.3027, so the interval is 10 +- 4.3027 x 20 / sqrt 3 = 49.68.

    Sides at 80: yes-yes, no-no, yes-no, so two of three; by chance 2/3 x 1/3 + 1/3 x 2/3 = 4/9, and kappa is
    (2/3 - 4/9) / (5/9) = .4. Sums of products of the deviations: 3200/3, 6200/3 and 2600/3, so r = 32 / sqrt(62 x 26).
    """
    agreement = measure_agreement([Pair("q", 100, 90), Pair("q", 40, 50), Pair("q", 90, 60)])
    assert (agreement.n, agreement.bias, agreement.absolute) == (3, 10.0, pytest.approx(50 / 3))
    assert agreement.high - agreement.bias == pytest.approx(4.302653 * 20 / math.sqrt(3), abs=1e-5)
    assert agreement.bias - agreement.low == pytest.approx(agreement.high - agreement.bias)
    assert agreement.same_side == pytest.approx(2 / 3)
    assert agreement.kappa == pytest.approx(0.4)
    assert agreement.correlation == pytest.approx(32 / math.sqrt(62 * 26))


def test_missing_verdicts_are_counted_and_left_out() -> None:
    agreement = measure_agreement([Pair("q", NAN, 1), Pair("q", 1, NAN), Pair("q", NAN, NAN), Pair("q", 5, 5)])
    assert (agreement.n, agreement.missing_judge, agreement.missing_rater, agreement.missing_both) == (1, 1, 1, 1)
    assert (agreement.bias, agreement.same_side) == (0.0, 1.0)
    assert all(map(math.isnan, (agreement.low, agreement.high, agreement.correlation, agreement.kappa)))


def test_nothing_at_all() -> None:
    assert measure_agreement([]).n == 0
    assert math.isnan(measure_agreement([]).bias)


def test_questions_stand_apart() -> None:
    by_question = agreement_by_question([Pair("b", 1, 2), Pair("a", 5, 5), Pair("b", 3, 2)])
    assert list(by_question) == ["b", "a"]
    assert [agreement.n for agreement in by_question.values()] == [2, 1]
    assert by_question["b"].bias == 0.0


def test_the_same_judge_twice_agrees_beyond_chance() -> None:
    assert measure_agreement([Pair("q", value, value) for value in (10, 95, 20, 99)]).kappa == 1.0


@pytest.mark.parametrize(
    ("verdicts", "compared", "scale"),
    [
        ([0.2, 0.9], [20, 90], (0, 1)),
        ([0, 1], [20, 90], (0, 1)),
        ([4, 5, 1], [80, 95, 10], (1, 5)),
        ([8, math.nan], [80, 20], (0, 10)),
        ([0, 5], [80, 20], (0, 10)),
        ([8, 11], [80, 20], None),
        ([8, 2], [9, 3], None),  # both say that these answers are bad
        ([math.nan], [80], None),
        ([8, 2, 3, 4, 5], [math.nan] * 5, (0, 10)),  # without a rater, five verdicts
        ([8, 2, 3, 4], [math.nan] * 4, None),
    ],
)
def test_verdicts_that_look_like_another_scale(
    verdicts: list[float], compared: list[float], scale: tuple[float, float] | None
) -> None:
    assert other_scale(verdicts, compared) == scale
