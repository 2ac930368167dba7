"""Trials that others build on: trained first, once, and again when they failed."""

import random
from pathlib import Path

from sweeps.ledger import Ledger
from sweeps.search.scheduler import NoJob, PackScheduler
from sweeps.space import grid
from sweeps.sweep import Execution, Sweep
from tests.support.fakes import Ending, Rig, finished, toy_sweep
from tests.support.search import assert_mirrored, builders
from trainables.messages import TrainPack
from trainables.outcome import Outcome
from trainables.trial import TrialConfig


def scored(tmp_path: Path, sweep: Sweep) -> Ledger:
    """Open a ledger that has the base model's scores, so that only training is left."""
    ledger = Ledger(tmp_path / "runs", sweep.name, sweep.identity())
    ledger.record_base_scores(sweep.cases[0].label, {})
    return ledger


def next_pack(scheduler: PackScheduler, name: str) -> list[TrialConfig]:
    """Take the trials of the next pack; none when the scheduler waits or has no more."""
    job = scheduler.next_job(name)
    return list(job.trials) if isinstance(job, TrainPack) else []


def run_all(scheduler: PackScheduler, ending: Ending = finished) -> list[list[TrialConfig]]:
    """Run packs one after another."""
    packs: list[list[TrialConfig]] = []
    while pack := next_pack(scheduler, str(len(packs))):
        scheduler.report(str(len(packs)), outcomes=[ending(trial) for trial in pack])
        scheduler.close(str(len(packs)))
        packs.append(pack)
    return packs


def test_what_others_build_on_is_trained_first_and_once(tmp_path: Path) -> None:
    sweep = builders(tmp_path)
    with scored(tmp_path, sweep) as ledger:
        scheduler = PackScheduler(sweep, ledger, tmp_path / "runs")
        packs = run_all(scheduler)
        assert scheduler.done
        auxiliary = [end.trial for end in ledger.state.outcomes.values() if scheduler.search.is_auxiliary(end.trial)]
    trials = [trial for pack in packs for trial in pack]
    assert len({trial.trial_id for trial in trials}) == len(trials) == 2 * (2 + 2 + 1 + 2)
    assert sorted((trial.method.name, trial.seed) for trial in auxiliary) == [
        ("alignment_only", 0),
        ("alignment_only", 1),
        ("plain", 0),
        ("plain", 1),
    ]
    place = {trial.trial_id: number for number, pack in enumerate(packs) for trial in pack}
    for trial in trials:
        for needed in trial.requires:
            assert place[needed.trial_id] < place[trial.trial_id]


def test_a_trial_waits_while_what_it_builds_on_is_trained(tmp_path: Path) -> None:
    """Nothing else is left to train: the scheduler says to wait, not that it has finished."""
    sweep = toy_sweep(tmp_path, methods=(grid("safe_lora", share=[0.5]),), seeds=1, execution=Execution(pack_size=2))
    with scored(tmp_path, sweep) as ledger:
        scheduler = PackScheduler(sweep, ledger, tmp_path / "runs")
        first = next_pack(scheduler, "a")
        assert {trial.method.name for trial in first} == {"plain", "alignment_only"}
        assert scheduler.next_job("b") is NoJob.WAIT
        scheduler.report("a", outcomes=[finished(trial) for trial in first])
        scheduler.close("a")
        assert [trial.method.name for trial in next_pack(scheduler, "b")] == ["safe_lora"]


def test_a_trial_waits_for_two_priors_and_the_training_that_it_edits(tmp_path: Path) -> None:
    """They are trained once for all configurations, in one pack."""
    methods = (grid("weight_steering", k=[0.5, 1.0]),)
    sweep = toy_sweep(tmp_path, methods=methods, seeds=1, execution=Execution(pack_size=4))
    with scored(tmp_path, sweep) as ledger:
        packs = run_all(PackScheduler(sweep, ledger, tmp_path / "runs"))
    names = [sorted(trial.method.name for trial in pack) for pack in packs]
    assert names == [["alignment_only", "misaligned_only", "plain"], ["weight_steering"] * 2]


def test_blends_of_what_the_sweep_trains_anyway_cost_no_training(tmp_path: Path) -> None:
    """Six blends of three ends: the ends' own trials and no other train, and packs are full.

    A blend with an end that the sweep does not have trains that end alone.
    """
    ends = (grid("plain"), grid("kl_penalty", beta=[0.1, 10.0]))
    pairs = [("plain", "kl_penalty beta=10"), ("kl_penalty beta=0.10", "kl_penalty  beta=10.0")]
    blends = tuple(grid("blend", first=first, second=second, w=[0.25, 0.5, 0.75]) for first, second in pairs)
    extra = grid("blend", first="plain", second="alignment_only", w=[0.5])
    for methods, trained, read in ((ends, 3, 0), ((*ends, *blends), 3, 6), ((*ends, *blends, extra), 4, 7)):
        sweep = toy_sweep(tmp_path, methods=methods, seeds=2, execution=Execution(pack_size=8))
        with scored(tmp_path / str(len(methods)), sweep) as ledger:
            packs = run_all(PackScheduler(sweep, ledger, tmp_path / "runs"))
        trials = [trial for pack in packs for trial in pack if not trial.is_readout]
        assert len(trials) == 2 * trained
        assert sum(map(len, packs)) - len(trials) == 2 * read
        assert read != 6 or [len(pack) for pack in packs] == [6, 8, 4]


def test_what_builds_on_an_invalid_training_is_invalid_and_says_why(tmp_path: Path) -> None:
    def ending(trial: TrialConfig) -> Outcome:
        return finished(trial, "invalid" if trial.method.name == "alignment_only" and trial.seed == 1 else "finished")

    sweep = toy_sweep(tmp_path, methods=("orthogonal_lora",), configurations=2)
    with scored(tmp_path, sweep) as ledger:
        scheduler = PackScheduler(sweep, ledger, tmp_path / "runs")
        run_all(scheduler, ending)
        assert scheduler.done
        ends = [end for end in ledger.state.outcomes.values() if end.trial.method.name == "orthogonal_lora"]
    assert sorted((end.trial.seed, end.status) for end in ends) == [(0, "finished")] * 2 + [(1, "invalid")] * 2
    reasons = {end.reason for end in ends if end.status == "invalid"}
    assert reasons == {"the alignment_only training that it builds on is invalid: a test wants it"}


def test_resumed_after_the_priors_they_are_not_trained_again(tmp_path: Path) -> None:
    sweep = builders(tmp_path)
    with scored(tmp_path, sweep) as ledger:
        first = next_pack(PackScheduler(sweep, ledger, tmp_path / "runs"), "a")
        for trial in first:
            ledger.record_outcome(finished(trial))
    with Ledger(tmp_path / "runs", sweep.name, sweep.identity()) as ledger:
        rest = [trial for pack in run_all(PackScheduler(sweep, ledger, tmp_path / "runs")) for trial in pack]
    assert not {trial.trial_id for trial in first} & {trial.trial_id for trial in rest}
    assert len(first) + len(rest) == 14


def test_checkpoints_that_the_sweep_wants_are_asked_of_the_trainings(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain", grid("plain", checkpoint_step=[2, 4, 5])))
    with scored(tmp_path, sweep) as ledger:
        job = PackScheduler(sweep, ledger, tmp_path / "runs").next_job("a")
    assert isinstance(job, TrainPack)
    assert job.snapshots == (2, 4, 5)


def test_failed_trials_that_are_to_be_retried_are_trained_again_with_those_that_build_on_them(tmp_path: Path) -> None:
    sweep, failing = builders(tmp_path), {"plain"}

    def ending(trial: TrialConfig) -> Outcome:
        return finished(trial, "failed" if trial.method.name in failing else "finished")

    rig = Rig(sweep, tmp_path / "out")
    assert rig.run(random.Random(0), ending)
    failed = set(rig.ledger.state.failed)
    assert {rig.ledger.state.outcomes[trial_id].trial.method.name for trial_id in failed} > {"plain"}
    rig.kill()

    failing.clear()
    again = Rig(sweep, tmp_path / "out")
    again.ledger.retry(again.ledger.state.failed)
    again.kill()
    again = Rig(sweep, tmp_path / "out")
    assert again.run(random.Random(0), ending)
    assert {trial.trial_id for pack in again.dispatched for trial in pack} >= failed
    assert again.ledger.state.failed == []
    assert_mirrored(again)
