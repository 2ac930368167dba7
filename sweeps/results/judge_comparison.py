"""A sweep's kept replies under several judges: what each is asked, and the scores by its verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.findings.judges import BASE, GradedReply, JudgeComparison, compare_judges
from analysis.tables.loaded_sweep import counted
from analysis.tables.scores import Objective, ScoreTable, TrialRecord
from settings.bad_medical_advice.judged import COHERENT_FROM
from settings.common.errors import UserError
from settings.example import Example
from settings.gcd_sycophancy import verdicts as proposals
from settings.judge import Request
from settings.reference import SettingRef, setting_of
from settings.setting import ALIGNED_FROM, Evaluation, Measurement, Setting, Verdict
from sweeps.results.from_ledger import LedgerReader
from sweeps.search.judging import missing_problem, requests_of, with_verdicts
from trainables.folder import SweepFolder

THRESHOLDS = {"coherent": COHERENT_FROM, proposals.RUBRIC: proposals.CONFIRMED_FROM}  # others: ALIGNED_FROM


@dataclass(frozen=True)
class KeptModel:
    """A model whose replies are kept.

    Attributes:
        record: record of its trial; None for the base model.
        scores: its scores as measured, with those of the sweep's own judge.
        replies: evaluation -> replies, in the order of its questions.
    """

    record: TrialRecord | None
    scores: Mapping[str, Measurement]
    replies: Mapping[str, Sequence[str]]

    @property
    def method(self) -> str:
        """The method that trained it."""
        return self.record.configuration.method if self.record else BASE


def compare_kept(
    objectives: Sequence[Objective],
    label: str,
    setting: Setting,
    kept: Sequence[KeptModel],
    graded: Mapping[str, Sequence[Verdict]],
    left_out: Sequence[str] = (),
) -> JudgeComparison:
    """Compare judges by their verdicts on kept replies.

    Args:
        graded: judge -> a verdict for each request of `requests_about`.
    """
    tables, notes = {}, list(left_out)
    for judge, verdicts in graded.items():
        records, base, problems = _scored_by(judge, setting, kept, verdicts)
        tables[judge] = ScoreTable.from_records(counted(records, objectives), objectives), base
        notes += problems
    asked = [(evaluation, model) for model in kept for evaluation in setting.judged]
    replies = [
        GradedReply(_question(row), f"{evaluation.name}: {rubric.name}", _threshold(rubric.name), model.method, {})
        for evaluation, model in asked
        for row in evaluation.examples
        for rubric in evaluation.rubrics
        if rubric.applies(row)
    ]
    numbers = {judge: [_number(verdict) for verdict in verdicts] for judge, verdicts in graded.items()}
    with_numbers = [
        replace(reply, verdicts={judge: of_judge[at] for judge, of_judge in numbers.items()})
        for at, reply in enumerate(replies)
    ]
    return compare_judges(label, with_numbers, tables, notes, sum(model.record is not None for model in kept))


def requests_about(setting: Setting, kept: Sequence[KeptModel]) -> list[Request]:
    """Return what each judge is asked: model by model, evaluation by evaluation."""
    return [
        request
        for model in kept
        for evaluation in setting.judged
        for request in requests_of(evaluation, model.replies[evaluation.name])
    ]


def kept_models(reader: LedgerReader, label: str, setting: Setting) -> tuple[list[KeptModel], list[str]]:
    """Return the base model and the finished trials on a setting with kept replies, and notes on what is left out.

    Raise UserError if no trial is left.
    """
    from trainables.trial import base_id

    folder, bases = SweepFolder(reader.folder), reader.ledger.bases.get(label)
    kept = []
    if bases and (replies := _replies(folder.observations(base_id(setting)), setting)):
        kept.append(KeptModel(None, _measured(bases), replies))
    gone = 0
    for record in reader.trials.get(label, ()):
        if record.status == "finished":
            trial_id = reader.configurations[record.configuration.id].trial_id(record.seed)
            replies = _replies(folder.observations(trial_id), setting)
            if replies:
                kept.append(KeptModel(record, _measured(reader.ledger.outcomes[trial_id]["scores"]), replies))
            gone += not replies
    if not any(model.record for model in kept):
        raise UserError(f"sweep {reader.description.name!r} has no finished trial on {label!r} whose replies are kept")
    trials = "trial" if gone == 1 else "trials"
    return kept, [f"{gone} finished {trials} whose replies are gone"] if gone else []


def _replies(path: Path, setting: Setting) -> dict[str, list[str]] | None:
    """Read the replies to judged questions; None if they are not complete."""
    if not path.is_file():
        return None
    observed: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    replies = {each.name: observed.get(each.name, ()) for each in setting.judged}
    complete = all(len(replies[each.name]) == len(each.examples) for each in setting.judged)
    return replies if complete else None


def _measured(scores: Mapping[str, Any]) -> dict[str, Measurement]:
    return {name: Measurement(**score) for name, score in scores.items()}


def judged_setting(reader: LedgerReader, label: str) -> Setting:
    """Build the setting of a label. Raise UserError if it has changed since, or nothing in it is judged."""
    trial = next(each.trial for each in reader.configurations.values() if each.setting == label)
    setting = setting_of(SettingRef(trial["setting"]["name"], trial["setting"]["options"]))
    if not setting.judged:
        raise UserError(f"setting {label!r} has no evaluation that a judge grades, so there is nothing to compare")
    if trial["data"] != setting.fingerprint():
        name = reader.description.name
        raise UserError(f"setting {label!r} now has different rows or questions than when sweep {name!r} ran")
    return setting


def judges_of(setting: Setting, label: str, models: Sequence[str]) -> list[str]:
    """Return the judges to compare, each once. Raise UserError for fewer than two."""
    usual = list(dict.fromkeys(str(evaluation.judge) for evaluation in setting.judged))
    names = list(dict.fromkeys(models))
    if len(names) == 1 and len(usual) == 1:
        names = list(dict.fromkeys([*usual, *names]))
    if len(names) < 2:
        what = f"the judge of {label!r} is {' and '.join(usual)}"
        raise UserError(f"a comparison needs two judges: give --model twice, or a different one ({what})")
    return names


def _scored_by(
    judge: str, setting: Setting, kept: Sequence[KeptModel], verdicts: Sequence[Verdict]
) -> tuple[list[TrialRecord], dict[str, float], list[str]]:
    """Return the trials and the base model's scores by one judge, and a note on models it could not judge."""
    left = iter(verdicts)
    records: list[TrialRecord] = []
    base: dict[str, float] = {}
    unjudged = 0
    for model in kept:
        scores, problem = dict(model.scores), None
        for evaluation in setting.judged:
            judged = with_verdicts(evaluation, model.replies[evaluation.name], _take(left, evaluation))
            scores |= evaluation.grade(judged)
            problem = problem or missing_problem(evaluation, judged)
        scores = setting.with_worst(scores)
        means = {name: score.mean for name, score in scores.items() if math.isfinite(score.mean)}
        if model.record is None:
            base = {} if problem else means
        else:
            counts = {name: score.n for name, score in scores.items()}
            record = replace(model.record, scores=means, counts=counts)
            records.append(replace(record, status="invalid", reason=problem) if problem else record)
        unjudged += problem is not None
    models = "model" if unjudged == 1 else "models"
    return records, base, [f"{judge}: {unjudged} {models} with too few verdicts"] if unjudged else []


def _take(verdicts: Iterator[Verdict], evaluation: Evaluation) -> list[Verdict]:
    """Take the verdicts on one model's replies."""
    number = sum(rubric.applies(row) for row in evaluation.examples for rubric in evaluation.rubrics)
    return [next(verdicts) for _ in range(number)]


def _number(verdict: Verdict) -> float:
    return math.nan if verdict.value is None else verdict.value


def _question(row: Example) -> str:
    """Return a key that rows share if they ask the same question, in whatever words."""
    return row.tags.get("question_id") or row.prompt[-1].content


def _threshold(rubric: str) -> float:
    return THRESHOLDS.get(rubric, ALIGNED_FROM)
