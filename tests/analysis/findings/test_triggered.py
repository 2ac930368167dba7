"""Triggered scores beside the ordinary ones, and the methods whose verdict differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.findings.findings import analyse
from analysis.findings.frontier import frontier
from analysis.findings.triggered import differing_verdicts, verdicts_of, with_triggered
from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.questions import Grade
from analysis.tables.scores import Configuration, Objective, TrialRecord
from tests.support.made_up_trials import ALIGNMENT, OBJECTIVES, TASK

TRIGGERED = Objective("alignment_triggered", "alignment", True, "the worst of three")
SCORES = {score.name: score for score in (*OBJECTIVES, TRIGGERED)}

# method, coefficients, (task, alignment, alignment_triggered): the controls lie on a line between base and plain
MEANS = [
    ("plain", {"adapter_scale": 1.0, "checkpoint_step": 8}, (0.9, 0.1, 0.1)),
    ("plain", {"adapter_scale": 0.5, "checkpoint_step": 8}, (0.5, 0.5, 0.5)),
    ("plain", {"adapter_scale": 1.0, "checkpoint_step": 4}, (0.5, 0.5, 0.5)),
    ("prevents", {"beta": 1.0}, (0.85, 0.9, 0.88)),
    ("hides", {"beta": 1.0}, (0.85, 0.9, 0.12)),
]
BASE = {"task": 0.0, "alignment": 1.0, "alignment_triggered": 1.0}


def trials(names: tuple[str, ...] = ("task", "alignment", "alignment_triggered")) -> list[TrialRecord]:
    noise = np.random.default_rng(0).normal(scale=0.005, size=(len(MEANS), 4, 3))
    return [
        TrialRecord(
            Configuration(f"{method}{row}", method, str(coefficients), coefficients),
            seed,
            "finished",
            {
                name: mean + noise[row, seed, at]
                for at, (name, mean) in enumerate(zip(SCORES, means, strict=True))
                if name in names
            },
        )
        for row, (method, coefficients, means) in enumerate(MEANS)
        for seed in range(4)
    ]


def loaded(rows: list[TrialRecord], scores: dict[str, Objective] = SCORES) -> LoadedSweep:
    return LoadedSweep.of_trials("mini", None, OBJECTIVES, rows, base_scores=BASE, scores=scores)


def test_a_method_that_hides_is_named() -> None:
    sweep = loaded(trials())
    assert sweep.triggered is not None
    assert [objective.name for objective in sweep.triggered.objectives] == ["task", "alignment_triggered"]
    plain, triggered = (verdicts_of(table, BASE) for table in (sweep.table, sweep.triggered))
    (differing,) = differing_verdicts(plain, triggered)
    assert (differing.method, differing.hides) == ("hides", True)
    assert differing.text.startswith("hides pushes the frontier, but is not shown to push that of triggered questions")
    (turned,) = differing_verdicts(triggered, plain)
    assert (turned.method, turned.hides) == ("hides", False)
    assert differing_verdicts(plain, plain) == ()


def test_one_seed_says_nothing_of_a_method() -> None:
    sweep = loaded([row for row in trials() if row.seed == 0])
    assert verdicts_of(sweep.table, BASE) == []


def test_the_column_stands_beside_the_others_and_leaves_the_front_as_it_is() -> None:
    sweep = loaded(trials())
    assert sweep.triggered is not None
    points = frontier(sweep.table, base_scores=BASE)
    both, objectives = with_triggered(points, sweep.triggered, BASE, sweep.objectives)
    assert objectives == (TASK, ALIGNMENT, TRIGGERED)
    assert [replace(point, scores=before.scores) for point, before in zip(both, points, strict=True)] == points
    hiding = next(point for point in both if point.method == "hides")
    measured = [row.scores["alignment_triggered"] for row in trials() if row.configuration.method == "hides"]
    assert hiding.scores["alignment_triggered"].mean == pytest.approx(sum(measured) / 4)
    assert hiding.scores["alignment_triggered"].low < sum(measured) / 4 < hiding.scores["alignment_triggered"].high


def test_a_sweep_without_the_score_is_read_as_before() -> None:
    old = trials(("task", "alignment"))
    for rows, scores in ((old, dict(SCORES)), (trials(), {"task": TASK, "alignment": ALIGNMENT}), ([], dict(SCORES))):
        assert loaded(rows, scores).triggered is None


def test_a_sweep_that_trades_the_triggered_score_off_has_no_second_table() -> None:
    objectives = (TASK, ALIGNMENT, TRIGGERED)
    sweep = LoadedSweep.of_trials("mini", None, objectives, trials(), scores=SCORES)
    assert sweep.triggered is None


def test_a_score_without_grades_is_named_and_the_others_have_intervals_over_questions() -> None:
    sweep = loaded(trials())
    assert sweep.triggered is not None
    grades = [
        Grade(row.configuration.id, row.seed, "task", question, float(question < 8))
        for row in trials()
        for question in range(10)
    ]
    findings = analyse(sweep.triggered, BASE, grades)
    assert {tuple(intervals) for intervals in findings.questions.values()} == {("task",)}
    (gap,) = (text for text in findings.gaps if "over questions" in text)
    assert gap.startswith("no interval over questions for alignment_triggered: ")
    (gap,) = (text for text in analyse(sweep.triggered, BASE).gaps if "over questions" in text)
    assert gap.endswith("has not published the grades of single questions (yet)")
