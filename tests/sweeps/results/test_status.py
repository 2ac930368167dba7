"""The progress of a sweep: what counts, and what does not any more."""

from __future__ import annotations

import random
from pathlib import Path

from sweeps.description import describe
from sweeps.results.status import status
from tests.support.fakes import Rig, toy_sweep


def test_trials_of_seeds_that_the_sweep_no_longer_has_do_not_count(tmp_path: Path) -> None:
    """Three seeds of plain and six penalties ended; now there are two seeds, and two more penalties to come."""
    rig = Rig(toy_sweep(tmp_path, seeds=3), tmp_path / "toy-sweep")
    rig.run(random.Random(0))
    rig.ledger.close()
    describe(toy_sweep(tmp_path, seeds=2, configurations=8)).write(rig.out)
    found = status("toy-sweep", tmp_path)
    plain, penalty = found["arms"]
    assert (plain["trials"], plain["finished"], plain["left"]) == (2, 2, 0)
    assert (penalty["trials"], penalty["finished"], penalty["left"]) == (16, 12, 4)
    assert found["state"] == "stopped"
