"""The grade of every question in every trial, for analyses that also treat questions as a sample."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from analysis.tables.questions import Grade
from settings.setting import Setting, observation_from_json
from sweeps.case import Case
from sweeps.ledger import LedgerState
from trainables.folder import SweepFolder


def grades_of(case: Case, record: LedgerState, folder: Path) -> Iterator[Grade]:
    """Yield the grades of the objectives on one setting, from the stored observations of finished trials.

    A judge's grades are read from `grades/<trial id>.json`; the rest is graded again. A trial without observations has
    no grades. Nor has a score that is the worst of others: its questions differ from trial to trial.
    """
    asked = record.configurations
    for outcome in record.outcomes.values():
        trial = outcome.trial
        if outcome.status != "finished" or trial.setting != case.ref or trial.configuration_id not in asked:
            continue
        for score, grades in _graded(case.setting, folder, trial.trial_id).items():
            if score in case.objective_names:
                for question, grade in enumerate(grades):
                    if grade is not None:
                        yield Grade(trial.configuration_id, trial.seed, score, question, float(grade))


def _graded(setting: Setting, folder: Path, trial_id: str) -> dict[str, list[float | None]]:
    judged, observed = SweepFolder(folder).grades(trial_id), SweepFolder(folder).observations(trial_id)
    grades: dict[str, list[float | None]] = json.loads(judged.read_text(encoding="utf-8")) if judged.is_file() else {}
    observations = json.loads(observed.read_text(encoding="utf-8")) if observed.is_file() else {}
    for evaluation in setting.evaluations:
        if not evaluation.rubrics and evaluation.name in observations:
            grades |= evaluation.grades([observation_from_json(item) for item in observations[evaluation.name]])
    return grades
