"""A method is compared with the controls of its own definition."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.findings.controls import ControlVerdict, compare_with_controls
from analysis.findings.findings import ALL_METHODS, comparable
from analysis.statistics.bootstrap import Bootstrap, Statistic
from analysis.statistics.compare import Difference
from analysis.statistics.measurements import measurements
from analysis.tables.scores import Configuration
from tests.studies import control_verdicts

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
