"""A method is compared with the controls of its own definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.findings.arms import families
from analysis.findings.controls import ControlVerdict, compare_with_controls
from analysis.findings.findings import ALL_METHODS, analyse, comparable
from analysis.statistics.bootstrap import Bootstrap, Statistic
from analysis.statistics.compare import Difference
from analysis.statistics.measurements import measurements
from analysis.tables.scores import Configuration, ScoreTable, TrialRecord
from tests.studies import control_verdicts
from tests.support.made_up_trials import OBJECTIVES

SCALES = (0.25, 0.5, 0.75)


def configurations(suffix: str) -> list[Configuration]:
    """Plain fine-tuning, its adapter scaled, and a method."""
    scaled = [
        Configuration(f"s{scale}{suffix}", f"plain{suffix}", f"adapter_scale={scale}", {"adapter_scale": scale})
        for scale in SCALES
    ]
    return [
        Configuration(f"plain{suffix}", f"plain{suffix}", "", {"adapter_scale": 1.0}),
        *scaled,
        Configuration(f"kl{suffix}", f"kl{suffix}", "beta=1.0", {"beta": 1.0}),
    ]


def test_definitions_are_not_compared() -> None:
    """Both methods lie at (.7, .7): far above the principled controls and far below the published ones."""
    rows = configurations("") + configurations(" (published)")
    weak = [(0.5, 0.1), (0.2, 0.4), (0.3, 0.3), (0.4, 0.2), (0.7, 0.7)]
    strong = [(0.99, 0.5), (0.8, 0.98), (0.9, 0.96), (0.95, 0.9), (0.7, 0.7)]
    noise = 0.005 * np.random.default_rng(0).standard_normal((10, 3, 2))
    values_CSM = np.array(weak + strong)[:, None, :] + noise
    bootstrap = Bootstrap(measurements(values_CSM, [row.method for row in rows]))
    verdicts = compare_with_controls(bootstrap, rows, None, [0.0, 0.0])
    assert {verdict.method: (verdict.beats, verdict.loses) for verdict in verdicts} == {
        "kl": (("scale",), ()),
        "kl (published)": ((), ("scale",)),
    }


def test_mixes_have_to_beat_the_same_mixes_of_plain_fine_tuning() -> None:
    """Both methods lie at (.7, .7), above plain's scales and checkpoints, below its mixes: only the mixed one loses."""
    rows = [
        *configurations("")[:-1],
        Configuration("c", "plain", "checkpoint_step=2", {"adapter_scale": 1.0, "checkpoint_step": 2}),
        *(Configuration(f"m{mix}", "plain", f"decoding_mix={mix}", {"decoding_mix": mix}) for mix in (0.25, 0.5, 0.75)),
        Configuration("kl", "kl", "beta=1.0", {"beta": 1.0, "decoding_mix": 1.0}),
        Configuration("dpo", "dpo", "weight=1.0", {"weight": 1.0, "decoding_mix": 0.5}),
    ]
    scores = [(0.5, 0.1), (0.2, 0.4), (0.3, 0.3), (0.4, 0.2), (0.3, 0.3), (0.8, 0.98), (0.9, 0.96), (0.95, 0.9)]
    noise = 0.005 * np.random.default_rng(0).standard_normal((10, 3, 2))
    values_CSM = np.array([*scores, (0.7, 0.7), (0.7, 0.7)])[:, None, :] + noise
    bootstrap = Bootstrap(measurements(values_CSM, [row.method for row in rows]))
    verdicts = {row.method: row for row in compare_with_controls(bootstrap, rows, None, [0.0, 0.0])}
    assert (verdicts["kl"].beats, verdicts["kl"].pushes) == (("checkpoint", "scale"), True)
    assert (verdicts["dpo"].beats, verdicts["dpo"].loses) == (("checkpoint", "scale"), ("mix",))
    assert not verdicts["dpo"].pushes
    assert "loses to plain fine-tuning mixed with the base model" in verdicts["dpo"].text


def test_blends_of_one_method_are_part_of_its_front() -> None:
    """Ends at (.9, .1) and (.1, .9) and a blend at (.8, .8): .8 x .8 = .64, and .1 x .1 = .01 beyond it on either side.

    A blend of two methods, and one of a method that is not there, stay what they are.
    """
    ends = {"first": "kl beta=1", "second": "kl beta=9"}
    rows = [
        Configuration("k1", "kl", "beta=1", {"beta": 1.0}),
        Configuration("k9", "kl", "beta=9", {"beta": 9.0}),
        Configuration("b", "blend", "w=0.5", {"w": 0.5, **ends}),
        Configuration("o", "blend", "w=0.5, second=dpo", {"w": 0.5, **ends, "second": "dpo weight=1"}),
        Configuration("d", "blend", "w=0.5, dpo", {"w": 0.5, "first": "dpo weight=1", "second": "dpo weight=2"}),
    ]
    assert families(rows).tolist() == ["kl", "kl", "kl", "blend", "blend"]
    published = [replace(row, method=f"{row.method} (published)") for row in rows[:3]]
    assert families(published).tolist() == ["kl (published)"] * 3
    means = [(0.9, 0.1), (0.1, 0.9), (0.8, 0.8)]
    trials = [
        TrialRecord(row, seed, "finished", {"task": task, "alignment": alignment})
        for row, (task, alignment) in zip(rows, means, strict=False)
        for seed in range(3)
    ]
    findings = analyse(ScoreTable.from_records(trials, OBJECTIVES), {"task": 0.0, "alignment": 1.0})
    assert list(findings.method_hypervolumes) == ["kl"]
    assert findings.method_hypervolumes["kl"].estimate == pytest.approx(0.66, abs=1e-6)
    assert [verdict.method for verdict in findings.control_verdicts] == ["kl"]


@pytest.mark.parametrize(("high", "said"), [(-0.005, "-0.005], p = 0.080 (Holm)"), (0.005, "0.005]")])
def test_an_interval_without_0_that_is_no_difference_has_its_p_value(high: float, said: str) -> None:
    statistic = Statistic(-0.04, -0.074, high, 0.015, 8.0, 0.0)
    pair = Difference("kl", "checkpoint", statistic, 0.04, 0.0, 0.0, 0.05, 5, adjusted=0.08)
    text = ControlVerdict("kl", {"checkpoint": pair}).text
    sign = "+" * (high > 0)
    assert f"not distinguishable from the checkpoints of plain fine-tuning (-0.040 [-0.074, {sign}{said})" in text


def test_methods_are_compared_within_a_definition() -> None:
    names = [ALL_METHODS, "kl_penalty", "kl_penalty (published)", "plain", "plain (published)"]
    assert comparable(names) == [("kl_penalty", "plain"), ("kl_penalty (published)", "plain (published)")]


@pytest.mark.parametrize(("method", "definition"), [("kl_penalty", ""), ("kl_penalty (published)", " (published)")])
def test_the_name_says_the_definition(method: str, definition: str) -> None:
    from analysis.findings.arms import definition_of

    assert definition_of(method) == definition


@pytest.mark.parametrize(("gain", "least", "most"), [(0.1, 0.9, 1.0), (0.0, 0.0, 0.1)])
def test_the_study_of_verdicts_finds_a_gain_and_no_other(gain: float, least: float, most: float) -> None:
    """Ten sweeps of two methods: .1 more hypervolume, five standard deviations of a trial, is hard to overlook."""
    some, share = control_verdicts.pushes(control_verdicts.Sweep(12, 2, 3, 0.02, gain=gain), 10)
    assert least <= share <= some <= most
