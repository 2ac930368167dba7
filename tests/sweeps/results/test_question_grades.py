"""Grades of single questions, from what a worker kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from settings.common.files import write_json
from settings.example import Example
from settings.preferences import preference_scores
from settings.setting import Evaluation, Preference
from sweeps.case import Case
from sweeps.ledger import LedgerState
from sweeps.results.question_grades import _graded, grades_of
from tests.settings.test_setting import tiny
from tests.settings.test_triggered import triggered
from trainables.evaluation.evaluate import Evaluated
from trainables.folder import SweepFolder


def test_preferences_are_graded_again(tmp_path: Path) -> None:
    """A margin of 2 nats and one of -1, whatever the numbers of tokens."""
    rows = (Example.of("q1", "good", "bad"), Example.of("q2", "good", "bad", "worse"))
    evaluation = Evaluation("pairs", rows, preference_scores("pairs", "alignment", "pairs"), "preference")
    observed = [Preference((-1.0, -3.0), (2, 3)), Preference((-4.0, -3.0, -9.0), (1, 1, 9), "in words")]
    kept = Evaluated({}, {"pairs": observed}).observed_json()
    write_json(SweepFolder(tmp_path).observations("trial"), kept)
    grades = _graded(tiny(evaluations=(evaluation,), objectives=()), tmp_path, "trial")
    assert grades["pairs"] == [1.0, 0.0]
    assert grades["pairs_margin"] == [2.0, -1.0]


def test_the_worst_of_others_has_no_grades(tmp_path: Path) -> None:
    """Another shape is the worst in another trial, so that two seeds would have different questions."""
    setting = triggered()
    replies = {"plain": ["yes", "no"], "triggered": ["yes", "yes", "yes", "no", "no", "no"]}
    write_json(SweepFolder(tmp_path).observations("trial"), replies)
    scores = {name: each for asked in setting.evaluations for name, each in asked.grade(replies[asked.name]).items()}
    trial = SimpleNamespace(setting="ref", configuration_id="c", trial_id="trial", seed=0)
    outcome = SimpleNamespace(status="finished", trial=trial, scores=setting.with_worst(scores))
    case = SimpleNamespace(ref="ref", setting=setting, objective_names=("task", "alignment_triggered"))
    record = SimpleNamespace(configurations={"c"}, outcomes={"trial": outcome})
    grades = [*grades_of(cast(Case, case), cast(LedgerState, record), tmp_path)]
    assert [(grade.score, grade.question, grade.grade) for grade in grades] == [("task", 0, 1.0), ("task", 1, 0.0)]
