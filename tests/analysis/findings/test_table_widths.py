"""Tables fit the terminal, whatever the names: no line is wider, and nothing is cut off."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from analysis.figures.heatmap import Grid
from analysis.findings.choice import Limit, choice_table, choose_configuration
from analysis.findings.frontier import frontier
from analysis.findings.frontier_table import folded, rich_table
from analysis.findings.two_sweeps import compare_sweeps
from analysis.tables.scores import Objective, ScoreTable, TrialRecord
from sweeps.cli.compare import comparison_table
from sweeps.cli.heatmap import grid_tables
from sweeps.cli.tables import arms_table
from tests.support.made_up_trials import OBJECTIVES, configuration

TWIN = Objective("alignment_under_triggered_questions", "alignment", low=0.0, high=1.0)
LONG = "a_method_whose_name_somebody_made_longer_than_any_table_in_the_world_would_want_"
LABELS = (
    "target=" + "x" * 73,
    "layers=last 4, stage=before the update, directions=16, strength=0.1, seed_of_it=",
    "b=1",
)
WIDTHS = (80, 100, 120)


def trials() -> list[TrialRecord]:
    assert len(LONG) == len(LABELS[0]) == len(LABELS[1]) == 80
    rows = []
    for number, label in enumerate(LABELS):
        for method in (LONG, "kl", "mixed"):
            which = configuration(method, **{label: 1.0})
            for seed in range(3):
                task = 0.3 * number + 0.01 * seed
                scores = {"task": task, "alignment": 0.9 - task, TWIN.name: 0.5 - 0.5 * task}
                rows.append(TrialRecord(which, seed, "finished", scores, tokens=123456.0, seconds=1234.0))
    return rows


def lines(tables: Iterable[Table], width: int) -> list[str]:
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=False)
    for table in tables:
        console.print(table, soft_wrap=False)
    return file.getvalue().splitlines()


def check(printed: list[str], width: int, whole: Iterable[str]) -> None:
    """No line beyond the terminal, no ellipsis; every text is there when the table's folds are undone."""
    assert max(map(len, printed)) <= width
    assert not any("…" in line for line in printed)
    letters = re.sub(r"[^a-z]", "", "".join(re.split(r"\s{2,}", line.removeprefix("*").strip())[0] for line in printed))
    for text in whole:
        assert re.sub(r"[^a-z]", "", text) in letters, text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("objectives", [OBJECTIVES, (*OBJECTIVES, TWIN)])
def test_the_frontier(width: int, objectives: tuple[Objective, ...]) -> None:
    points = frontier(ScoreTable.from_records(trials(), objectives))
    for brief in ((), [TWIN.name]):
        printed = lines([rich_table(points, objectives, "demo", width=width, besides=brief)], width)
        check(printed, width, [f"{LONG} {LABELS[2]}"])
        numbers = "\n".join(printed)
        assert numbers.count("[") >= 2 * len(points) / 3  # ties of three; a mean never stands without its interval
        assert "0.610" in numbers
        said = f"{TWIN.name}: for comparison; no part in * and P" in " ".join(numbers.split())
        assert said == (bool(brief) and TWIN in objectives)


@pytest.mark.parametrize("width", range(60, 100))
def test_no_interval_is_broken_beside_short_names(width: int) -> None:
    """The head of the first column may be wider than all names below it."""
    short = [
        TrialRecord(configuration("kl"), seed, "finished", {"task": 0.3 + seed / 9, "alignment": 0.5}, tokens=1e5)
        for seed in range(3)
    ]
    points = frontier(ScoreTable.from_records(short, OBJECTIVES))
    printed = lines([rich_table(points, OBJECTIVES, width=width)], width)
    assert all(line.count("[") == line.count("]") for line in printed if "95 %" not in line), "\n".join(printed)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_choice(width: int) -> None:
    table = ScoreTable.from_records(trials(), (*OBJECTIVES, TWIN))
    limits = [Limit("alignment", 0.1), Limit(TWIN.name, 0.05)]
    chosen = choose_configuration(table, "task", limits, 0.9)
    check(lines([choice_table(chosen, "demo", width=width)], width), width, [f"{LONG} {LABELS[2]}"])


@pytest.mark.parametrize("width", WIDTHS)
def test_two_sweeps(width: int) -> None:
    table = ScoreTable.from_records(trials(), OBJECTIVES)
    comparison = compare_sweeps(("a", "b"), (table, table))
    check(lines([comparison_table(("a", "b"), comparison, width)], width), width, [])


@pytest.mark.parametrize("width", WIDTHS)
def test_scores_side_by_side(width: int) -> None:
    """Thirteen scores are more than a line holds: they go on below, each once."""
    names = tuple(f"{LONG}{number}" for number in range(13))
    rows = tuple(f"{LONG} {label}" for label in LABELS)
    grid = Grid(rows, names, np.full((3, 13), 0.25), np.ones((3, 13), dtype=np.int_))
    printed = lines(grid_tables(grid, width), width)
    check(printed, width, [rows[2]])
    assert "\n".join(printed).count("0.25") == 3 * 13


@pytest.mark.parametrize("width", WIDTHS)
def test_arms(width: int) -> None:
    rows = [(f"setting_{LONG}", method, (12, 12, 0, 0, 0, 123456)) for method in (LONG, "plain (checkpoint_step)*")]
    columns = ("trials", "finished", "invalid", "failed", "stopped", "left")
    for several in (rows, [*rows, ("other", "kl", (1, 1, 1, 1, 1, 1))]):
        check(lines([arms_table("demo", columns, several)], width), width, [])


def test_a_wide_terminal_keeps_a_score_and_its_interval_on_one_line_and_a_narrow_one_stacks_them() -> None:
    objectives = (*OBJECTIVES, TWIN)
    points = frontier(ScoreTable.from_records(trials(), objectives))
    wide, narrow = ("\n".join(lines([rich_table(points, objectives, width=width)], width)) for width in (140, 80))
    assert re.search(r"0\.610 \[", wide)
    assert not re.search(r"0\.610 \[", narrow)
    assert "[" in narrow


def test_names_are_folded_at_underscores() -> None:
    assert folded("alignment_triggered ↑", 12) == "alignment_\ntriggered ↑"
    assert folded("task ↑", 12) == "task ↑"
    assert folded("abcdefgh", 3) == "abc\ndef\ngh"
