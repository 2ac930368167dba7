"""Grades of single questions: a file of them, and an array of them in the order of a `ScoreTable`.

Shape legend: C configurations, S seeds, M objectives, Q questions.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.statistics.arrays import Floats, nan_mean
from analysis.tables.scores import ScoreTable
from settings.common.errors import UserError
from settings.common.files import output_file

COLUMNS = ("configuration", "seed", "score", "question", "grade")


@dataclass(frozen=True)
class Grade:
    """The grade of one trial on one question; `question` is its number in the evaluation."""

    configuration: str
    seed: int
    score: str
    question: int
    grade: float


def write_grades(path: Path, grades: Iterable[Grade]) -> None:
    """Write grades as gzipped CSV, atomically; the same grades give the same bytes. Raises UserError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for grade in grades:
        writer.writerow([grade.configuration, grade.seed, grade.score, grade.question, f"{grade.grade:.6g}"])
    with output_file(path) as temporary:
        temporary.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_grades(path: Path) -> list[Grade]:
    """Read the grades that `write_grades` wrote. Raises UserError, naming file and line."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not rows or tuple(rows[0]) != COLUMNS:
        raise UserError(f"{path}: the first line must be {','.join(COLUMNS)}")
    grades = []
    for line, row in enumerate(rows[1:], start=2):
        try:
            configuration, seed, score, question, grade = row
            grades.append(Grade(configuration, int(seed), score, int(question), float(grade)))
        except ValueError as error:
            raise UserError(f"{path}: line {line}: {error}") from error
    return grades


@dataclass(frozen=True, eq=False)
class QuestionTable:
    """Grades in the order of a table's configurations, seeds and objectives.

    Attributes:
        values_MCSQ: nan where a trial has no grade of the question in the objective. Questions are those of the
            evaluation that an objective is graded in.
    """

    values_MCSQ: Floats

    def of(self, objective: int, configuration: int) -> Floats:
        """Return values_SQ of one configuration in one objective."""
        return np.asarray(self.values_MCSQ[objective, configuration])

    def seed_means(self) -> Floats:
        """Return values_CQM: means over the seeds that have a grade."""
        return np.moveaxis(nan_mean(self.values_MCSQ, axis=2), 0, 2)


def question_table(table: ScoreTable, grades: Iterable[Grade]) -> QuestionTable | None:
    """Return the grades of a table's finished trials; None if there are none. Other trials are left out."""
    rows = {configuration.id: row for row, configuration in enumerate(table.configurations)}
    seeds = {seed: column for column, seed in enumerate(table.seeds)}
    columns = {objective.name: column for column, objective in enumerate(table.objectives)}
    kept = [grade for grade in grades if grade.configuration in rows and grade.seed in seeds and grade.score in columns]
    if not kept:
        return None
    shape = (len(columns), len(rows), len(seeds), 1 + max(grade.question for grade in kept))
    values_MCSQ = np.full(shape, np.nan)
    for grade in kept:
        place = columns[grade.score], rows[grade.configuration], seeds[grade.seed], grade.question
        values_MCSQ[place] = grade.grade
    unfinished_CS = np.isnan(table.values_CSM).any(axis=2)
    values_MCSQ[:, unfinished_CS] = np.nan
    return QuestionTable(values_MCSQ)
