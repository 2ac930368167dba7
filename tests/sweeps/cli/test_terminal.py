"""Terminals, proxies, passwords and current directories do the command line no harm; its advice can be pasted."""

from __future__ import annotations

import codecs
import io
import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.mlflow_runs import SweepRuns
from analysis.tables.scores import TrialRecord
from settings.common.errors import UserError
from settings.common.files import cache_root, check_cache_root
from sweeps.cli import app, terminal
from sweeps.cli import report as report_command
from sweeps.cli.say import Say, command, hidden_address, places
from sweeps.driver.launch import RunSummary
from sweeps.driver.run_options import RunOptions
from tests.conftest import ROOT
from tests.support.fakes import toy_sweep
from tests.support.made_up_trials import OBJECTIVES, PLAIN
from tests.sweeps.cli.test_app import selgen

SECRET = "postgresql://me:secret@127.0.0.1:9/mlflow"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "task ^ - 3 e . ?"), ("latin-1", "task ^ · 3 é . ?")])
def test_a_terminal_without_unicode(encoding: str, shown: str) -> None:
    """One character for one, so that tables stay aligned."""
    codecs.register_error("selgen.plain", terminal.plain)
    assert "task ↑ · 3 é … \udce9".encode(encoding, "selgen.plain").decode(encoding) == shown


@pytest.mark.parametrize(
    ("proxies", "exempt"),
    [
        ({"http_proxy": "http://proxy:3128"}, "localhost,127.0.0.1,::1"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a.org, localhost"}, "a.org,localhost,127.0.0.1,::1"),
        ({"all_proxy": "http://proxy:3128", "no_proxy": "*"}, "*"),
        ({}, None),
    ],
)
def test_this_machine_is_reached_without_a_proxy(
    proxies: dict[str, str], exempt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # so that the test's own changes end with it
        monkeypatch.delenv(name)
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    terminal.exempt_loopback()
    assert os.environ.get("no_proxy") == exempt
    if proxies:
        assert urllib.request.proxy_bypass("127.0.0.1:5000") and urllib.request.proxy_bypass("localhost:8000")
        assert bool(urllib.request.proxy_bypass("api.example")) == (exempt == "*")


@pytest.mark.parametrize("start", [["-m", "sweeps.cli"], ["-c", "from sweeps.cli.app import main; main()"]])
def test_modules_of_the_user_are_not_ours(start: list[str], tmp_path: Path) -> None:
    """Started as a module, where Python itself puts the current directory first, and as the console script."""
    (tmp_path / "settings.py").write_text("DEBUG = True\n")
    options = ["-P"] if start[0] == "-c" else []  # a script has its own folder first, not the current one
    ended = subprocess.run(
        [sys.executable, *options, *start, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}", "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "frontier" in ended.stdout


@pytest.mark.parametrize("arguments", [["frontier", "mini"], ["ui", "mini"]])
def test_no_password_in_an_error(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert selgen(*arguments, "-o", tmp_path, "--tracking-uri", SECRET, monkeypatch=monkeypatch) == 2
    error = capsys.readouterr().err
    assert "postgresql://me:***@127.0.0.1:9/mlflow" in error and "secret" not in error and error.count("\n") == 1


def test_no_password_in_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError(f"could not parse {SECRET}")
    except RuntimeError as error:
        terminal.show_error(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert "could not parse postgresql://me:***@" in shown and "test_terminal.py" in shown and "secret" not in shown


def said_of(options: RunOptions, tmp_path: Path, interrupted: bool = False, has_front: bool = True) -> str:
    """What a run says at its end."""
    shown = io.StringIO()
    summary = RunSummary((tmp_path / "frontier.csv",) * has_front, "", interrupted, ())
    try:
        app._show_run("my sweep.py", toy_sweep(tmp_path), options, summary, Say(Console(file=shown, width=40)))
    except app.typer.Exit as ended:
        assert ended.exit_code == 130 and interrupted
    return shown.getvalue()


@pytest.mark.parametrize("interrupted", [False, True])
def test_advice_can_be_pasted(interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell reads back the very words, and finds the address with a password where it is not shown."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = RunOptions(Path("my runs/$HOME"), "http://host:5000/a b?c", "ray's:6379")
    lines = [line for line in said_of(options, tmp_path, interrupted).splitlines() if "selgen" in line]
    usual = ["--output", "my runs/$HOME", "--tracking-uri", "http://host:5000/a b?c"]
    words = [shlex.split("selgen" + line.partition("selgen")[2]) for line in lines]
    if interrupted:
        assert words == [["selgen", "sweep", "resume", "my sweep.py", *usual, "--address", "ray's:6379"]]
    else:
        assert words == [["selgen", name, "toy-sweep", *usual] for name in ("report", "ui")]

    said = said_of(RunOptions(Path("runs"), SECRET), tmp_path, interrupted)
    assert '--tracking-uri "$MLFLOW_TRACKING_URI"' in said and "secret" not in said
    assert "set it first" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    assert hidden_address(RunOptions(Path("runs"), SECRET)) == ""
    assert places(RunOptions(Path("runs"))) == "--output runs" and command("a b", 1) == "'a b' 1"
    usual = said_of(RunOptions(Path("runs")), tmp_path, interrupted=True)
    assert usual == "stopped; continue with: selgen sweep resume 'my sweep.py'\n", "no defaults"


def test_no_report_is_suggested_where_there_is_no_front(tmp_path: Path) -> None:
    said = said_of(RunOptions(Path("runs")), tmp_path, has_front=False)
    assert "selgen ui" in said and "selgen report" not in said


def test_links_of_a_report_name_no_password() -> None:
    """A report is written to a file, and logged for others to read."""
    trials = (TrialRecord(PLAIN, 0, "finished", {"task": 0.5, "alignment": 0.5}),)
    loaded = LoadedSweep.of_trials("mini", None, OBJECTIVES, trials)
    chapter = report_command._chapter(loaded, SweepRuns("7", "r", {"c": "run"}), "https://me:secret@host:5000/")
    assert chapter.links == {"c": "https://host:5000/#/experiments/7/runs/run"}


def test_lines_hide_passwords() -> None:
    shown = io.StringIO()
    Say(Console(file=shown, width=200)).note(f"see {SECRET}")
    assert shown.getvalue() == "see postgresql://me:***@127.0.0.1:9/mlflow\n"


def test_the_ui_gets_its_address_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others on the machine can read command lines."""
    commands: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda path, words: commands.append(words))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "")
    for name in ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "PYTHONWARNINGS", "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, "1")
    app.ui_command(output=tmp_path, tracking_uri=SECRET, port=0)
    assert "secret" not in " ".join(commands[0])
    assert os.environ["MLFLOW_BACKEND_STORE_URI"] == SECRET


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for name in ("SELGEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file/\.cache/selgen is not writable \(Not a directory\); set SELGEN_CACHE"):
        check_cache_root()
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    check_cache_root()
    assert cache_root().is_dir()
