"""A trial that raises: the reason leads to the line, the sweep says so, and what was mended is trained again."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from settings.reference import forget_settings
from sweeps.driver.driver import Driver
from sweeps.driver.resources import worker_config
from sweeps.driver.tune_callbacks import Reporter
from sweeps.ledger import read
from sweeps.search.failures import origin, reason_of
from sweeps.search.searcher import PackSearcher
from tests.support.fakes import SOURCES
from tests.sweeps.cli.test_app import selgen
from trainables.folder import SweepFolder
from trainables.messages import to_config
from trainables.outcome import Outcome
from trainables.trainable import PackTrainable
from trainables.trial import pack_id

SWEEP = """
from sweeps.sweep import Sweep, setting

sweep = Sweep(name="mine", settings=(setting("own.py:mine"),), methods=("plain",), seeds=1, controls=False,
              options={"steps": 2})
"""


def without_ray(driver: Driver, *_: object) -> None:
    """Do what Tune does: one worker that stays, one pack after another; what has failed is not tried again."""
    searcher = PackSearcher(driver.scheduler)
    fixed, actor, count = to_config(worker_config(driver.sweep, driver.folder)), None, 0
    while isinstance(config := searcher.suggest(f"t{count}"), dict):
        if actor is None:
            actor = PackTrainable(fixed | config)
        else:
            actor.reset_config(fixed | config)
        result = actor.step()
        while not result["done"]:
            driver.show_progress(result)
            result = actor.step()
        searcher.on_trial_complete(f"t{count}", result=result)
        count += 1
    if actor:
        actor.cleanup()


@pytest.mark.slow
def test_what_failed_is_said_and_trained_again_once_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real driver and the real worker run in one process. The sweep is found by name; a file declares it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Driver, "run_packs", without_ray)
    folder, setting = tmp_path / "runs" / "mine", tmp_path / "own.py"
    (tmp_path / "mine.py").write_text(SWEEP)

    def run(grade: str, *arguments: str) -> tuple[int, str, str, Outcome]:
        """Run the sweep with another grade, which is read as a new process would read it."""
        setting.write_text((SOURCES / "graded_setting.py").read_text().replace("return 1.0", f"return {grade}"))
        for name in [name for name in sys.modules if name.startswith("selgen_user_")]:
            del sys.modules[name]
        forget_settings()
        code = selgen("sweep", *arguments, monkeypatch=monkeypatch)
        (outcome,) = read(folder).outcomes.values()
        return code, *capsys.readouterr(), outcome

    code, out, err, outcome = run("len(reply) / 0", "run", "mine.py")
    assert (code, err) == (1, "selgen: all trials failed for plain\n")
    file = f"{pack_id([outcome.trial])}.txt"
    assert outcome.reason == f"ZeroDivisionError: division by zero (own.py:10; traceback in errors/{file})"
    assert "in grade" in (SweepFolder(folder).errors / file).read_text()
    assert f"failed: plain seed=0: {outcome.reason}\n" in out
    assert "1 failed and stay so; once the cause is fixed, add --retry-failed to the command" in out

    code, out, _, outcome = run("1.0", "resume", "mine")
    assert (code, outcome.status) == (1, "failed")

    code, out, _, outcome = run("1.0", "resume", "mine", "--retry-failed")
    assert "retry-failed" not in out
    assert (code, outcome.status, outcome.scores["task"].mean) == (0, "finished", 1.0)

    code, out, _, outcome = run("0.5", "run", "mine")
    assert f"setting {setting}:mine was changed after 1 of its trials had ended" in out
    assert (code, outcome.scores["task"].mean) == (0, 1.0)


def raised(folder: Path) -> str:
    """Return the traceback of a method that multiplies wrong shapes: torch raises, the method is to blame."""
    file = folder / "my_method.py"
    file.write_text("import torch\n\n\ndef losses():\n    torch.nn.Linear(2, 2)(torch.ones(3))\n")
    names: dict[str, object] = {}
    exec(compile(file.read_text(), file, "exec"), names)
    try:
        names["losses"]()  # type: ignore[operator]
    except RuntimeError:
        return traceback.format_exc()
    raise AssertionError


def test_the_reason_leads_to_the_line_and_to_the_traceback(tmp_path: Path) -> None:
    text = raised(tmp_path)
    assert str(Path(torch.__file__).parent) in text
    error = tmp_path / "error.txt"
    error.write_text(text)
    reporter = Reporter(lambda result: None)
    reporter.on_trial_start(0, [], SimpleNamespace(trial_id="t1", error_file=str(error)))
    reason = reason_of(reporter.reason("t1"), tmp_path, "pack")
    assert SweepFolder(tmp_path).error("pack").read_text() == text.strip()
    assert reason == f"{text.strip().splitlines()[-1]} (my_method.py:5; traceback in errors/pack.txt)"


def test_a_worker_that_died_left_no_traceback(tmp_path: Path) -> None:
    reason = reason_of(Reporter(lambda result: None).reason("unknown"), tmp_path, "pack")
    assert reason == "the worker died"
    assert not list(tmp_path.iterdir())


def test_an_error_of_a_package_alone_has_its_last_frame() -> None:
    package = sysconfig.get_path("purelib")
    frames = f'  File "{package}/a.py", line 1, in f\n    g()\n  File "{package}/b.py", line 2, in g\n    1 / 0\n'
    assert origin(f"Traceback (most recent call last):\n{frames}ZeroDivisionError: division by zero") == "b.py:2"
    assert origin("The actor died unexpectedly") == ""


def test_the_first_line_of_a_longer_message_counts(tmp_path: Path) -> None:
    frames = f'Traceback (most recent call last):\n  File "{tmp_path}/m.py", line 3, in f\n    x()\n    ^^^\n'
    reason = reason_of(f"{frames}ValueError: no such\n  thing\nat all\n", tmp_path, "pack")
    assert reason == "ValueError: no such (m.py:3; traceback in errors/pack.txt)"
    died = f"{frames}ValueError: x\nFailure # 2 (occurred at noon)\nThe actor died unexpectedly before finishing."
    assert reason_of(died, tmp_path, "other") == "The actor died unexpectedly before finishing."


def test_a_disk_that_is_full_costs_the_traceback_and_not_the_outcome(tmp_path: Path) -> None:
    SweepFolder(tmp_path).errors.write_text("a file where the folder should be")
    reason = reason_of(raised(tmp_path), tmp_path, "pack")
    assert "(my_method.py:5; no traceback: " in reason
