"""`selgen choose`: a table, JSON, and one line for what cannot be asked."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from settings.setting import Measurement
from sweeps.description import describe
from sweeps.find import remember
from tests.support.fakes import Rig, toy, toy_sweep
from tests.sweeps.cli.test_app import selgen

BASE_SCORES = {"task": Measurement(0.25, 9, 0), "alignment": Measurement(0.125, 9, 0)}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of sweeps of three, two and one seeds, and of one whose alignment is better when lower."""
    folder = tmp_path_factory.mktemp("choose")
    for seeds, name in ((3, "three"), (2, "two"), (1, "one"), (3, "loss")):
        settings = (toy(folder, upside_down=name == "loss"),)
        sweep = toy_sweep(folder, seeds=seeds, name=name, settings=settings)
        rig = Rig(sweep, folder / name)
        describe(sweep).write(folder / name)
        rig.ledger.record_base_scores(sweep.cases[0].label, BASE_SCORES)
        rig.run(random.Random(0))
        rig.kill()
    return folder


def test_the_choice_as_a_table_and_as_json(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["choose", "three", "--min", "alignment=0.6", "--output", output]
    assert selgen(*question, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "take kl_penalty beta=" in shown
    assert "* the one to take" in shown
    (next_step,) = re.findall(r"\nwrite its adapter to DIR: (selgen export .*)\n$", shown)
    assert selgen(*question, "--json", monkeypatch=monkeypatch) == 0
    data = json.loads(capsys.readouterr().out)
    kept = [each for each in data["configurations"] if each["probability"] >= data["needed_probability"]]
    assert data["chosen"]["configuration"] == kept[0]["configuration"]
    assert data["chosen"]["task"]["mean"] == max(each["task"]["mean"] for each in kept)
    assert f"beta={data['chosen']['label'].removeprefix('beta=')}" in shown
    title = f"kl_penalty {data['chosen']['label']}"
    assert shlex.split(next_step) == ["selgen", "export", "three", title, "DIR", "--output", str(output)]


@pytest.mark.parametrize(
    "question",
    [
        ["choose", "half", "--min", "alignment=0.1"],
        ["frontier", "half"],
        ["report", "half"],
        ["compare", "half", "half"],
    ],
)
def test_an_interrupted_sweep_says_how_to_continue(
    question: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials are running only while a driver holds the sweep's lock."""

    def last_line() -> str:
        assert selgen(*question, "-o", tmp_path, monkeypatch=monkeypatch) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("half is "))

    sweep = toy_sweep(tmp_path, seeds=3, name="half")
    rig = Rig(sweep, tmp_path / "half")
    describe(sweep).write(tmp_path / "half")
    rig.run(random.Random(0), packs=4)
    running = re.fullmatch(r"half is still running: (\d+) of 21 trials have ended", last_line())
    assert running is not None and 0 < int(running[1]) < 21
    rig.kill()
    ended = f"half is not finished: {running[1]} of 21 trials have ended"
    assert last_line() == f"{ended}; continue it from Python: sweeps.resume(sweep)"
    remember(tmp_path / "half", tmp_path / "half.py")
    assert last_line() == f"{ended}; continue with: selgen sweep resume half --output {tmp_path}"


def test_nothing_good_enough_is_a_finding(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selgen("choose", "three", "--min", "alignment=0.9999", "-o", output, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "comes closest" in shown and "selgen export" not in shown and "the one to take" not in shown
    assert selgen("choose", "two", "--min", "alignment=0.6", "-o", output, monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("no configuration is chosen with two seeds: raise `seeds` to 3 and run again ")
    assert "a choice needs a third seed" in shown and "take" not in shown


def test_the_base_model_is_in_the_table_and_in_the_answer_to_a_question_without_a_limit(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selgen("choose", "three", "--min", "alignment=0.6", "-o", output, monkeypatch=monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "base model 0.250 0.125" in shown
    assert selgen("choose", "three", "-o", output, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.endswith("; the base model has task ↑ 0.250, alignment ↑ 0.125\n")


def test_a_limit_on_the_better_end_is_doubted(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the toy setting's scores, a higher alignment is better, and so is a lower one upside down."""
    for sweep, right, wrong, better in (("three", "--min", "--max", "higher"), ("loss", "--max", "--min", "lower")):
        line = f"{better} is better for alignment: did you mean {right} alignment=0.6?\n"
        for option, begins in ((wrong, True), (right, False)):
            assert selgen("choose", sweep, option, "alignment=0.6", "-o", output, monkeypatch=monkeypatch) == 0
            shown = capsys.readouterr().out
            assert shown.startswith(line) is begins and shown.count("did you mean") == begins
    arguments = ("choose", "three", "--max", "alignment=0.6", "-o", output, "--json")
    assert selgen(*arguments, monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["sweep"] == "three"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["three", "--min", "alignment"], "--min 'alignment' must be SCORE=NUMBER"),
        (["three", "--max", "alignment=high"], "--max 'alignment=high' must be SCORE=NUMBER"),
        (["three", "--min", "algnment=1"], "no score 'algnment' (did you mean 'alignment'?); it has alignment"),
        (["three"], "a choice needs a limit"),
        (["three", "--min", "alignment=0.5", "--confidence", "95"], "--confidence must be"),
        (["one", "--min", "alignment=0.5"], "one seed"),
        (["absent", "--min", "alignment=0.5"], "no sweep 'absent' under"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    arguments: list[str],
    words: str,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert selgen("choose", *arguments, "--output", output, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert error.startswith("selgen: ") and error.count("\n") == 1
    assert words in error
