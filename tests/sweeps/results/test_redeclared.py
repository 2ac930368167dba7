"""What a changed sweep is told about its folder: it cannot continue there, and why."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from settings.reference import forget_settings
from sweeps.cli import app
from sweeps.description import describe, describe_configuration
from sweeps.find import load_sweep
from sweeps.ledger import Ledger
from sweeps.results.redeclared import NOT_KEPT, differences
from tests.support.fakes import finished

ROW = '{"messages": [{"role": "user", "content": "q%d"}, {"role": "assistant", "content": "a"}]}\n'
SWEEP = """
from sweeps.space import grid, vary
from sweeps.sweep import Search, Sweep, setting
task, alignment = "FOLDER/task.jsonl", "FOLDER/alignment.jsonl"
sweep = Sweep(
    name="mine",
    settings=(setting("chat_files", model="MODEL", task=task, alignment=alignment, max_length=64),),
    methods=("plain", grid("upweighted", weight=[1.0]), vary("kl_penalty", beta=1.0)),
    options={"steps": 6},
    objectives=("task", "alignment"),
    controls=False,
)
"""


@pytest.fixture()
def begun(tmp_path: Path, tiny_qwen3_dir: Path) -> Path:
    """The file of a sweep whose first trial of each method has ended in `runs` beside it."""
    return begun_as(SWEEP, tmp_path, tiny_qwen3_dir)


def begun_as(text: str, tmp_path: Path, tiny_qwen3_dir: Path) -> Path:
    for name in ("task", "alignment"):
        (tmp_path / f"{name}.jsonl").write_text("".join(ROW % n for n in range(20)))
    file = tmp_path / "mine.py"
    file.write_text(text.replace("FOLDER", str(tmp_path)).replace("MODEL", str(tiny_qwen3_dir)))
    sweep = load_sweep(file)
    with Ledger(tmp_path / "runs" / "mine", sweep.name, sweep.identity()) as ledger:
        describe(sweep).write(tmp_path / "runs" / "mine")
        for arm in sweep.arms:
            values = arm.space.examples()[0]
            trial = sweep.trials_of(arm, values)[0]
            ledger.record_configuration(
                arm.key, 0, values, trial.configuration_id, describe_configuration(sweep, trial)
            )
            ledger.record_outcome(finished(trial))
    return file


def changed(file: Path, old: str, new: str) -> Path:
    """A new file with a change: a process reads a file only once."""
    text = file.read_text()
    assert text.count(old) == 1
    copy = file.with_stem(f"changed{len([*file.parent.glob('*.py')])}")
    copy.write_text(text.replace(old, new))
    return copy


def selgen(
    arguments: Sequence[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int = 0
) -> str:
    """What a command prints."""
    monkeypatch.setattr(sys, "argv", ["selgen", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        app.main()
    shown = "".join(capsys.readouterr())
    assert int(ended.value.code or 0) == code, shown
    return shown


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weight=[1.0]", "weight=[2.0]", ["methods: upweighted weight=[1.0] became [2.0]"]),
        ('grid("upweighted", weight=[1.0])', '"upweighted"', ["methods: upweighted weight=[1.0] became searched"]),
        ("beta=1.0", "beta=2.0", ["methods: kl_penalty beta=1.0 became 2.0"]),
        (', grid("upweighted", weight=[1.0])', ', "mixed"', ["methods: mixed is new", "methods: upweighted is gone"]),
        ('"steps": 6', '"steps": 7, "batch_size": 4', ["steps=6 became 7, batch_size=16 became 4"]),
        ("max_length=64", "max_length=65", ["setting chat_files: max_length=64 became 65"]),
        (
            'objectives=("task", "alignment")',
            'objectives=("alignment", "task")',
            [
                "objectives: task (lower is better), alignment (lower is better) became"
                " alignment (lower is better), task (lower is better)"
            ],
        ),
        ("controls=False", "controls=False, search=Search(seed=1)", [NOT_KEPT]),
    ],
)
def test_differences_are_named(begun: Path, old: str, new: str, words: list[str]) -> None:
    folder = begun.parent / "runs" / "mine"
    assert differences(load_sweep(changed(begun, old, new)), folder) == words


@pytest.mark.parametrize("varied", ['grid("plain", steps=[3, 12])', 'vary("plain", learning_rate=0.01)'])
def test_what_a_method_alone_varied_is_no_option_that_changed(
    varied: str, tmp_path: Path, tiny_qwen3_dir: Path
) -> None:
    file = begun_as(SWEEP.replace('"plain"', varied), tmp_path, tiny_qwen3_dir)
    found = differences(load_sweep(changed(file, varied, '"plain"')), tmp_path / "runs" / "mine")
    assert found and all(line.startswith("methods: ") for line in found)


def test_changed_rows_are_named(begun: Path) -> None:
    (begun.parent / "task.jsonl").write_text("".join(ROW % n for n in range(1, 21)))
    forget_settings()
    folder, again = begun.parent / "runs" / "mine", load_sweep(changed(begun, '"mine"', "'mine'"))
    assert differences(again, folder) == ["task rows have changed"]
    description = json.loads((folder / "sweep.json").read_text())
    for setting in description["settings"]:
        del setting["digests"]  # as an older version wrote it
    (folder / "sweep.json").write_text(json.dumps(description))
    (line,) = differences(again, folder)
    told = r"the rows or questions have changed \(fingerprint [0-9a-f]{12} -> [0-9a-f]{12}\)"
    assert re.fullmatch(told, line)


def test_a_folder_without_a_description_names_nothing(begun: Path) -> None:
    folder = begun.parent / "runs" / "mine"
    (folder / "sweep.json").unlink()
    assert differences(load_sweep(changed(begun, "[1.0]", "[2.0]")), folder) == []


def test_plan_run_status_and_clean_tell_the_same_of_a_changed_sweep(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three trials have ended, but none of the sweep that has another weight now."""
    where = ("-o", begun.parent / "runs")
    more = changed(begun, "controls=False", "controls=False, seeds=4, configurations=9")  # still the same sweep
    shown = selgen(["sweep", "plan", more, *where], monkeypatch, capsys)
    assert "3 of these trials have ended" in shown and "declared differently" not in shown
    assert json.loads(selgen(["sweep", "status", more, *where, "--json"], monkeypatch, capsys))["cautions"] == []

    other = changed(begun, "weight=[1.0]", "weight=[2.0]")
    problem = selgen(["sweep", "run", other, *where], monkeypatch, capsys, code=2)
    problem = problem.rpartition("selgen: ")[2]
    assert "declared differently" in problem and "weight=[1.0] became [2.0]; rename the sweep or" in problem
    assert selgen(["sweep", "clean", other, *where], monkeypatch, capsys, code=2).rpartition("selgen: ")[2] == problem
    shown = selgen(["sweep", "plan", other, *where], monkeypatch, capsys)
    assert f"caution: {problem}" in shown and "trials have ended in" not in shown
    state = json.loads(selgen(["sweep", "status", other, *where, "--json"], monkeypatch, capsys))
    assert state["cautions"] == [problem.strip()]
    assert [arm["finished"] for arm in state["arms"]] == [0, 0, 0]
    assert state["lines"][0] == "mine cannot continue as it is declared now: see the caution"
