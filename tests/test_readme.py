"""What the pages name exists. The examples of a package's page run in the `test_readme.py` of its tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.pages import code_blocks

README = (ROOT / "README.md").read_text()
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts) and path.name != "CHANGELOG.md"
)


def test_the_first_page_is_short() -> None:
    assert README.count("\n") <= 150


def test_every_package_has_a_page() -> None:
    assert {f"{package}/README.md" for package in ("settings", "trainables", "sweeps", "analysis", "tests")} <= set(
        PAGES
    )


@pytest.mark.parametrize("page", PAGES)
def test_links_and_modules_exist(page: str) -> None:
    text, folder = (ROOT / page).read_text(), (ROOT / page).parent
    links = [folder / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    modules = [ROOT / module.replace(".", "/") for module in re.findall(r"python -m ([a-z_.]+)", text)]
    ours = [module for module in modules if module.relative_to(ROOT).parts[0] in ("tests", "sweeps")]
    missing = [path for path in links if not path.exists()]
    assert missing + [path for path in ours if not (path.is_dir() or path.with_suffix(".py").is_file())] == []


@pytest.mark.parametrize("page", PAGES)
def test_tests_exist(page: str) -> None:
    """Every file of tests that a page tells to run is there."""
    commands = re.findall(r"`[^`\n]*pytest ([^`\n]+)`", (ROOT / page).read_text())
    files = [part for command in commands for part in command.split() if part.startswith("tests/")]
    assert [file for file in files if not list(ROOT.glob(file))] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    """Every `selgen` command that a page names is one of the command line's."""
    from typer.main import get_command

    from sweeps.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for first, second in re.findall(r"\bselgen ([a-z]+)(?: ([a-z]+))?", (ROOT / page).read_text()):
        assert first in commands, f"selgen {first}"
        if hasattr(commands[first], "commands"):
            assert second in commands[first].commands, f"selgen {first} {second}"


def test_the_stations_are_files() -> None:
    """Every place that a table row of the first page names exists."""
    section = README.split("## What just happened")[1].split("\n## ")[0]
    rows = [row.split("|")[3] for row in section.splitlines() if row.startswith("| ") and "`" in row.split("|")[3]]
    assert len(rows) >= 10
    for row in rows:
        first, *rest = re.findall(r"`([^`]+)`", row)
        beside = (ROOT / first).parent
        assert (ROOT / first).exists(), first
        assert all((ROOT / place).exists() or (beside / place).exists() for place in rest), rest


def test_the_tree_is_the_tree() -> None:
    """The annotated tree names folders that exist, and all of them but the settings' own."""
    tree = README.split("## The tree")[1].split("```")[1]
    package, named = "", set()
    for line in tree.splitlines():
        folders = re.findall(r"^([a-z]+)/", line) or re.findall(r"(?<=  )([a-z]+)/", line)
        if line and not line.startswith(" "):
            package = folders[0]
            continue
        named |= {f"{package}/{folder}" for folder in folders}
    assert [folder for folder in named if not (ROOT / folder).is_dir()] == []
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*/__init__.py")}
    assert {room for room in rooms - named if room.split("/")[0] not in ("settings", "tests")} == set()


@pytest.mark.slow
def test_a_method_is_one_file(tmp_path: Path) -> None:
    """In a copy of the project a new file alone is known to the command line, sweeps, and its battery of tests."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    method = code_blocks(ROOT / "trainables" / "README.md", "Write a method")[0]
    (tmp_path / "trainables" / "methods" / "entropy_bonus.py").write_text(method)

    def python(*arguments: str) -> str:
        line = [sys.executable, "-m", *arguments]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "H(policy" in python("sweeps.cli", "methods", "entropy_bonus")
    sweep = tmp_path / "mine.py"
    text = code_blocks(ROOT / "sweeps" / "README.md", "Write a sweep")[0]
    for old, new in (("kl_penalty", "entropy_bonus"), ("beta=", "weight="), ("0.1, 10", "0.1, 1")):
        assert old in text
        text = text.replace(old, new)
    sweep.write_text(text)
    assert "entropy_bonus" in python("sweeps.cli", "sweep", "plan", str(sweep))
    battery = python("pytest", "tests/trainables/test_methods.py", "-k", "entropy_bonus", "-p", "no:cacheprovider")
    assert int(battery.split(" passed")[0].split()[-1]) >= 10
