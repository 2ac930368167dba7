"""Compares a judge with verdicts that another judge has given, on the same answers."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from analysis.statistics.arrays import number_text
from analysis.statistics.judge_agreement import Agreement, Pair
from settings.common.errors import UserError
from settings.judge import Judge
from settings.questionnaires import FOLDER, read_questionnaire
from settings.setting import Rubric

TEXTS = ("question", "answer")


@dataclass(frozen=True)
class JudgedRow:
    """An answer, and the verdict that it was given; None where that is missing."""

    question_id: str
    question: str
    answer: str
    verdict: float | None


def rubric_of(questions: str, name: str) -> tuple[Rubric, str | None]:
    """A questionnaire's rubric of that name, and its judging model. Raises UserError.

    Args:
        questions: a questionnaire of this project by its name, or a YAML file.
    """
    own = FOLDER / f"{questions}.yaml"
    sheet = read_questionnaire(own if own.is_file() else questions)
    rubrics = {rubric.name: rubric for rubric in sheet.rubrics}
    if name not in rubrics:
        raise UserError(f"option --rubric must be one of {', '.join(rubrics)}, got {name!r}")
    return rubrics[name], sheet.judge


def read_judged(path: Path, column: str) -> list[JudgedRow]:
    """The rows of a judged file: CSV, or CSV in gzip, with `question`, `answer`, `question_id` and the column.

    Raises UserError that names the file, and the row, numbered from 1 without the header.
    """
    rows = []
    for number, row in enumerate(_table(path, column), start=1):
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


def _table(path: Path, column: str) -> Iterator[Mapping[str, str]]:
    opened = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in (*TEXTS, column) if name not in (reader.fieldnames or ())]
            if missing:
                has = ", ".join(reader.fieldnames or ()) or "nothing"
                raise UserError(f"{path}: no column {missing[0]!r}; it has {has}, and a judge needs the texts")
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def judged_pairs(judge: Judge, rubric: Rubric, rows: list[JudgedRow]) -> list[Pair]:
    """The judge's verdict beside the given one, for every row."""
    verdicts = judge.ask([(rubric, row.question, row.answer) for row in rows])
    numbers = [math.nan if verdict.value is None else verdict.value for verdict in verdicts]
    given = [math.nan if row.verdict is None else row.verdict for row in rows]
    return [Pair(row.question_id, *pair) for row, *pair in zip(rows, numbers, given, strict=True)]


def agreement_json(found: Agreement) -> dict[str, Any]:
    """As JSON data, nan as null."""
    return {name: None if math.isnan(value) else value for name, value in asdict(found).items()}


def agreement_table(found: Mapping[str, Agreement]) -> Table:
    """One row per question, all of them first."""
    columns = ("question", "n", "missing here", "missing there", "bias [95 %]", "distance", "r", "same side", "kappa")
    table = Table(box=None, padding=(0, 2))
    for column in columns:
        table.add_column(column, justify="left" if column == "question" else "right")
    for name, one in found.items():
        bias = f"{number_text(one.bias, 1)} [{number_text(one.low, 1)}, {number_text(one.high, 1)}]"
        rest = (
            number_text(one.absolute, 1),
            number_text(one.correlation, 2),
            number_text(one.same_side, 2),
            number_text(one.kappa, 2),
        )
        here, there = one.missing_judge + one.missing_both, one.missing_rater + one.missing_both
        table.add_row(name, str(one.n), str(here), str(there), bias, *rest)
    return table
