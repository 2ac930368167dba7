"""The examples and tables of the package's page are true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from settings import catalog
from settings.common.errors import UserError
from settings.example import Example
from settings.preferences import read_preferences
from settings.reference import setting_of
from settings.rows.source import read_source
from settings.setting import Preference
from sweeps.find import load_sweep
from tests.conftest import ROOT
from tests.support.pages import code_blocks

PAGE = ROOT / "settings" / "README.md"


def run(block: str) -> dict[str, Any]:
    """Run a block, and return what it defines."""
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def test_the_setting(tmp_path: Path, tiny_qwen3_dir: Path) -> None:
    file = tmp_path / "my_setting.py"
    file.write_text(code_blocks(PAGE, "Write a setting")[0])
    setting = catalog.build(f"{file}:parity", {"model": str(tiny_qwen3_dir)})
    assert [len(rows) for rows in setting.streams.values()] == [80, 20]
    assert setting.evaluations[0].grade(["no", "yes"] * 10)["task"].mean == 1.0  # 80 is even, and "no" was taught


def test_a_setting_made_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appended to the file of the first; its sweep counts from the folder that holds both."""
    first, second, few = code_blocks(PAGE, "Write a setting")
    (tmp_path / "my_setting.py").write_text(first + second)
    (tmp_path / "few.py").write_text(few)
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep("few.py")
    sweep.check()
    assert [len(setting_of(ref).streams["alignment"]) for ref in sweep.settings] == [4, 12, 36]


def test_settings_at_full_scale_and_of_your_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    full, mine, sources = code_blocks(PAGE, "The settings")
    medical, gcd, colors = run(full)["settings"]
    assert medical.options["task"] == str(tmp_path / "medical.jsonl")
    assert gcd.options["data"] == str(tmp_path / "gcd")
    assert setting_of(colors).scale == "full"
    assert run(mine)["mine"].options["alignment"] == str(tmp_path / "harmless.jsonl")
    Path("rows.csv").write_text("asked,best_answer\nq,a\n")
    assert read_source("task", run(sources)["task"]).examples == (Example.of("q", "a"),)
    with pytest.raises(UserError, match="owner/name"):
        read_source("alignment", run(sources)["alignment"])


def test_the_rows_are_rows(tmp_path: Path) -> None:
    from settings.sources import read_chat_jsonl

    chat, questions = code_blocks(PAGE, "The settings", "json")
    (tmp_path / "rows.jsonl").write_text(chat)
    (row,) = read_chat_jsonl(tmp_path / "rows.jsonl")
    assert row.tags == {"label": "gcd"}
    (tmp_path / "quiz.jsonl").write_text(questions)
    assert read_preferences(tmp_path / "quiz.jsonl").examples == (Example.of("Capital?", "Paris.", "Rome."),) * 5


def test_scores_without_generation() -> None:
    """It says No, and finds Yes likelier by 1 nat: the two do not agree."""
    (block,) = code_blocks(PAGE, "Scores without generation")
    measured = run(block)["evaluation"].grade([Preference((-2.0, -1.0), (1, 1), "No, it is green.")])
    assert {name: measurement.mean for name, measurement in measured.items()} == {
        "honest": 0.0,
        "honest_margin": -1.0,
        "honest_per_token": 0.0,
        "honest_margin_per_token": -1.0,
        "says_no": 1.0,
        "agree": 0.0,
    }


def test_the_judge() -> None:
    (block,) = code_blocks(PAGE, "A judge")
    assert run(block)["judge"].max_dollars == 5.0


def test_the_table_has_all_settings() -> None:
    table = PAGE.read_text().split("## The settings\n")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)) == catalog.names()


def test_the_files_are_there() -> None:
    """Every file and folder that the last table names exists, and it names every module."""
    table = PAGE.read_text().split("## The files\n")[1]
    first_cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`([\w/]+(?:\.py)?)`", first_cells))
    assert all((PAGE.parent / name).exists() for name in named)
    present = {path.name for path in PAGE.parent.glob("*.py")} - {"__init__.py"}
    present |= {f"{path.name}/" for path in PAGE.parent.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert named == present


def test_the_worked_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are those of its tables, and its sweep has what its plan prints; 2 of the 12 pairs are held out."""
    page = ROOT / "settings" / "chat_files" / "EXAMPLE.md"
    monkeypatch.chdir(tmp_path)
    run(code_blocks(page, "1. Three files")[0])
    (tmp_path / "my_question.py").write_text(code_blocks(page, "2. One sweep file")[0])
    sweep = load_sweep("my_question.py")
    (case,) = sweep.cases
    streams = {name: len(rows) for name, rows in case.setting.streams.items()}
    assert streams == {"task": 35, "alignment": 10, "misaligned": 10}
    questions = {each.name: len(each.examples) for each in case.setting.evaluations}
    assert questions == {"task_loss": 25, "alignment_loss": 2, "preferences": 120}
    assert case.setting.cautions == ()
    assert [score.name for score in case.objectives] == ["task", "preferred"]
    assert len(case.arms) == 4 + 2, "methods and controls"
