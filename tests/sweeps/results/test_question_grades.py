"""Grades of single questions, from what a worker kept."""

from __future__ import annotations

from pathlib import Path

from settings.common.files import write_json
from settings.example import Example
from settings.preferences import preference_scores
from settings.setting import Evaluation, Preference
from sweeps.results.question_grades import _graded
from tests.settings.test_setting import tiny
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
