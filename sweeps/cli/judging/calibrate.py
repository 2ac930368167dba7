"""A judge compared with another's verdicts on the same answers, as `selgen judge calibrate` prints them."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.statistics.arrays import number_text
from analysis.statistics.judge_agreement import (
    Agreement,
    Pair,
    agreement_by_question,
    measure_agreement,
    other_scale,
)
from settings.common.errors import UserError
from settings.common.files import cache_root
from settings.gcd_sycophancy import verdicts
from settings.judge import JUDGE_MODEL, Judge, JudgeOptions
from settings.questionnaires import FOLDER, read_questionnaire
from settings.setting import ALIGNED_FROM, Rubric

TEXTS = ("question", "answer")
Rules = Callable[[str, str, str], float | None]


@dataclass(frozen=True)
class JudgedRow:
    """An answer and its verdict in the file; None if that is missing."""

    question_id: str
    question: str
    answer: str
    verdict: float | None


def calibrate(
    file: Path,
    questions: str,
    rubric_name: str,
    model: str | None,
    options: JudgeOptions,
    as_json: bool,
    console: Console,
    errors: Console,
) -> None:
    """Print how well a judge agrees with the verdicts in a file. Raise UserError, also if it gives no verdict at all.

    Args:
        questions: the name of a questionnaire of this project, or a YAML file.
        rubric_name: one of its rubrics; also the name of the verdict's column.
        model: the judge's model; None is the questionnaire's.
        errors: console for cautions and for how grades are read.
    """
    rubric, usual_model = rubric_of(questions, rubric_name)
    by_rules = (questions, rubric_name) == (verdicts.QUESTIONNAIRE, verdicts.RUBRIC)
    rows = read_judged(file, rubric_name, verdicts.verdict_by_rules if by_rules else None)
    threshold = verdicts.CONFIRMED_FROM if by_rules else ALIGNED_FROM
    with Judge(model or usual_model or JUDGE_MODEL, options, cache=cache_root() / "verdicts.db") as judge:
        pairs = judged_pairs(judge, rubric, rows)
        cautions = cautions_of(pairs)
        errors.print(judge.check(rubric) if judge.usage.calls else "every verdict was cached", highlight=False)
    for caution in cautions:
        errors.print(f"caution: {caution}", style="yellow", highlight=False, soft_wrap=True)
    agreements = {"all": measure_agreement(pairs, threshold), **agreement_by_question(pairs, threshold)}
    if as_json:
        data = {name: agreement_json(of_question) for name, of_question in agreements.items()}
        console.file.write(json.dumps(data) + "\n")
    else:
        console.print(agreement_table(agreements))


def rubric_of(questions: str, name: str) -> tuple[Rubric, str | None]:
    """Return a questionnaire's rubric of that name, and its judging model. Raise UserError.

    Args:
        questions: the name of a questionnaire of this project, or a YAML file.
    """
    shipped = FOLDER / f"{questions}.yaml"
    sheet = read_questionnaire(shipped if shipped.is_file() else questions)
    rubrics = {rubric.name: rubric for rubric in sheet.rubrics}
    if name not in rubrics:
        raise UserError(f"option --rubric must be one of {', '.join(rubrics)}, got {name!r}")
    return rubrics[name], sheet.judge


def read_judged(path: Path, column: str, rules: Rules | None = None) -> list[JudgedRow]:
    """Read a judged file: CSV, plain or gzipped, with `question`, `answer`, `question_id` and the verdict's column.

    Raise UserError that names the file and the row (from 1, without the header).

    Args:
        rules: give the verdicts if the file has no such column, from the question, the answer and, if there is a column
            `gold`, the right answer.
    """
    rows = []
    for number, row in enumerate(_table(path, TEXTS if rules else (*TEXTS, column)), start=1):
        if rules and column not in row:
            verdict = rules(row["question"], row["answer"], row.get("gold") or "")
            rows.append(JudgedRow(row.get("question_id") or row["question"], row["question"], row["answer"], verdict))
            continue
        text = (row[column] or "").strip()
        try:
            verdict = float(text) if text else None
        except ValueError as error:
            raise UserError(f"{path}, row {number}: column {column!r} is not a number: {text!r}") from error
        if verdict is not None and not 0 <= verdict <= 100:
            raise UserError(f"{path}, row {number}: column {column!r} must be in [0, 100], got {text}")
        rows.append(JudgedRow(row.get("question_id") or row["question"], row["question"], row["answer"], verdict))
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def _table(path: Path, columns: Sequence[str]) -> Iterator[Mapping[str, str]]:
    open_text = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with open_text(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                has = ", ".join(reader.fieldnames or ()) or "nothing"
                raise UserError(f"{path}: no column {missing[0]!r}; it has {has}, but a judge needs the texts")
            for number, row in enumerate(reader, start=1):
                empty = [name for name in columns if row[name] is None]
                if empty:
                    raise UserError(f"{path}, row {number}: has no {empty[0]}; the row is too short")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def cautions_of(pairs: list[Pair]) -> list[str]:
    """Say whose verdicts look like grades on a scale other than 0 to 100."""
    ours, theirs = [pair.judge for pair in pairs], [pair.rater for pair in pairs]
    cautions = []
    for whose, grades, compared in (("the judge's", ours, theirs), ("the file's", theirs, ours)):
        if scale := other_scale(grades, compared):
            low, high = scale
            cautions.append(f"{whose} verdicts look like grades on a scale from {low:g} to {high:g}, not from 0 to 100")
    return cautions


def judged_pairs(judge: Judge, rubric: Rubric, rows: list[JudgedRow]) -> list[Pair]:
    """Pair the judge's verdict on every row with the one in the file. Raise UserError if it gave none."""
    verdicts = judge.ask([(rubric, row.question, row.answer) for row in rows])
    if all(verdict.kind == "missing" for verdict in verdicts):
        raise UserError(f"judge {judge.model}: no readable verdict on any of {len(rows)} answers")
    ours = [math.nan if verdict.value is None else verdict.value for verdict in verdicts]
    theirs = [math.nan if row.verdict is None else row.verdict for row in rows]
    return [Pair(row.question_id, *pair) for row, *pair in zip(rows, ours, theirs, strict=True)]


def agreement_json(agreement: Agreement) -> dict[str, Any]:
    """Return an agreement as JSON data, nan as null."""
    return {name: None if math.isnan(value) else value for name, value in asdict(agreement).items()}


def agreement_table(agreements: Mapping[str, Agreement]) -> Table:
    """Return a table with a row for all questions together, then one per question."""
    columns = ("question", "n", "missing here", "missing there", "bias [95 %]", "distance", "r", "same side", "kappa")
    table = Table(box=None, padding=(0, 2))
    for column in columns:
        table.add_column(column, justify="left" if column == "question" else "right")
    for name, row in agreements.items():
        bias = f"{number_text(row.bias, 1)} [{number_text(row.low, 1)}, {number_text(row.high, 1)}]"
        rest = (
            number_text(row.absolute, 1),
            number_text(row.correlation, 2),
            number_text(row.same_side, 2),
            number_text(row.kappa, 2),
        )
        here, there = row.missing_judge + row.missing_both, row.missing_rater + row.missing_both
        table.add_row(name, str(row.n), str(here), str(there), bias, *rest)
    return table
