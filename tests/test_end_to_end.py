"""The main job as a user runs it: Ctrl-C or a kill loses nothing, and what is finished is not repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from analysis import runs
from settings.bad_medical_advice import bad_medical_advice
from sweeps import packing
from sweeps.ledger import LEDGER, read
from sweeps.tracking import default_uri
from trainables.base_models import load_base
from trainables.pack import Pack
from trainables.trial import TrialConfig

pytestmark = pytest.mark.slow

SWEEP = """
from sweeps.space import between, vary
from sweeps.sweep import Sweep, setting

sweep = Sweep(
    name="small",
    settings=(setting("bad_medical_advice", scale="nano"),),
    methods=("plain", vary("kl_penalty", beta=between(0.1, 10))),
    configurations=4,
    seeds=2,
    options={{"steps": {steps}}},
    controls=False,
)
"""


def start(sweep: Path, output: Path, command: str = "run") -> subprocess.Popen[str]:
    """`selgen sweep ...` in a process group of its own."""
    line = [sys.executable, "-m", "sweeps.cli", "sweep", command, str(sweep), "--output", str(output)]
    return subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def finish(process: subprocess.Popen[str], code: int = 0, seconds: float = 200) -> str:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, out + err
    assert "Traceback" not in out + err
    return out


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)


def num_outcomes(output: Path) -> int:
    ledger = output / "small" / LEDGER
    return ledger.read_text().count('"event":"outcome"') if ledger.exists() else 0


def trained_alone(trials: list[TrialConfig]) -> dict[str, dict[str, float]]:
    """The scores of the trials, each configuration's seeds packed as the sweep packs them, in this process."""
    setting = bad_medical_advice()
    base = load_base(setting.base_model)
    scores = {}
    for members in packing.deal(size=2)(trials):
        pack = Pack(base, setting, members)
        pack.advance(pack.steps)
        for index, found in pack.evaluate().items():
            scores[members[index].trial_id] = {name: score.mean for name, score in found.scores.items()}
        pack.close()
    return scores


@pytest.mark.timeout(400)
def test_interrupted_and_killed_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Ctrl-C, then a kill, then the end: every trial once, with the scores of a training from scratch, bit for bit."""
    load_base(bad_medical_advice().base_model)  # so that no time limit includes pre-training
    sweep, output = tmp_path / "small.py", tmp_path / "output"
    sweep.write_text(SWEEP.format(steps=20))

    process = start(sweep, output)
    wait_for(lambda: num_outcomes(output) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGINT)
    message = finish(process, code=130)
    assert f"continue with: selgen sweep resume {sweep}" in message
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    early = num_outcomes(output)
    assert early < 10

    process = start(sweep, output, "resume")
    wait_for(lambda: num_outcomes(output) > early)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert num_outcomes(output) < 10

    finish(start(sweep, output, "resume"))
    assert num_outcomes(output) == 10
    outcomes = read(output / "small").outcomes
    found = {trial: {name: m.mean for name, m in outcome.scores.items()} for trial, outcome in outcomes.items()}
    assert found == trained_alone([outcome.trial for outcome in outcomes.values()])
    table = runs.load("small", default_uri(output)).table
    assert table.values_CSM.shape == (5, 2, 2)
    assert not table.num_excluded().get("failed")

    began = time.monotonic()
    again = finish(start(sweep, output))
    assert time.monotonic() - began < 30
    assert "starting Ray" not in again
    assert num_outcomes(output) == 10
