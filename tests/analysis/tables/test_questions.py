"""Grades of single questions: to a file and back, and beside a table."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.tables.questions import Grade, question_table, read_grades, write_grades
from settings.common.errors import UserError
from tests.support.made_up_trials import KL1, PLAIN, TRIALS, table

GRADES = [Grade(PLAIN.id, 0, "task", 0, 1.0), Grade(PLAIN.id, 1, "task", 2, 0.25), Grade("other", 0, "task", 9, 1.0)]


def test_there_and_back_with_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        write_grades(tmp_path / name, GRADES)
    assert read_grades(tmp_path / "a.csv.gz") == GRADES
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


@pytest.mark.parametrize("text", ["", "a,b\n", "configuration,seed,score,question,grade\nx,0,task,1\n"])
def test_a_bad_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grades.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(UserError, match=r"grades\.csv\.gz"):
        read_grades(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(UserError, match=r"cannot read .*grades\.csv\.gz"):
        read_grades(path)


def test_table_of_questions() -> None:
    """Two seeds of plain on question 0 and 2; other trials and objectives are nan."""
    whole = table(TRIALS)
    questions = question_table(whole, GRADES)
    assert questions is not None
    row = whole.configurations.index(PLAIN)
    np.testing.assert_array_equal(questions.of(0, row), [[1.0, math.nan, math.nan], [math.nan, math.nan, 0.25]])
    means = questions.seed_means()
    np.testing.assert_array_equal(means[row, :, 0], [1.0, math.nan, 0.25])
    assert np.isnan(means[whole.configurations.index(KL1)]).all()
    assert question_table(whole, GRADES[2:]) is None
