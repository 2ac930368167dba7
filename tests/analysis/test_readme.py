"""The page on the analysis: its examples run, and what it names exists."""

from __future__ import annotations

import re
from typing import Any

import pytest

from analysis.study.catalog import FIGURES
from analysis.study.gallery import reproduction_of
from tests.conftest import ROOT
from tests.support.made_up_trials import KL1, PLAIN, setting_results

FOLDER = ROOT / "analysis"
PAGE = (FOLDER / "README.md").read_text()


def run_example(number: int) -> dict[str, Any]:
    """Run a Python block of the page, and return the names that it defines."""
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[number], names)
    return names


def test_scores_become_findings(capsys: pytest.CaptureFixture[str]) -> None:
    findings = run_example(0)["findings"]
    assert [point.label for point in findings.points] == ["weight=0", "weight=1", "weight=10"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("weight=0: task 0.95 [0.9")
    assert lines[-1].startswith("hypervolume 0.")


def test_a_new_figure_draws_and_decides() -> None:
    means = [(PLAIN, {"task": 0.9, "alignment": 0.1}), (KL1, {"task": 0.7, "alignment": 0.8})]
    drawn = run_example(1)["GAIN"].draw([setting_results(means, {"task": 0.0, "alignment": 1.0})])
    assert reproduction_of(drawn.checks) == "reproduced"


def test_every_figure_of_the_study_is_on_the_page() -> None:
    section = PAGE.split("## Every figure of the study")[1]
    assert [figure.name for figure in FIGURES if f"`{figure.name}`" not in section] == []


def test_the_rooms_are_the_folders() -> None:
    folders = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/`", PAGE, flags=re.MULTILINE)) == folders
