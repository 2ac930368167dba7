"""The studies on disk follow the ledger, whatever was killed or damaged."""

import os
import random
import time
from pathlib import Path

import optuna
import pytest

from settings.common.errors import UserError
from sweeps.search.distributions import distributions_of
from sweeps.search.proposer import Proposer
from sweeps.search.scheduler import NoJob
from sweeps.search.study import StudyMirror
from tests.support.fakes import Rig, finished, toy, toy_sweep
from tests.support.search import assert_mirrored, proposer_of, storage_of, study_of
from trainables.folder import SweepFolder


def test_minimised_objectives_keep_their_sign(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, settings=(toy(tmp_path, upside_down=True),), methods=("kl_penalty",))
    rig = Rig(sweep, tmp_path / "out")
    rig.run(random.Random(0))
    study = study_of(rig.out, f"{sweep.name}/{sweep.arms[0].key}")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    best = max(study.get_trials(), key=lambda trial: trial.values[0])
    trials = sweep.trials_of(sweep.arms[0], best.params)
    assert best.values[1] == pytest.approx(sum(finished(trial).scores["alignment"].mean for trial in trials) / 2)


def test_other_directions_are_refused(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    StudyMirror(tmp_path / "out", sweep.name).open(proposer_of(sweep))
    turned = proposer_of(sweep)
    turned.directions = ("maximize", "minimize")
    with pytest.raises(UserError, match=r"directions maximize, maximize, but the sweep wants maximize, minimize"):
        StudyMirror(tmp_path / "out", sweep.name).open(turned)


@pytest.mark.parametrize("damage", ["zombie", "missing", "extra", "changed", "torn", "garbage", "gone"])
def test_a_study_that_disagrees_is_replaced(tmp_path: Path, damage: str) -> None:
    sweep = toy_sweep(tmp_path, methods=("kl_penalty",))
    rig = Rig(sweep, tmp_path / "out")
    rig.run(random.Random(0), packs=5)
    rig.kill()
    path, name = SweepFolder(tmp_path / "out").study, f"{sweep.name}/{sweep.arms[0].key}"
    study, storage = study_of(rig.out, name), storage_of(rig.out)
    if damage == "zombie":
        study.ask(distributions_of(sweep.arms[0].space))
    elif damage == "missing":
        optuna.delete_study(study_name=name, storage=storage)
    elif damage == "extra":
        study.add_trial(study.get_trials()[0])
    elif damage == "changed":
        study_id = storage.get_study_id_from_name(name)
        newest = storage.get_trial_id_from_study_id_trial_number(study_id, len(study.get_trials()) - 1)
        storage.set_trial_user_attr(newest, "values", {"beta": 4.0})
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "garbage":
        path.write_bytes(b"garbage\n" + path.read_bytes())
    else:
        path.unlink()
    again = Rig(sweep, tmp_path / "out")
    assert_mirrored(again)
    assert again.run(random.Random(1))
    assert_mirrored(again)


def test_a_study_that_agrees_is_kept(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")
    rig.run(random.Random(0))
    rig.kill()
    before = SweepFolder(tmp_path / "out").study.read_bytes()
    Rig(rig.sweep, tmp_path / "out").kill()
    assert SweepFolder(tmp_path / "out").study.read_bytes() == before


def test_a_dead_drivers_journal_lock_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    study = SweepFolder(tmp_path / "out").study
    Path(f"{study}.lock").symlink_to(study)
    began = time.monotonic()
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")
    assert not isinstance(rig.next_job(), NoJob)
    assert time.monotonic() - began < 20, "Optuna waits 30 seconds for such a lock"


@pytest.mark.parametrize("event", ["add", "tell"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("count", [1, 4])
def test_killed_between_ledger_and_study(tmp_path: Path, event: str, moment: str, count: int) -> None:
    sweep = toy_sweep(tmp_path)
    whole = Rig(sweep, tmp_path / "whole")
    whole.run(random.Random(0))
    child = os.fork()
    if child == 0:
        original, calls = getattr(StudyMirror, event), [0]

        def dies(self: StudyMirror, proposer: Proposer, number: int) -> None:
            calls[0] += 1
            if calls[0] == count and moment == "before":
                os._exit(9)
            original(self, proposer, number)
            if calls[0] == count:
                os._exit(9)

        setattr(StudyMirror, event, dies)
        Rig(sweep, tmp_path / "out").run(random.Random(0))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    rig = Rig(sweep, tmp_path / "out")
    assert_mirrored(rig)
    done = set(rig.ledger.state.outcomes)
    assert rig.run(random.Random(1))
    assert not done & {trial.trial_id for pack in rig.dispatched for trial in pack}
    assert rig.ledger.state.outcomes.keys() == whole.ledger.state.outcomes.keys()
