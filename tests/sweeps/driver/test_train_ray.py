"""A sweep whose packs are trained by two workers through Ray Train, one of which is killed on the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from settings.bad_medical_advice import nano as bad_medical_advice
from sweeps.ledger import read
from tests.test_end_to_end import finish, num_outcomes, start, trained_alone, wait_for, write_sweep
from trainables.bases.load_base import load_base

pytestmark = pytest.mark.study  # Ray Train takes half a minute to the first step of each pack


def train_workers(driver: int) -> list[psutil.Process]:
    """Return the processes of Ray Train's workers below a driver."""
    workers = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                workers.append(process)
        except psutil.Error:
            continue
    return workers


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sharded", [False, True])
def test_it_ends_as_if_one_had_trained_and_none_had_died(tmp_path: Path, sharded: bool) -> None:
    load_base(bad_medical_advice().base_model)
    output = tmp_path / "output"
    sweep = write_sweep(tmp_path, 48, 1, cpus_per_pack=2, num_workers=2, shard_base=sharded)
    process = start(sweep, output)
    wait_for(lambda: num_outcomes(output) >= 1, seconds=300)
    wait_for(lambda: len(train_workers(process.pid)) == 2, seconds=120)
    os.kill(train_workers(process.pid)[0].pid, signal.SIGKILL)
    finish(process, seconds=500)
    outcomes = read(output / "small").outcomes
    assert len(outcomes) == 4
    alone = trained_alone([outcome.trial for outcome in outcomes.values()])
    for trial_id, outcome in outcomes.items():
        assert outcome.status == "finished"
        assert {name: score.mean for name, score in outcome.scores.items()} == pytest.approx(alone[trial_id], abs=1e-6)
    assert not list((output / "small").rglob("*.partial"))
