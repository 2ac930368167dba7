"""The README's examples are complete and work as printed."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from settings import catalog
from settings.reference import setting_of
from sweeps.find import load_sweep
from sweeps.space import vary
from tests.conftest import ROOT
from tests.support.tiny import tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.method import Step
from trainables.pack import Pack
from trainables.projections import Factors

README = (ROOT / "README.md").read_text()


def example(heading: str, number: int = 0) -> str:
    """A Python block under a heading, by default the first."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)[number]


def test_the_sweep(tmp_path: Path) -> None:
    file = tmp_path / "my_sweep.py"
    file.write_text(example("Write a sweep"))
    sweep = load_sweep(file)
    assert [arm.space.method for arm in sweep.arms] == ["plain", "kl_penalty", "upweighted", "plain", "plain"]
    assert [arm.budget for arm in sweep.arms] == [1, 6, 3, 3, 5]  # the last are the other control's checkpoints
    trials = [trial for arm in sweep.arms for trial in sweep.trials_of(arm, arm.space.examples()[0])]
    assert {trial.steps for trial in trials} == {40}


def test_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file alone makes it appear, train, and be searched."""
    (tmp_path / "entropy_bonus.py").write_text(example("Write a method"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert "entropy_bonus" in methods.names()
    assert list(vary("entropy_bonus").ranges) == ["weight"]
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("entropy_bonus"))], dtype=torch.float64)
    pack.advance(20)
    assert pack.records[0].status == "finished"


@pytest.mark.slow
def test_the_methods_file_alone_makes_it_known_everywhere(tmp_path: Path) -> None:
    """In a copy of the project, with nothing else changed: the command line, a sweep, and its battery of tests."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "trainables" / "methods" / "entropy_bonus.py").write_text(example("Write a method"))

    def python(*arguments: str) -> str:
        line = [sys.executable, "-m", *arguments]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "H(policy" in python("sweeps.cli", "methods", "entropy_bonus")
    sweep = tmp_path / "mine.py"
    sweep.write_text(
        example("Write a sweep")
        .replace("kl_penalty", "entropy_bonus")
        .replace("beta=", "weight=")
        .replace("0.1, 10", "0.1, 1")
    )
    assert "entropy_bonus" in python("sweeps.cli", "sweep", "plan", str(sweep))
    battery = python("pytest", "tests/trainables/test_methods.py", "-k", "entropy_bonus", "-p", "no:cacheprovider")
    assert int(battery.split(" passed")[0].split()[-1]) >= 10


def test_the_setting(tmp_path: Path, tiny_qwen3_dir: Path) -> None:
    file = tmp_path / "my_setting.py"
    file.write_text(example("Write a setting"))
    setting = catalog.build(f"{file}:parity", {"model": str(tiny_qwen3_dir)})
    assert [len(rows) for rows in setting.streams.values()] == [80, 20]
    assert setting.evaluations[0].grade(["no", "yes"] * 10)["task"].mean == 1.0  # 80 is even, and "no" was taught


def test_a_setting_made_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appended to the file of the first; its sweep counts from the folder that holds both."""
    (tmp_path / "my_setting.py").write_text(example("Write a setting") + example("Write a setting", 1))
    (tmp_path / "few.py").write_text(example("Write a setting", 2))
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep("few.py")
    sweep.check()
    assert [len(setting_of(ref).streams["alignment"]) for ref in sweep.settings] == [4, 12, 36]


def test_the_penalty_on_the_adapter() -> None:
    """The line of the table's text gives a number, with the factors that the table promises."""
    found = re.search(r"`(sum\(f\..*?\))`", README)
    assert found
    adapter = [Factors(torch.full((2, 3), 2.0), torch.ones(4, 2), scale=1.0)]
    assert eval(found.group(1), {"step": Step({}, {}, adapter=adapter), "sum": sum}) == 6 * 4 + 8


def test_the_commands_exist() -> None:
    """Every `selgen` command line of the README names a command that the command line has."""
    from typer.main import get_command

    from sweeps.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^selgen ([a-z ]+?)(?: [a-z_]+\.py| quickstart| \[NAME\]| +#|$)", README, flags=re.MULTILINE)
    assert lines
    for line in lines:
        words = line.split()
        known = commands[words[0]]
        if words[0] == "sweep":
            assert words[1] in known.commands


def test_the_tree_is_the_tree() -> None:
    """Every Python file that the annotated tree names exists."""
    tree = README.split("## The tree")[1].split("```")[1]
    package = ""
    for line in tree.splitlines():
        if line and not line.startswith(" "):
            package = line.split("/")[0]
        for name in re.findall(r"\b([a-z_]+\.py)\b", line):
            assert (ROOT / package / name).is_file(), f"{package}/{name}"
