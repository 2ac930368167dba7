"""The main job as a user runs it: whatever is killed loses nothing, and what is finished is not repeated.

This is the short form of `tests.studies.chaos`, at chosen moments.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from analysis.tables import mlflow_runs
from settings.bad_medical_advice import nano as bad_medical_advice
from settings.common.files import cache_root
from sweeps.driver.resources import worker_config
from sweeps.find import load_sweep
from sweeps.ledger import Ledger, read
from sweeps.names import default_uri
from sweeps.search.packing import pack_trials
from sweeps.search.scheduler import PackScheduler
from sweeps.search.searcher import PackSearcher
from sweeps.sweep import Sweep
from tests.support.fakes import ONE_AT_A_TIME, SOURCES
from tests.support.mlflow_store import copy_store
from trainables.bases.load_base import load_base
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.folder import SweepFolder
from trainables.messages import PackReport, to_config
from trainables.pack import Pack
from trainables.trainable import PackTrainable
from trainables.trial import TrialConfig

pytestmark = [pytest.mark.slow, pytest.mark.longest]

CONSTANTS = re.compile(r"^CONFIGURATIONS, STEPS.*\nEXECUTION = .*\n", re.MULTILINE)  # of `small_sweep.py`


def write_sweep(folder: Path, steps: int, configurations: int = 4, controls: bool = False, **execution: Any) -> Path:
    """Write the file of a sweep of 2 x (1 + configurations) trials, and the controls'."""
    sizes = f"CONFIGURATIONS, STEPS, CONTROLS = {configurations}, {steps}, {controls}\n"
    constants = f"{sizes}EXECUTION = { ({'checkpoint_seconds': 0.5} | execution)!r}\n"
    text, count = CONSTANTS.subn(constants, (SOURCES / "small_sweep.py").read_text())
    assert count == 1
    file = folder / "small.py"
    file.write_text(text)
    return file


def start(sweep: Path, output: Path, command: str = "run", *options: str, **variables: str) -> subprocess.Popen[str]:
    """`selgen sweep ...` in a process group of its own."""
    line = [sys.executable, "-m", "sweeps.cli", "sweep", command, str(sweep), "--output", str(output), *options]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen(line, text=True, env=os.environ | variables, **pipes)


def finish(process: subprocess.Popen[str], code: int = 0, seconds: float = 200) -> str:
    """Wait for the end of `selgen`; what it printed."""
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, out + err
    assert "Traceback" not in out + err
    return out


def read_until(words: str, process: subprocess.Popen[str]) -> None:
    """Read what `selgen` prints, up to the line with these words."""
    assert process.stdout is not None
    assert any(words in line for line in process.stdout), f"it never said {words!r}"


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)


def num_outcomes(output: Path) -> int:
    ledger = SweepFolder(output / "small").ledger
    return ledger.read_text().count('"event":"outcome"') if ledger.exists() else 0


def checkpoints(output: Path) -> list[Path]:
    return list(SweepFolder(output / "small").checkpoints.glob("*.safetensors"))


def written_since(moment: int, output: Path) -> list[Path]:
    """Checkpoints that were written after a moment, in nanoseconds; others may be deleted at any time."""
    times = {}
    for file in checkpoints(output):
        with suppress(FileNotFoundError):
            times[file] = file.stat().st_mtime_ns
    return [file for file, written in times.items() if written > moment]


def session_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that one of `start` has started, also those that have lost their parents."""
    return [one for one in psutil.process_iter() if one.pid != process.pid and _session(one.pid) == process.pid]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def workers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of some processes that train; Ray names them by what they do."""
    return [one for one in processes if command_of(one).startswith(("ray::PackTrainable", "ray::ResourceTrainable"))]


def command_of(process: psutil.Process) -> str:
    """The command line; empty for one that is no more."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def alive(processes: list[psutil.Process], seconds: float = 30) -> list[psutil.Process]:
    """Those of some processes that still run after so many seconds."""
    _, rest = psutil.wait_procs(processes, timeout=seconds)
    return [one for one in rest if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def trained_alone(trials: list[TrialConfig]) -> dict[str, dict[str, float]]:
    """The scores of the trials, each configuration's seeds packed as the sweep packs them, in this process."""
    setting = bad_medical_advice()
    base = load_base(setting.base_model)
    scores = {}
    for members in pack_trials(trials, size=2):
        pack = Pack(base, setting, members, references=ReferenceCache(cache_root() / "references"))
        pack.advance(pack.steps)
        for index, found in pack.evaluate().items():
            scores[members[index].trial_id] = {name: score.mean for name, score in found.scores.items()}
        pack.detach()
    return scores


def finish_here(sweep: Sweep, folder: Path) -> list[str]:
    """Run what is left of a sweep without Ray, in this process: one start of Ray less. The notes of its packs."""
    notes = []
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        scheduler = PackScheduler(sweep, ledger, folder)
        searcher = PackSearcher(scheduler)
        fixed = to_config(worker_config(sweep, folder))
        while isinstance(config := searcher.suggest("here"), dict):
            actor, done = PackTrainable(fixed | config), False
            while not done:
                result = actor.step()
                report = PackReport.from_result(result)
                assert report is not None
                notes.append(report.note)
                searcher.on_trial_result("here", result)
                done = result["done"]
            actor.cleanup()
            searcher.on_trial_complete("here")
        assert scheduler.problem is None
    return notes


@pytest.mark.timeout(400)
def test_interrupted_and_killed_it_ends_as_if_nothing_had_happened(tmp_path: Path, empty_store: Path) -> None:
    """A killed worker, a killed driver, Ctrl-C, the rest: every trial once, bit for bit as trained from scratch."""
    load_base(bad_medical_advice().base_model)  # so that no time limit includes pre-training
    sweep, output = write_sweep(tmp_path, steps=90, configurations=1), copy_store(empty_store, tmp_path / "output")

    process = start(sweep, output)
    wait_for(lambda: checkpoints(output))
    workers(session_of(process))[0].kill()
    wait_for(lambda: num_outcomes(output) >= 2)
    moment = time.time_ns()  # a pack that has ended writes no checkpoint any more, and leaves its last for a moment
    wait_for(lambda: written_since(moment, output))
    others = session_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=90)
    assert not alive(workers(others))
    early = num_outcomes(output)
    assert early < 4 and checkpoints(output), "what was under way keeps its state"

    write_sweep(tmp_path, steps=90, configurations=1, cpus_per_pack=ONE_AT_A_TIME)  # how it is run is no part of it
    process = start(sweep, output, "resume")
    read_until("continued after", process)  # the first pack starts from a checkpoint
    others += session_of(process)
    os.kill(process.pid, signal.SIGINT)
    shown = finish(process, code=130)
    assert f"continue with: selgen sweep resume {sweep}" in shown

    finish_here(load_sweep(sweep), output / "small")
    assert num_outcomes(output) == 4
    outcomes = read(output / "small").outcomes
    found = {trial: {name: m.mean for name, m in outcome.scores.items()} for trial, outcome in outcomes.items()}
    assert found == trained_alone([outcome.trial for outcome in outcomes.values()])

    for command in ("resume", "run"):
        began = time.monotonic()
        assert "starting Ray" not in finish(start(sweep, output, command))
    assert time.monotonic() - began < 30
    assert num_outcomes(output) == 4
    loaded = mlflow_runs.load("small", default_uri(output))
    assert loaded.table.values_CSM.shape == (2, 2, 2)
    assert loaded.counts["finished"] == sum(loaded.counts.values()) == 4
    assert not [*output.rglob("*.partial"), *checkpoints(output)]
    assert not alive(others, seconds=60)  # Ray's agents talk to a dead head for a minute
