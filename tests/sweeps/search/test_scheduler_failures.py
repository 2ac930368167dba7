"""What the scheduler does with packs that die, run out of memory or end without results, and when the disk is full."""

import random
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from sweeps.search.scheduler import NoJob
from sweeps.space import grid
from sweeps.sweep import Execution
from tests.support.fakes import Recorder, Rig, finished, toy_sweep
from tests.support.search import assert_mirrored
from trainables.messages import ScoreBase
from trainables.outcome import Outcome


@pytest.mark.parametrize("how", ["reported", "killed"])
def test_a_pack_that_is_out_of_memory_is_trained_in_halves(tmp_path: Path, how: str) -> None:
    """Four trials do not fit, two do. Later packs are that small from the start, and every trial ends once."""
    rig = Rig(
        toy_sweep(
            tmp_path, methods=(grid("kl_penalty", beta=[0.1, 1.0, 10.0, 0.3]),), execution=Execution(pack_size=4)
        ),
        tmp_path,
    )
    rig.score_base()
    rig.next_job()
    (first,) = rig.dispatched
    assert len(first) == 4
    if how == "reported":
        rig.scheduler.halve("t2", "CUDA out of memory")
    else:
        rig.scheduler.fail("t2", "ray.exceptions.OutOfMemoryError: Task was killed")
    rig.scheduler.close("t2")
    rig.in_flight.clear()
    assert rig.run(random.Random(0))
    assert [len(pack) for pack in rig.dispatched] == [4, 2, 2, 2, 2]
    assert [trial.trial_id for pack in rig.dispatched[1:3] for trial in pack] == [trial.trial_id for trial in first]
    assert {outcome.status for outcome in rig.ledger.state.outcomes.values()} == {"finished"}
    assert len(rig.ledger.state.outcomes) == 8
    assert any("a pack of 4 trials ran out of memory" in note for note in rig.scheduler.notes)


def test_after_a_restart_the_halves_are_trained_and_not_the_whole(tmp_path: Path) -> None:
    """Halves in training have checkpoints, and the whole pack would run out of memory again."""
    sweep = toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[0.1, 1.0]),), execution=Execution(pack_size=4))
    rig = Rig(sweep, tmp_path / "out")
    rig.score_base()
    rig.next_job()
    rig.scheduler.halve("t2", "no memory left")
    rig.scheduler.close("t2")
    rig.next_job(), rig.next_job()
    rig.kill()
    again = Rig(sweep, tmp_path / "out")
    assert again.run(random.Random(0))
    assert again.dispatched == rig.dispatched[1:]
    assert [len(pack) for pack in again.dispatched] == [2, 2]


def test_a_trial_that_does_not_fit_alone_has_failed(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[1.0]),), seeds=1), tmp_path)
    rig.score_base()
    rig.next_job()
    rig.scheduler.halve("t2", "CUDA out of memory")
    (outcome,) = rig.ledger.state.outcomes.values()
    assert outcome.status == "failed"
    assert "out of memory even on its own; try rows_per_forward=1" in str(outcome.reason)


def test_halves_are_trained_although_nothing_else_is_left(tmp_path: Path) -> None:
    """The last pack is in flight and Tune asks for more: after FINISHED it would not ask again."""
    rig = Rig(toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[1.0]),)), tmp_path)
    rig.score_base()
    rig.next_job()
    assert rig.next_job() is NoJob.WAIT
    rig.scheduler.halve("t2", "no memory left")
    rig.scheduler.close("t2")
    rig.in_flight.clear()
    assert rig.run(random.Random(0))
    assert [len(pack) for pack in rig.dispatched] == [2, 1, 1]


def test_a_base_that_cannot_be_scored_is_noted_and_tried_again(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out")
    rig.next_job(), rig.next_job()
    rig.scheduler.fail("t1", "t1 had a bad day")
    assert rig.scheduler.notes == ["toy: no score of the base model (t1 had a bad day); the next start tries again"]
    rig.scheduler.fail("t2", "t2 had a bad day")
    assert {outcome.reason for outcome in rig.ledger.state.outcomes.values()} == {"t2 had a bad day"}
    rig.kill()
    assert isinstance(Rig(rig.sweep, tmp_path / "out").next_job(), ScoreBase)


def test_a_base_that_does_not_fit_the_memory_has_no_score(tmp_path: Path) -> None:
    """An empty score would count for good. Tune passes the last result on twice."""
    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out")
    rig.next_job()
    for _ in range(2):
        rig.scheduler.halve("t1", "no memory left")
    rig.scheduler.close("t1")
    assert not rig.ledger.state.bases
    assert [note for note in rig.scheduler.notes if "no score of the base model" in note] == rig.scheduler.notes
    assert len(rig.scheduler.notes) == 1
    rig.kill()
    again = Rig(rig.sweep, tmp_path / "out")
    assert again.run(random.Random(0)) and again.ledger.state.bases


def test_a_dead_worker_fails_its_unfinished_trials(tmp_path: Path) -> None:
    recorder = Recorder()
    sweep = toy_sweep(tmp_path, methods=("plain",), seeds=3)
    rig = Rig(sweep, tmp_path / "out", observers=[recorder])
    rig.next_job(), rig.next_job()
    rig.scheduler.report("t2", outcomes=[finished(rig.dispatched[0][0])])
    rig.scheduler.fail("t2", "the worker died")
    rig.scheduler.close("t2")
    assert [outcome.status for outcome in rig.ledger.state.outcomes.values()] == ["finished", "failed", "failed"]
    assert recorder.ended == list(rig.ledger.state.outcomes.values())
    assert recorder.ended[1].reason and "died" in recorder.ended[1].reason
    assert rig.next_job() is NoJob.FINISHED
    assert_mirrored(rig)


def test_a_pack_that_ends_without_outcomes_neither_hangs_nor_counts(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    sweep = toy_sweep(tmp_path, methods=("kl_penalty",))
    rig = Rig(sweep, tmp_path / "out")
    rig.next_job(), rig.next_job(), rig.next_job()
    assert rig.next_job() is NoJob.WAIT
    rig.scheduler.report("t1", base={})
    for name in ("t1", "t2", "t3"):
        rig.scheduler.close(name)
    assert rig.next_job() is NoJob.FINISHED
    assert not rig.ledger.state.outcomes and "the next start runs them" in caplog.text


def test_a_ledger_that_cannot_be_written_ends_the_search(tmp_path: Path, monkeypatch: Any) -> None:
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")
    rig.next_job(), rig.next_job()

    def full(outcome: Outcome) -> bool:
        raise UserError("ledger.jsonl: No space left on device")

    monkeypatch.setattr(rig.ledger, "record_outcome", full)
    rig.scheduler.report("t2", outcomes=[finished(rig.dispatched[0][0])])
    assert str(rig.scheduler.problem) == "ledger.jsonl: No space left on device"
    assert rig.next_job() is NoJob.FINISHED


def test_a_ledger_that_cannot_be_written_asks_for_nothing_more(tmp_path: Path, monkeypatch: Any) -> None:
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")

    def full(*_: Any) -> None:
        raise UserError("ledger.jsonl: No space left on device")

    monkeypatch.setattr(rig.ledger, "record_configuration", full)
    assert isinstance(rig.next_job(), ScoreBase)
    assert rig.next_job() is NoJob.FINISHED
    assert str(rig.scheduler.problem) == "ledger.jsonl: No space left on device"
