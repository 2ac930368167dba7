"""What a figure reads of a setting: estimates, paired differences, and when they decide something."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from analysis.findings.frontier import Estimate
from analysis.study.setting_results import above, average, below, minus, over_seeds, shown
from settings.common.errors import UserError
from tests.support.make import KL1, KL10, PLAIN, configuration, part

BASE = {"task": 0.0, "alignment": 1.0}
ONE = part([(PLAIN, {"task": 0.9, "alignment": 0.1}), (KL1, {"task": 0.7, "alignment": 0.8, "extra": 0.4})], BASE)


def test_an_estimate_is_of_the_trials_that_have_the_score() -> None:
    assert ONE.estimates("task")[PLAIN.id].mean == pytest.approx(0.9)
    assert set(ONE.estimates("extra")) == {KL1.id}
    assert ONE.estimates("nothing") == {}
    assert ONE.scores == ("alignment", "extra", "task")


def test_controls_and_failed_trials_are_no_configurations() -> None:
    scaled = configuration("plain", adapter_scale=0.5)
    several = part([(PLAIN, {"task": 1.0}), (scaled, {"task": 0.5})], BASE, objectives=ONE.objectives[:1])
    assert several.configurations("plain") == [PLAIN]
    failed = replace(several, records=tuple(replace(record, status="failed") for record in several.records))
    assert failed.configurations("plain") == []
    with pytest.raises(UserError, match="0 configurations of plain have finished trials, and the figure needs one"):
        failed.only("plain")


def test_only_refuses_several() -> None:
    several = part([(KL1, {"task": 1.0, "alignment": 0.0}), (KL10, {"task": 0.5, "alignment": 0.0})], BASE)
    with pytest.raises(UserError, match="2 configurations of kl"):
        several.only("kl")


def test_the_base_has_an_interval_over_questions() -> None:
    base = ONE.base_estimate("alignment")
    assert (base.mean, base.high, base.basis) == (1.0, 1.0, "questions")
    assert 0.9 < base.low < 1.0
    assert math.isnan(ONE.base_estimate("unknown").mean)


def test_the_mean_of_scores_is_a_score() -> None:
    both = ONE.with_mean("both", ["task", "alignment"])
    assert both.base["both"] == 0.5
    assert both.base_counts["both"] == 100
    assert both.estimates("both")[KL1.id].mean == pytest.approx(0.75)
    assert "lacking" not in ONE.with_mean("lacking", ["task", "nothing"]).scores


def test_differences_are_paired_over_common_seeds() -> None:
    first, second = {0: 0.9, 1: 0.5, 2: 0.7}, {0: 0.8, 1: 0.4, 5: 0.0}
    found = minus(first, second)
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(0.0, abs=1e-12), "what moves both alike is no noise"
    assert minus(first, 0.7).mean == pytest.approx(0.0)


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.2, 0.4, 0.9]
    half = 4.302653 * np.std(values, ddof=1) / math.sqrt(3)
    found = over_seeds(dict(enumerate(values)))
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert math.isnan(over_seeds({3: 0.5}).low)
    assert math.isnan(over_seeds({}).mean)


def test_average_takes_the_common_seeds() -> None:
    assert average([{0: 0.0, 1: 1.0}, {1: 0.0, 2: 1.0}]) == {1: 0.5}
    assert average([]) == {}


@pytest.mark.parametrize(
    ("low", "high", "is_above", "is_below"),
    [(0.1, 0.3, True, False), (-0.1, 0.1, None, None), (-0.3, -0.1, False, True), (math.nan, math.nan, None, None)],
)
def test_an_interval_decides_or_not(low: float, high: float, is_above: bool | None, is_below: bool | None) -> None:
    estimate = Estimate((low + high) / 2, low, high)
    assert above(estimate) is is_above
    assert below(estimate) is is_below


def test_text() -> None:
    assert shown(Estimate(0.5, 0.4, 0.6)) == "0.50 [0.40, 0.60]"
    assert shown(Estimate(0.5, 0.4, 0.6), sign=True) == "+0.50 [+0.40, +0.60]"
    assert shown(Estimate(0.5, math.nan, math.nan)) == "0.50"
