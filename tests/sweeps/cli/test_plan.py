"""`selgen sweep plan`: what a sweep trains on and asks, before anything runs."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
from rich.console import Console

from settings import catalog
from settings.common.errors import MissingFileError, UserError
from sweeps.case_check import few_questions
from sweeps.driver import launch
from sweeps.driver.run_options import RunOptions
from sweeps.find import load_sweep
from sweeps.planning.recipe import recipe_lines
from sweeps.space import grid
from sweeps.sweep import Sweep, setting
from tests.support.fakes import toy_sweep
from tests.sweeps.cli.test_app import ROW, chat_files, refused, selgen, sweep_file


def pairs(number: int) -> bytes:
    """Lines of questions with two replies."""
    rows = ({"prompt": f"p{row}", "chosen": "good", "rejected": "bad"} for row in range(number))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def planned(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the plan of a sweep prints, in one line."""
    assert selgen("sweep", "plan", file, "-o", file.parent / "runs", monkeypatch=monkeypatch) == 0
    return " ".join(capsys.readouterr().out.split())


def test_rows_and_questions_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fifth of 20 task rows and of 6 alignment rows is held out."""
    alignment = "".join(ROW % n for n in range(100, 106)).encode()
    given = chat_files(tmp_path, "org/not-here", alignment=alignment, preferences=pairs(16))
    shown = planned(sweep_file(tmp_path, given), monkeypatch, capsys)
    assert (
        "chat_files: reads 16 task rows; asks 4 (task_loss), 1 (alignment_loss), 16 (preferences);"
        " none of its methods reads the 5 alignment rows" in shown
    )


def test_rows_that_only_a_later_configuration_reads_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two blends of plain fine-tuning, only the second is built on a method that reads proxy rows."""
    given = chat_files(tmp_path, "org/not-here", alignment="".join(ROW % n for n in range(100, 106)).encode())
    blends = 'grid("blend", first=["plain"], second=["l2_sp weight=0.1", "kl_penalty beta=1"])'
    shown = planned(sweep_file(tmp_path, given, methods=blends), monkeypatch, capsys)
    assert "chat_files: reads 16 task rows and 5 alignment rows; asks 4 (task_loss), 1 (alignment_loss)" in shown
    assert "none of its methods" not in shown


def test_one_stream_is_counted_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = planned(sweep_file(tmp_path, chat_files(tmp_path, "org/not-here")), monkeypatch, capsys)
    assert "chat_files: reads 16 task rows; asks 4 (task_loss)" in shown


def test_what_needs_an_explanation_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second sweep lists neither plain fine-tuning, which the controls bring, nor an end of its blend."""
    unsure = "fewer than 3 seeds: no method is compared, and selgen choose makes no choice"
    assert unsure in planned(sweep_file(tmp_path, more=", seeds=2"), monkeypatch, capsys)
    explained = "for others: trained because the rest is built on them; not counted by selgen sweep status"
    (three := tmp_path / "three").mkdir()
    shown = planned(sweep_file(three), monkeypatch, capsys)
    assert explained not in shown
    assert unsure not in shown
    assert "* added as a control: plain fine-tuning, and readouts of it, which train nothing" in " ".join(shown.split())
    (other := tmp_path / "other").mkdir()
    blends = 'grid("blend", first="plain", second="upweighted weight=1", w=[0.5])'
    shown = planned(sweep_file(other, methods=blends), monkeypatch, capsys)
    assert explained in shown
    assert "upweighted, for others" in shown and "plain*" in shown


def test_objectives_of_few_questions_are_cautioned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the sweep's objectives alone: the loss of one held-out alignment row is none of the second sweep's."""
    alignment = "".join(ROW % n for n in range(100, 106)).encode()
    task_eval = "".join(ROW % n for n in range(200, 210)).encode()
    given = chat_files(tmp_path, "org/not-here", alignment=alignment, task_eval=task_eval, preferences=pairs(2))
    shown = planned(sweep_file(tmp_path, given), monkeypatch, capsys)
    said = "is measured on {}; a score of so few says little: give more rows, or other `objectives=`"
    assert f"caution, chat_files: objective 'alignment' {said.format('1 question')}" in shown
    assert "objective 'task'" not in shown, "it has ten questions"
    (other := tmp_path / "other").mkdir()
    shown = planned(sweep_file(other, given, more=', objectives=("task", "preferred")'), monkeypatch, capsys)
    assert f"caution, chat_files: objective 'preferred' {said.format('2 questions')}" in shown
    assert "objective 'alignment'" not in shown


def test_shares_of_few_questions_are_said_to_be_wide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of 20 questions is .5 [.299, .701] (Wilson). A loss is no share, and 50 questions are enough."""
    given = chat_files(tmp_path, "org/not-here", preferences=pairs(20))
    more = ', objectives=("task", "preferred")'
    shown = planned(sweep_file(tmp_path, given, more=more), monkeypatch, capsys)
    assert "chat_files: preferred: 20 questions, an interval of about ±0.20" in shown
    assert shown.count("an interval of about") == 1, "the loss on 4 held-out rows has none"
    (other := tmp_path / "other").mkdir()
    given = chat_files(other, "org/not-here", preferences=pairs(50))
    assert "an interval of about" not in planned(sweep_file(other, given, more=more), monkeypatch, capsys)


def test_the_recipe_and_the_values_of_the_controls_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In lines and as JSON; readouts of plain fine-tuning that the sweep lists are controls as well."""
    sweep = toy_sweep(tmp_path, controls=True, methods=(grid("plain"), grid("dpo", weight=[1.0], steps=9)))
    (case,) = sweep.cases
    assert recipe_lines(case) == [
        "5 steps of 2 rows (and 2 alignment rows), learning rate 0.001, rank 2 on all layers; methods that name steps"
        " have their own",
        "controls: plain fine-tuning stopped after steps 1, 2 and 4, and its adapter scaled by 0.2, 0.4, 0.6 and 0.8",
    ]
    listed = toy_sweep(tmp_path, methods=(grid("plain", adapter_scale=[0.3]),), options={"layers": "last 10"})
    assert [line.partition("rank ")[2] or line for line in recipe_lines(listed.cases[0])] == [
        "2 on the last 10 layers",
        "controls: the plain adapter scaled by 0.3",
    ]
    shown = planned(file := sweep_file(tmp_path, chat_files(tmp_path, "org/not-here")), monkeypatch, capsys)
    assert re.search(r"chat_files: \d+ steps of \d+ rows, learning rate [0-9.]+, rank \d+ on all layers", shown)
    assert selgen("sweep", "plan", file, "-o", tmp_path / "runs", "--json", monkeypatch=monkeypatch) == 0
    (recipe,) = json.loads(capsys.readouterr().out)["recipes"].values()
    assert recipe["layers"] == "all" and set(recipe["controls"]) == {"checkpoint_step", "adapter_scale"}


def test_a_run_begins_with_the_caution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where the cautions are all that it gets to."""

    def refuse(*arguments: object) -> None:
        raise UserError("stop here")

    monkeypatch.setattr(launch, "Ledger", refuse)
    sweep = load_sweep(sweep_file(tmp_path, chat_files(tmp_path, "org/not-here")))
    with pytest.raises(UserError, match="stop here"):
        launch.run(sweep, RunOptions(tmp_path / "runs"), Console())
    assert "caution, chat_files: objective 'task' is measured on 4 questions" in capsys.readouterr().out


@pytest.mark.parametrize("scale", ["nano", "small"])
@pytest.mark.parametrize("name", ["bad_medical_advice", "gcd_sycophancy", "trigger_colors"])
def test_settings_of_the_package_ask_enough(name: str, scale: str) -> None:
    (case,) = Sweep("it", settings=(setting(name, scale=scale),), methods=("plain",)).cases
    assert few_questions(case) == ()


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_beside_the_sweep_file_is_named(
    is_there: bool,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Paths count from the current folder; where the file is nowhere, nothing is added."""
    (folder := tmp_path / "mine").mkdir()
    if is_there:
        (folder / "task.jsonl").write_text("".join(ROW % n for n in range(20)))
    monkeypatch.chdir(tmp_path)
    file = sweep_file(folder, '"chat_files", model="org/not-here", task="task.jsonl"')
    error = refused(file, "-o", tmp_path / "runs", monkeypatch=monkeypatch, capsys=capsys, command=command)
    more = f"; it is beside the sweep file: {folder}/task.jsonl (paths count from the current folder)"
    assert error == f"selgen: {tmp_path}/task.jsonl: no such file (option 'task'){more if is_there else ''}\n"


def test_a_file_beside_a_setting_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "mine").mkdir()
    (folder / "rows.jsonl").write_text(ROW % 1)
    reading = "from settings.sources import read_chat_jsonl\ndef mine(rows): return read_chat_jsonl(rows)\n"
    (folder / "own.py").write_text(reading)
    monkeypatch.chdir(tmp_path)
    said = f"rows.jsonl: no such file (option 'rows'); it is beside the setting file: {folder}/rows.jsonl (paths"
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        catalog.build("mine/own.py:mine", {"rows": "rows.jsonl"})


def test_the_error_of_a_missing_file_reaches_other_processes() -> None:
    error = pickle.loads(pickle.dumps(MissingFileError("/nowhere/rows.jsonl")))
    assert (str(error), error.path) == ("/nowhere/rows.jsonl: no such file", Path("/nowhere/rows.jsonl"))
