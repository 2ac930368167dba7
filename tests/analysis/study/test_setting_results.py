"""What a figure reads of a setting: its configurations, and estimates of any score."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from analysis.tables.scores import Objective
from settings.common.errors import UserError
from tests.support.made_up_trials import KL1, KL10, PLAIN, configuration, setting_results

BASE = {"task": 0.0, "alignment": 1.0}
ONE = setting_results(
    [(PLAIN, {"task": 0.9, "alignment": 0.1}), (KL1, {"task": 0.7, "alignment": 0.8, "extra": 0.4})], BASE
)


def test_an_estimate_is_of_the_trials_that_have_the_score() -> None:
    assert ONE.estimates("task")[PLAIN.id].mean == pytest.approx(0.9)
    assert set(ONE.estimates("extra")) == {KL1.id}
    assert ONE.estimates("nothing") == {}
    assert ONE.scores == ("alignment", "extra", "task")


def test_an_estimate_is_the_score_whichever_way_is_better() -> None:
    lower = Objective("alignment", "alignment", higher_is_better=False, low=0.0, high=1.0)
    estimate = replace(ONE, described={"alignment": lower}).estimates("alignment")[KL1.id]
    assert estimate.mean == pytest.approx(0.8)


def test_controls_and_failed_trials_are_no_configurations() -> None:
    scaled = configuration("plain", adapter_scale=0.5)
    several = setting_results([(PLAIN, {"task": 1.0}), (scaled, {"task": 0.5})], BASE, objectives=ONE.objectives[:1])
    assert several.configurations("plain") == [PLAIN]
    failed = replace(several, records=tuple(replace(record, status="failed") for record in several.records))
    assert failed.configurations("plain") == []
    with pytest.raises(UserError, match="0 configurations of plain have finished trials, but the figure needs one"):
        failed.only("plain")


def test_only_refuses_several() -> None:
    several = setting_results([(KL1, {"task": 1.0, "alignment": 0.0}), (KL10, {"task": 0.5, "alignment": 0.0})], BASE)
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
