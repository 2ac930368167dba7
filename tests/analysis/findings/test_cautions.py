"""What is known not to hold is said in its regime, and in no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from analysis.findings.cautions import Place, cautions
from analysis.findings.ends import End, far_from, unreached
from analysis.findings.findings import analyse
from analysis.findings.frontier_table import rich_table
from analysis.findings.reading import read_findings
from analysis.report.page import Chapter, page
from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from tests.support.made_up_trials import OBJECTIVES, configuration

NOISE = 0.01


def made_up(
    curves: dict[str, Sequence[tuple[float, float]]],
    questions: float = np.nan,
    objectives: Sequence[Objective] = OBJECTIVES,
    seeds: int = 3,
) -> ScoreTable:
    """Make a table of methods whose configurations have these means, along a knob that counts them."""
    random, records = np.random.default_rng(0), []
    for method, points in curves.items():
        for knob, point in enumerate(points, start=1):
            which: Configuration = configuration(method, beta=float(knob))
            for seed in range(seeds):
                noisy = [value + NOISE * random.standard_normal() for value in point]
                scores = dict(zip([each.name for each in OBJECTIVES], noisy, strict=True))
                counts = {} if np.isnan(questions) else dict.fromkeys(scores, questions)
                records.append(TrialRecord(which, seed, "finished", scores, counts=counts))
    return ScoreTable.from_records(records, objectives)


def arc(number: int, radius: float = 0.9) -> list[tuple[float, float]]:
    """Points on a quarter of a circle, from the first objective to the second."""
    angles = np.linspace(0.05, np.pi / 2 - 0.05, number)
    return [(radius * float(np.cos(angle)), radius * float(np.sin(angle))) for angle in angles]


def kink(number: int) -> list[tuple[float, float]]:
    """Almost straight up to a corner in the middle, then almost straight to the side: the study's own case."""
    u = np.linspace(0, 1, number)
    first, second = np.interp(u, [0, 0.5, 1], [1, 0.9, 0.1]), np.interp(u, [0, 0.5, 1], [0.1, 0.85, 1])
    return list(zip(first.tolist(), second.tolist(), strict=True))


def said(table: ScoreTable) -> dict[Place, str]:
    """Return what is said, by place, without places of silence."""
    return {place: " ".join(texts) for place, texts in cautions(table).items() if texts}


def test_the_way_to_the_ends_by_hand() -> None:
    """Base (0, 1), plain (1, 0). Weak is near plain; strong has gone .1 and .2 of the way; half is near neither."""
    table = made_up(
        {"plain": [(1.0, 0.0)], "weak": [(0.9, 0.1), (0.5, 0.5)], "strong": [(0.1, 0.8)], "half": [(0.5, 0.9)]}
    )
    base_M = np.array([0.0, 1.0])
    from_base, from_plain = (far_from(end, table, base_M) for end in get_args(End))
    assert from_base is not None and from_plain is not None
    assert list(from_base) == ["half", "strong", "weak"] and list(from_plain) == ["half", "strong"]
    assert from_base["half"] == ("beta=1.0", pytest.approx(0.5, abs=0.05))
    assert from_base["strong"][1] == pytest.approx(0.2, abs=0.05)
    assert far_from("plain fine-tuning", made_up({"weak": [(0.5, 0.5)]}), base_M) is None, "without plain fine-tuning"


def test_what_was_tried_and_is_worse_has_reached_the_end() -> None:
    """Base (0, 1), plain (1, .5). Worse learns as much as plain and is less aligned; short learns half and loses half.

    Of two ends that hardly differ in a score, none is missed in it: the last base is (0, .51).
    """
    table = made_up({"plain": [(1.0, 0.5)], "worse": [(1.0, 0.2), (0.0, 0.98)], "short": [(0.5, 0.7)]})
    reached = {end: unreached(end, table, np.array([0.0, 1.0])) for end in get_args(End)}
    assert reached == {"the base model": ["short"], "plain fine-tuning": ["short"]}
    assert unreached("the base model", table, np.array([0.0, 0.51])) == []


@pytest.mark.parametrize("number", [6, 8, 12, 24])
def test_a_smooth_frontier_needs_no_caution(number: int) -> None:
    assert said(made_up({"kl": arc(number)}, questions=200)) == {}


@pytest.mark.parametrize("number", [8, 12, 24])
def test_a_kink_is_named_with_the_band(number: int) -> None:
    texts = said(made_up({"kl": kink(number), "dpo": arc(number)}))
    assert list(texts) == ["band"]
    assert "(here, it seems: kl)" in texts["band"] and ".52 to .64" in texts["band"]


def test_a_trial_that_collapsed_is_named() -> None:
    table = made_up({"kl": arc(8)}, questions=200)
    values_CSM = table.values_CSM.copy()
    values_CSM[3, 0] /= 4
    texts = said(replace(table, values_CSM=values_CSM))
    assert f"A trial of {table.configurations[3].title} lies far from the others" in texts["hypervolume"]


def test_few_values_of_a_knob_are_named_with_the_hypervolume() -> None:
    texts = said(made_up({"kl": arc(4), "dpo": arc(5)}))
    assert list(texts) == ["hypervolume"]
    assert "four values of a knob or fewer (kl)" in texts["hypervolume"] and ".004 to .009" in texts["hypervolume"]


def test_fewer_than_three_values_are_points() -> None:
    """Not of three, and not of the controls, which are readouts of plain fine-tuning."""
    texts = said(made_up({"kl": arc(2), "dpo": arc(3)}))
    assert list(texts) == ["hypervolume"]
    assert "Fewer than three values count as points and not as a curve (kl):" in texts["hypervolume"]
    assert "four values of a knob or fewer (dpo)" in texts["hypervolume"]
    one_of_them = said(made_up({"kl": arc(2), "mixed": arc(2)[:1]}))["hypervolume"]
    assert "as points and not as a curve (kl, mixed):" in one_of_them
    assert "Fewer than three values" not in said(made_up({"plain": arc(2)})).get("hypervolume", "")


def test_single_configurations_on_few_questions() -> None:
    single: dict[str, Sequence[tuple[float, float]]] = {"kl": [(0.8, 0.8)], "dpo": [(0.7, 0.9)]}
    texts = said(made_up(single, questions=20))
    assert ".03 too good" in texts["hypervolume"] and ".02 too little" in texts["selection"]
    assert said(made_up(single, questions=200)) == {}
    assert said(made_up(single)) == {}
    assert said(made_up({"kl": arc(8), "dpo": [(0.7, 0.9)]}, questions=20)) == {}


def test_a_loss_has_one_end() -> None:
    losses = [replace(each, higher_is_better=False, low=0.0) for each in OBJECTIVES]
    assert "intervals of task, alignment are Student's" in said(made_up({"kl": arc(8)}, objectives=losses))["points"]
    shares = [replace(each, low=0.0, high=1.0) for each in OBJECTIVES]
    assert said(made_up({"kl": arc(8)}, objectives=shares)) == {}


@pytest.mark.parametrize(("best", "is_said"), [(0.51, True), (0.53, False)])
def test_a_sweep_that_taught_nothing(best: float, is_said: bool) -> None:
    """.02 of the range above the base model's .5 is not learning. It comes before all other cautions, also in print."""
    task = replace(OBJECTIVES[0], kind="task", low=0.0, high=1.0)
    table = made_up({"kl": [(0.3, 0.9), (best, 0.8)]}, objectives=(task, *OBJECTIVES[1:]), seeds=2)
    base = {task.name: 0.5, OBJECTIVES[1].name: 1.0}
    findings = analyse(table, base)
    words = f"In {task.name} no configuration is more than 0.02 better than the base model, so nothing was learned"
    assert any(words in text for text in findings.cautions["task"]) == is_said
    assert read_findings(findings).caution.startswith(words) == is_said
    knew = analyse(table, base | {task.name: 0.97})
    assert not knew.cautions["task"], "there is no room above the base model"
    shown = rich_table(findings.points, findings.table.objectives, base=base)
    assert (words in str(shown.caption)) == is_said


def test_an_objective_in_which_all_are_alike() -> None:
    """Every seed of every configuration scores 1: the base model may, too, or not, or be unknown."""
    task, kept = OBJECTIVES
    records = [
        TrialRecord(configuration("kl", beta=float(beta)), seed, "finished", {task.name: 0.2 * beta, kept.name: 1.0})
        for beta in (1, 2, 3)
        for seed in range(3)
    ]
    table = ScoreTable.from_records(records, OBJECTIVES)
    for base, also in (({kept.name: 1.0}, " and the base model"), ({kept.name: 0.5}, ""), ({}, "")):
        findings = analyse(table, base)
        words = f"{kept.name} is 1.000 for all configurations{also}: such questions tell none from another"
        assert findings.cautions["task"][0].startswith(words)
        assert read_findings(findings).caution.startswith(words)
        assert words in str(rich_table(findings.points, findings.table.objectives, base=base).caption)
    single = ScoreTable.from_records(records[:3], OBJECTIVES)
    assert not analyse(single, {}).cautions["task"], "one configuration is like no other"
    assert not analyse(made_up({"kl": arc(4)}), {}).cautions["task"]


def test_few_questions_come_first() -> None:
    """1.96 / (2 sqrt(16 + 1.96^2)) = 0.220, half of Wilson's interval for 8 of 16."""
    share = [replace(each, low=0.0, high=1.0) for each in OBJECTIVES]
    assert "questions" not in said(made_up({"kl": arc(8, 0.8)}, questions=50, objectives=share))
    findings = analyse(made_up({"kl": arc(4, 0.8)}, questions=16, objectives=share))
    assert findings.cautions["hypervolume"], "which would else be said"
    names = " and ".join(f"16 of {each.name}" for each in OBJECTIVES)
    assert read_findings(findings).caution == (
        f"Verdicts are about these questions ({names}): as a sample of their kind, they tell a share near one half"
        " to within 0.22."
    )
    assert "questions" not in said(made_up({"kl": arc(8)}, questions=16)), "a score without a range is no share"


def test_many_equal_methods_and_what_the_page_says() -> None:
    """Five methods on one arc; with one of half the radius, four of them lead."""
    equal = {f"m{number}": arc(6) for number in range(5)}
    findings = analyse(made_up(equal))
    assert ".88 to .94" in " ".join(findings.cautions["band"])
    assert ".008" in " ".join(findings.cautions["hypervolume"])
    shown = " ".join(page("s", [Chapter("x", findings, [], {}, {})]).split())
    for text in (*findings.cautions["band"], *findings.cautions["hypervolume"]):
        assert f"Caution: {text}" in shown
    assert "up to 11 points too high where configurations scatter" in shown
    assert "a seed that collapses for all configurations cannot be detected" in shown
    assert set(findings.to_json()["cautions"]) == {text for texts in findings.cautions.values() for text in texts}
    behind = analyse(made_up(equal | {"m4": arc(6, radius=0.5)}))
    assert not any(behind.cautions.values())
