"""Packs: every trial once, the same trials whatever happens, and the ledger before anyone hears of it."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from settings.setting import Measurement
from sweeps.ledger import Fit, read
from sweeps.search.scheduler import NoJob
from sweeps.space import grid, vary
from sweeps.sweep import Execution, Search
from tests.support.fakes import Rig, finished, toy_sweep
from tests.support.search import assert_mirrored
from trainables.folder import SweepFolder
from trainables.messages import ScoreBase
from trainables.outcome import Cost, Outcome
from trainables.trial import pack_id


def test_every_trial_once_and_the_base_first(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=("plain", "kl_penalty", grid("upweighted", weight=[1, 2]))), tmp_path / "out")
    assert isinstance(rig.next_job(), ScoreBase)
    assert rig.run(random.Random(0))
    dispatched = [trial.trial_id for pack in rig.dispatched for trial in pack]
    assert len(dispatched) == len(set(dispatched)) == (1 + 6 + 2) * 2
    assert set(rig.ledger.state.outcomes) == set(dispatched) and rig.bases == 1
    assert all(len({trial.configuration_id for trial in pack}) == 1 for pack in rig.dispatched)
    assert_mirrored(rig)
    names = [pack[0].method.name for pack in rig.dispatched[:4]]
    assert set(names) == {"plain", "kl_penalty", "upweighted"}, "arms take turns"


def test_two_runs_propose_the_same_trials(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, configurations=9)
    runs = []
    for seed in range(3):
        rig = Rig(sweep, tmp_path / f"out{seed}")
        assert rig.run(random.Random(seed), workers=1 + seed)
        runs.append({trial.trial_id for pack in rig.dispatched for trial in pack})
    assert runs[0] == runs[1] == runs[2] and len(runs[0]) == 20


def test_resumed_anywhere_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, configurations=7, seeds=2)
    whole = Rig(sweep, tmp_path / "whole")
    whole.run(random.Random(0))
    for packs in (0, 1, 3, 6, 8):
        out = tmp_path / f"out{packs}"
        first = Rig(sweep, out)
        first.run(random.Random(packs), packs=packs)
        done = set(first.ledger.state.outcomes)
        first.kill()
        second = Rig(sweep, out)
        assert_mirrored(second)
        assert second.run(random.Random(packs + 1))
        again = {trial.trial_id for pack in second.dispatched for trial in pack}
        assert not again & done, "finished trials ran twice"
        assert second.ledger.state.outcomes.keys() == whole.ledger.state.outcomes.keys()
        assert_mirrored(second)


def test_a_pack_of_which_a_part_is_known_is_trained_again_as_it_was(tmp_path: Path) -> None:
    """Its checkpoint holds all members, and the last bits of a result depend on the other members."""
    sweep = toy_sweep(tmp_path, methods=("plain",), seeds=3)
    rig = Rig(sweep, tmp_path / "out")
    rig.next_job(), rig.next_job()
    rig.scheduler.report("t2", outcomes=[finished(rig.dispatched[0][1])])
    rig.kill()
    before = read(tmp_path / "out").outcomes
    again = Rig(sweep, tmp_path / "out")
    again.run(random.Random(0), ending=lambda trial: replace(finished(trial), cost=Cost(seconds=9.0)))
    assert [[trial.seed for trial in pack] for pack in again.dispatched] == [[0, 1, 2]]
    assert again.bases == 1, "the base was not scored yet"
    ends = again.ledger.state.outcomes
    assert [end.cost.seconds for end in ends.values()] == [0.5, 9.0, 9.0] and before.items() <= ends.items()


def test_a_pack_that_is_too_large_now_is_packed_anew(tmp_path: Path) -> None:
    """It stays small when packs may be large again: its checkpoint is the newest."""
    sweep = toy_sweep(tmp_path, methods=("plain",), seeds=4)
    for pack_size, expected in ((None, [[0, 1, 2, 3]]), (2, [[0, 1], [2, 3]]), (None, [[0, 1], [2, 3]])):
        rig = Rig(replace(sweep, execution=Execution(pack_size=pack_size)), tmp_path / "out")
        for _ in range(3):
            rig.next_job()
        assert [[trial.seed for trial in pack] for pack in rig.dispatched] == expected
        rig.kill()


def test_packs_under_way_are_trained_again_as_they_were(tmp_path: Path) -> None:
    """Packed anew, trials that were asked for at different times would be joined."""
    methods = ("plain", grid("upweighted", weight=[1, 2]), grid("kl_penalty", beta=[1, 2]))
    sweep = toy_sweep(tmp_path, methods=methods, seeds=1, execution=Execution(pack_size=2), search=Search(round_size=1))
    rig = Rig(sweep, tmp_path / "out")
    for _ in range(3):
        rig.next_job()
    first = rig.dispatched[0]
    rig.scheduler.report("t2", outcomes=[finished(trial) for trial in first])
    rig.next_job()
    assert [len(pack) for pack in rig.dispatched] == [2, 1, 1]
    rig.kill()
    again = Rig(sweep, tmp_path / "out")
    for _ in range(3):
        again.next_job()
    assert again.dispatched[:2] == rig.dispatched[1:]


def test_a_checkpoint_is_there_until_all_its_outcomes_are(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain",))
    rig = Rig(sweep, tmp_path / "out")
    rig.next_job(), rig.next_job()
    checkpoint = SweepFolder(tmp_path / "out").checkpoint(pack_id(rig.dispatched[0]))
    checkpoint.parent.mkdir()
    checkpoint.touch()
    for trial, there in zip(rig.dispatched[0], (True, False), strict=True):
        rig.scheduler.report("t2", outcomes=[finished(trial)])
        assert checkpoint.exists() == there


def test_a_finished_sweep_is_finished_and_more_seeds_extend_it(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    rig = Rig(sweep, tmp_path / "out")
    rig.run(random.Random(0))
    rig.kill()
    again = Rig(sweep, tmp_path / "out")
    assert again.next_job() is NoJob.FINISHED
    again.kill()
    more = Rig(replace(sweep, seeds=3, configurations=8), tmp_path / "out")
    assert more.run(random.Random(0))
    dispatched = [trial for pack in more.dispatched for trial in pack]
    assert sum(trial.seed == 2 for trial in dispatched) == 9 and len(dispatched) == 7 + 2 * 3
    assert_mirrored(more)


def test_done_tells_whether_a_cluster_is_needed(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")
    assert not rig.scheduler.done
    rig.run(random.Random(0), packs=6)
    assert not rig.scheduler.done
    rig.run(random.Random(0))
    assert rig.scheduler.done
    rig.kill()
    again = Rig(rig.sweep, tmp_path / "out")
    assert again.scheduler.done
    again.kill()
    assert not Rig(replace(rig.sweep, seeds=3), tmp_path / "out").scheduler.done


def test_suggest_waits_and_goes_on(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=("kl_penalty",)), tmp_path / "out")
    for _ in range(3):
        assert not isinstance(rig.next_job(), NoJob)
    assert rig.next_job() is NoJob.WAIT and rig.next_job() is NoJob.WAIT
    while rig.in_flight:
        rig.finish_pack(random.Random(0), finished)
    assert not isinstance(rig.next_job(), NoJob)


def test_two_arms_with_the_same_trial_train_it_once(tmp_path: Path) -> None:
    methods = (vary("kl_penalty", configurations=2), grid("kl_penalty", beta=[1, 7]), vary("kl_penalty", beta=1))
    rig = Rig(toy_sweep(tmp_path, methods=methods), tmp_path / "out")
    assert rig.run(random.Random(0))
    dispatched = [trial.trial_id for pack in rig.dispatched for trial in pack]
    assert len(dispatched) == len(set(dispatched)) == 3 * 2
    assert_mirrored(rig)


def test_a_trial_that_another_arm_has_finished_is_told_at_once(tmp_path: Path) -> None:
    methods = (grid("kl_penalty", beta=[7, 1]), grid("kl_penalty", beta=[1, 3]))
    rig = Rig(toy_sweep(tmp_path, methods=methods, search=Search(round_size=1)), tmp_path / "out")
    assert rig.run(random.Random(0), workers=1)
    assert len(rig.dispatched) == 3
    assert_mirrored(rig)


def test_the_ledger_has_it_before_anyone_hears_of_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[str] = []

    class Listener:
        def pack_started(self, trials: Any) -> None:
            seen.append(f"started {len(trials)}")

        def base_scored(self, setting: str, scores: Any) -> None:
            assert read(out).bases[setting] == scores == {"task": Measurement(0.5, 4, 0)}
            seen.append("base")

        def trial_ended(self, outcome: Outcome, auxiliary: bool) -> None:
            assert outcome.trial.trial_id in read(out).outcomes and not auxiliary
            seen.append("outcome")

    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), out, observers=[Listener()])
    rig.run(random.Random(0), workers=1)
    assert seen == ["base", "started 2", "outcome", "outcome"]


def test_packs_are_as_small_as_the_first_start_chose(tmp_path: Path) -> None:
    """Two seeds would make packs of two; memory that held one trial at a time made packs of one, for good."""
    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out")
    rig.ledger.record_fit(Fit(None, 1))
    assert rig.run(random.Random(0))
    assert {len(pack) for pack in rig.dispatched} == {1}
