"""The search: the same proposals whatever happens, every trial once, and a study that follows the ledger."""

import logging
import os
import random
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from settings.common.errors import UserError
from settings.reference import setting_label
from settings.setting import Measurement
from sweeps.ledger import Ledger, read
from sweeps.names import JOURNAL
from sweeps.search.scheduler import Listener, PackSearcher, Proposer, StudyMirror, summarize_seeds
from sweeps.space import between, grid, vary
from sweeps.sweep import Sweep
from tests.support.fakes import Ending, Rig, finished, toy, toy_sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig, checkpoint_of


def proposer_of(sweep: Sweep, arm: int = 1) -> Proposer:
    return Proposer(sweep.arms[arm], sweep.objectives_of(sweep.settings[0]), sweep.seed, sweep.round_size)


def explore(sweep: Sweep, rng: random.Random, ending: Ending = finished) -> list[dict[str, Any]]:
    """Run one arm to its end, results arriving in random order, asked for as early as possible."""
    proposer = proposer_of(sweep)
    waiting: list[int] = []
    while True:
        while proposal := proposer.next():
            waiting.append(proposal.number)
        if not waiting:
            return [dict(proposer.asked[number]) for number in range(len(proposer.asked))]
        number = waiting.pop(rng.randrange(len(waiting)))
        proposer.tell(number, [ending(trial) for trial in sweep.trials_of(proposer.arm, proposer.asked[number])])


def test_proposals_do_not_depend_on_the_order_of_results(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, configurations=11, round_size=3)
    runs = [explore(sweep, random.Random(seed)) for seed in range(3)]
    assert all(run == runs[0] for run in runs) and len(runs[0]) == 11


def test_a_result_of_the_same_round_is_not_looked_at(tmp_path: Path) -> None:
    """Told at once or at the end of each round: the same proposals."""
    sweep = toy_sweep(tmp_path, configurations=16, round_size=5)
    eager, lazy = proposer_of(sweep), proposer_of(sweep)
    for number in range(16):
        assert eager.next() == (lazy.next() or _told_and_next(lazy, sweep))
        eager.tell(number, [finished(trial) for trial in sweep.trials_of(eager.arm, eager.asked[number])])


def _told_and_next(proposer: Proposer, sweep: Sweep) -> Any:
    for number, values in proposer.asked.items():
        proposer.tell(number, [finished(trial) for trial in sweep.trials_of(proposer.arm, values)])
    return proposer.next()


def test_later_proposals_follow_the_results(tmp_path: Path) -> None:
    """TPE learns: other results, other proposals; the design at the start does not."""

    def other(trial: TrialConfig) -> Outcome:
        outcome = finished(trial)
        return replace(outcome, scores={**outcome.scores, "alignment": Measurement(trial.coefficients["beta"], 4, 0)})

    sweep = toy_sweep(tmp_path, configurations=10)
    one, two = explore(sweep, random.Random(0)), explore(sweep, random.Random(0), other)
    assert one[:5] == two[:5] and one[6:] != two[6:]


def test_the_seed_changes_the_search_and_a_larger_budget_extends_it(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    runs = [explore(replace(sweep, **change), random.Random(0)) for change in ({}, {"configurations": 9}, {"seed": 1})]  # type: ignore[arg-type]
    assert runs[1][:6] == runs[0] and runs[2][1:] != runs[0][1:]


def test_a_round_waits_for_all_rounds_before_it(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, round_size=2)
    proposer = proposer_of(sweep)
    assert [proposer.next().number for _ in range(2)] == [0, 1]  # type: ignore[union-attr]
    assert proposer.next() is None
    proposer.tell(1, [finished(trial) for trial in sweep.trials_of(proposer.arm, proposer.asked[1])])
    assert proposer.next() is None and not proposer.exhausted
    proposer.tell(0, [finished(trial) for trial in sweep.trials_of(proposer.arm, proposer.asked[0])])
    assert [proposer.next().number for _ in range(2)] == [2, 3]  # type: ignore[union-attr]
    assert proposer.next() is None


def test_the_first_proposal_is_the_default_and_the_start_is_spread(tmp_path: Path) -> None:
    for seed in range(20):
        sweep = toy_sweep(tmp_path, seed=seed)
        assert explore(sweep, random.Random(0))[0] == {"beta": 1.0}
        values = [proposer_of(sweep)._design.values(number) for number in range(5)]
        places = sorted(sweep.arms[1].space.position(value)[0] for value in values)
        assert min(right - left for left, right in pairwise(places)) > 0.06, "near repeats waste a training"
        assert max(right - left for left, right in pairwise([0.0, *places, 1.0])) < 0.36, "a hole"


def test_a_narrowed_range_without_the_default_starts_inside(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain", vary("kl_penalty", beta=between(2, 20))))
    assert all(2 <= value["beta"] <= 20 for value in explore(sweep, random.Random(0)))


def test_failures_alone_leave_the_design_in_charge(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, configurations=8)
    values = explore(sweep, random.Random(0), lambda trial: finished(trial, "invalid"))
    assert values == [proposer_of(sweep)._design.values(number) for number in range(8)]


def test_a_small_space_ends_early_with_a_reason(tmp_path: Path) -> None:
    """Between 1 and 1.02 there are three numbers of three digits."""
    sweep = toy_sweep(tmp_path, methods=("plain", vary("kl_penalty", beta=between(1, 1.02))), round_size=6)
    proposer = proposer_of(sweep)
    asked = [proposal.values["beta"] for proposal in iter(proposer.next, None)]
    assert sorted(asked) == [1.0, 1.01, 1.02]
    assert proposer.exhausted and "3 of 6" in (proposer.ended or "")
    rig = Rig(sweep, tmp_path / "out")
    assert rig.run(random.Random(0))
    assert len(rig.ledger.record.outcomes) == 2 + 3 * 2 and rig.searcher.notes == [proposer.ended]


def test_grids_do_not_search(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain", grid("upweighted", weight=[3, 1, 2])))
    assert explore(sweep, random.Random(0)) == [{"weight": 3.0}, {"weight": 1.0}, {"weight": 2.0}]


@pytest.mark.parametrize(
    ("statuses", "state", "valid"),
    [
        (("finished", "finished", "finished"), TrialState.COMPLETE, 3),
        (("finished", "invalid", "failed"), TrialState.COMPLETE, 1),
        (("finished", "stopped", "stopped"), TrialState.COMPLETE, 1),
        (("invalid", "failed", "invalid"), TrialState.FAIL, 0),
        (("stopped", "failed", "stopped"), TrialState.PRUNED, 0),
    ],
)
def test_what_is_told_of_a_configuration(tmp_path: Path, statuses: Any, state: TrialState, valid: int) -> None:
    sweep = toy_sweep(tmp_path, seeds=3)
    trials = sweep.trials_of(sweep.arms[1], {"beta": 1.0})
    outcomes = [finished(trial, status) for trial, status in zip(trials, statuses, strict=True)]
    told = summarize_seeds(outcomes, ("task", "alignment"))
    assert told.state == state and told.notes["valid_seeds"] == valid
    assert told.notes["statuses"] == dict(zip("012", statuses, strict=True))
    if valid == 0:
        assert told.values is None
    else:
        tasks = [outcome.scores["task"].mean for outcome in outcomes if outcome.status == "finished"]
        assert told.values is not None and told.values[0] == pytest.approx(sum(tasks) / valid)


def test_an_objective_that_could_not_be_graded_is_not_a_value(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    good, bad = map(finished, sweep.trials_of(sweep.arms[1], {"beta": 1.0}))
    bad = replace(bad, scores={**bad.scores, "alignment": Measurement(float("nan"), 0, 4)})
    told = summarize_seeds([good, bad], ("task", "alignment"))
    assert told.values == (good.scores["task"].mean, good.scores["alignment"].mean) and told.notes["valid_seeds"] == 1
    assert summarize_seeds([bad], ("task", "alignment")).state == TrialState.FAIL
    assert summarize_seeds([good], ("task", "speed")).state == TrialState.FAIL


def study_of(out: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(out / JOURNAL))))


def assert_mirrored(rig: Rig) -> None:
    """The studies on disk say what the ledger says."""
    for index, arm in enumerate(rig.sweep.arms):
        proposer = proposer_of(rig.sweep, index)
        for number, asked in sorted(rig.ledger.record.asked.get(arm.key, {}).items()):
            proposer.restore(number, asked.values)
            outcomes = [rig.ledger.record.outcomes.get(t.trial_id) for t in rig.sweep.trials_of(arm, asked.values)]
            if all(outcomes):
                proposer.tell(number, outcomes)  # type: ignore[arg-type]
        found = study_of(rig.out, f"{rig.sweep.name}/{arm.key}").get_trials()
        expected = proposer.trials()
        assert [(t.state, t.values, t.params, t.user_attrs) for t in found] == [
            (t.state, t.values, t.params, t.user_attrs) for t in expected
        ]


def test_every_trial_once_and_the_base_first(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=("plain", "kl_penalty", grid("upweighted", weight=[1, 2]))), tmp_path / "out")
    assert rig.suggest()["pack"]["kind"] == "base"
    assert rig.run(random.Random(0))
    dealt = [trial.trial_id for pack in rig.dealt for trial in pack]
    assert len(dealt) == len(set(dealt)) == (1 + 6 + 2) * 2
    assert set(rig.ledger.record.outcomes) == set(dealt) and rig.bases == 1
    assert all(len({trial.configuration_id for trial in pack}) == 1 for pack in rig.dealt)
    assert_mirrored(rig)
    names = [pack[0].method.name for pack in rig.dealt[:4]]
    assert set(names) == {"plain", "kl_penalty", "upweighted"}, "arms take turns"


def test_two_runs_propose_the_same_trials(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, configurations=9)
    runs = []
    for seed in range(3):
        rig = Rig(sweep, tmp_path / f"out{seed}")
        assert rig.run(random.Random(seed), workers=1 + seed)
        runs.append({trial.trial_id for pack in rig.dealt for trial in pack})
    assert runs[0] == runs[1] == runs[2] and len(runs[0]) == 20


def test_resumed_anywhere_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, configurations=7, seeds=2)
    whole = Rig(sweep, tmp_path / "whole")
    whole.run(random.Random(0))
    for landings in (0, 1, 3, 6, 8):
        out = tmp_path / f"out{landings}"
        first = Rig(sweep, out)
        first.run(random.Random(landings), landings=landings)
        done = set(first.ledger.record.outcomes)
        first.kill()
        second = Rig(sweep, out)
        assert_mirrored(second)
        assert second.run(random.Random(landings + 1))
        again = {trial.trial_id for pack in second.dealt for trial in pack}
        assert not again & done, "finished trials ran twice"
        assert second.ledger.record.outcomes.keys() == whole.ledger.record.outcomes.keys()
        assert_mirrored(second)


def test_a_pack_of_which_a_part_is_known_is_dealt_again_as_it_was(tmp_path: Path) -> None:
    """Its checkpoint is that of all members, and the last bits of a result depend on the company."""
    sweep = toy_sweep(tmp_path, methods=("plain",), seeds=3)
    rig = Rig(sweep, tmp_path / "out")
    rig.suggest(), rig.suggest()
    rig.searcher.on_trial_result("t2", {"outcomes": [finished(rig.dealt[0][1]).to_json()]})
    rig.kill()
    known = read(tmp_path / "out").outcomes
    again = Rig(sweep, tmp_path / "out")
    again.run(random.Random(0), ending=lambda trial: replace(finished(trial), seconds=9.0))
    assert [[trial.seed for trial in pack] for pack in again.dealt] == [[0, 1, 2]]
    assert again.bases == 1, "the base was not scored yet"
    ends = again.ledger.record.outcomes
    assert [end.seconds for end in ends.values()] == [0.5, 9.0, 9.0] and known.items() <= ends.items()


def test_a_pack_that_is_too_large_now_is_dealt_anew(tmp_path: Path) -> None:
    """And stays small, also when packs may be large again: its checkpoint is the newest."""
    sweep = toy_sweep(tmp_path, methods=("plain",), seeds=4)
    for pack_size, expected in ((None, [[0, 1, 2, 3]]), (2, [[0, 1], [2, 3]]), (None, [[0, 1], [2, 3]])):
        rig = Rig(replace(sweep, pack_size=pack_size), tmp_path / "out")
        for _ in range(3):
            rig.suggest()
        assert [[trial.seed for trial in pack] for pack in rig.dealt] == expected
        rig.kill()


def test_packs_under_way_are_dealt_again_as_they_were(tmp_path: Path) -> None:
    """Dealt anew, what was asked for at different times would be joined."""
    methods = ("plain", grid("upweighted", weight=[1, 2]), grid("kl_penalty", beta=[1, 2]))
    sweep = toy_sweep(tmp_path, methods=methods, seeds=1, pack_size=2, round_size=1)
    rig = Rig(sweep, tmp_path / "out")
    for _ in range(3):
        rig.suggest()
    first = rig.dealt[0]
    rig.searcher.on_trial_result("t2", {"outcomes": [finished(trial).to_json() for trial in first]})
    rig.suggest()
    assert [len(pack) for pack in rig.dealt] == [2, 1, 1]
    rig.kill()
    again = Rig(sweep, tmp_path / "out")
    for _ in range(3):
        again.suggest()
    assert again.dealt[:2] == rig.dealt[1:]


def test_a_checkpoint_is_there_until_all_its_outcomes_are(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain",))
    rig = Rig(sweep, tmp_path / "out")
    rig.suggest(), rig.suggest()
    checkpoint = checkpoint_of(tmp_path / "out", rig.dealt[0])
    checkpoint.parent.mkdir()
    checkpoint.touch()
    for trial, there in zip(rig.dealt[0], (True, False), strict=True):
        rig.searcher.on_trial_result("t2", {"outcomes": [finished(trial).to_json()]})
        assert checkpoint.exists() == there


def test_a_finished_sweep_is_finished_and_more_seeds_extend_it(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    rig = Rig(sweep, tmp_path / "out")
    rig.run(random.Random(0))
    rig.kill()
    again = Rig(sweep, tmp_path / "out")
    assert again.suggest() == Searcher.FINISHED
    again.kill()
    more = Rig(replace(sweep, seeds=3, configurations=8), tmp_path / "out")
    assert more.run(random.Random(0))
    dealt = [trial for pack in more.dealt for trial in pack]
    assert sum(trial.seed == 2 for trial in dealt) == 9 and len(dealt) == 7 + 2 * 3
    assert_mirrored(more)


def test_a_dead_worker_fails_its_unfinished_trials(tmp_path: Path) -> None:
    heard: list[Outcome] = []
    sweep = toy_sweep(tmp_path, methods=("plain",), seeds=3)
    rig = Rig(sweep, tmp_path / "out", listener=Listener(outcome=heard.append))
    rig.suggest(), rig.suggest()
    rig.searcher.on_trial_result("t2", {"outcomes": [finished(rig.dealt[0][0]).to_json()]})
    rig.searcher.on_trial_complete("t2", error=True)
    assert [outcome.status for outcome in rig.ledger.record.outcomes.values()] == ["finished", "failed", "failed"]
    assert heard == list(rig.ledger.record.outcomes.values())
    assert heard[1].reason and "died" in heard[1].reason
    assert rig.suggest() == Searcher.FINISHED
    assert_mirrored(rig)


def test_failed_trials_that_are_to_be_retried_are_dealt_again_with_those_that_build_on_them(tmp_path: Path) -> None:
    sweep, failing = builders(tmp_path), {"plain"}

    def ending(trial: TrialConfig) -> Outcome:
        return finished(trial, "failed" if trial.method.name in failing else "finished")

    rig = Rig(sweep, tmp_path / "out")
    assert rig.run(random.Random(0), ending)
    failed = set(rig.ledger.record.failed)
    assert {rig.ledger.record.outcomes[one].trial.method.name for one in failed} > {"plain"}
    rig.kill()

    failing.clear()
    again = Rig(sweep, tmp_path / "out")
    again.ledger.again(again.ledger.record.failed)
    again.kill()
    again = Rig(sweep, tmp_path / "out")
    assert again.run(random.Random(0), ending)
    assert {trial.trial_id for pack in again.dealt for trial in pack} >= failed
    assert again.ledger.record.failed == []
    assert_mirrored(again)


@pytest.mark.parametrize("how", ["reported", "killed"])
def test_a_pack_that_is_out_of_memory_is_dealt_in_halves(tmp_path: Path, how: str) -> None:
    """Four trials at a time do not fit, two do: later packs are as small from the start, and every trial ends once."""
    rig = Rig(toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[0.1, 1.0, 10.0, 0.3]),), pack_size=4), tmp_path)
    rig.suggest()
    rig.searcher.on_trial_complete("t1", result={"base/task/mean": 0.5, "base/task/n": 4, "base/task/missing": 0})
    rig.suggest()
    (first,) = rig.dealt
    assert len(first) == 4
    if how == "reported":
        rig.searcher.on_trial_complete("t2", result={"out_of_memory": "CUDA out of memory", "done": True})
    else:
        rig.searcher.reason = lambda trial_id: "ray.exceptions.OutOfMemoryError: Task was killed"
        rig.searcher.on_trial_complete("t2", error=True)
    rig._flying.clear()
    assert rig.run(random.Random(0))
    assert [len(pack) for pack in rig.dealt] == [4, 2, 2, 2, 2]
    assert [trial.trial_id for pack in rig.dealt[1:3] for trial in pack] == [trial.trial_id for trial in first]
    assert {outcome.status for outcome in rig.ledger.record.outcomes.values()} == {"finished"}
    assert len(rig.ledger.record.outcomes) == 8
    assert any("a pack of 4 trials was out of memory" in note for note in rig.searcher.notes)


def test_after_a_restart_the_halves_are_dealt_and_not_the_whole(tmp_path: Path) -> None:
    """Halves that were under way have checkpoints, and the whole would run out of memory again."""
    sweep = toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[0.1, 1.0]),), pack_size=4)
    rig = Rig(sweep, tmp_path / "out")
    rig.suggest()
    rig.searcher.on_trial_complete("t1", result={"base/task/mean": 0.5, "base/task/n": 4, "base/task/missing": 0})
    rig.suggest()
    rig.searcher.on_trial_complete("t2", result={"out_of_memory": "no memory left", "done": True})
    rig.suggest(), rig.suggest()
    rig.kill()
    again = Rig(sweep, tmp_path / "out")
    assert again.run(random.Random(0))
    assert again.dealt == rig.dealt[1:]
    assert [len(pack) for pack in again.dealt] == [2, 2]


def test_a_trial_that_does_not_fit_alone_has_failed(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[1.0]),), seeds=1), tmp_path)
    rig.suggest()
    rig.searcher.on_trial_complete("t1", result={"base/task/mean": 0.5, "base/task/n": 4, "base/task/missing": 0})
    rig.suggest()
    rig.searcher.on_trial_complete("t2", result={"out_of_memory": "CUDA out of memory", "done": True})
    (outcome,) = rig.ledger.record.outcomes.values()
    assert outcome.status == "failed"
    assert "out of memory alone; try rows_per_forward=1" in str(outcome.reason)


def test_halves_are_dealt_although_nothing_else_is_left(tmp_path: Path) -> None:
    """The last pack is in the air, and Tune asks for more: after FINISHED it would not ask again."""
    rig = Rig(toy_sweep(tmp_path, methods=(grid("kl_penalty", beta=[1.0]),)), tmp_path)
    rig.suggest()
    rig.searcher.on_trial_complete("t1", result={"base/task/mean": 0.5, "base/task/n": 4, "base/task/missing": 0})
    rig.suggest()
    assert rig.suggest() is None
    rig.searcher.on_trial_complete("t2", result={"out_of_memory": "no memory left", "done": True})
    rig._flying.clear()
    assert rig.run(random.Random(0))
    assert [len(pack) for pack in rig.dealt] == [2, 1, 1]


def test_a_base_that_cannot_be_scored_is_noted_and_tried_again(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out")
    rig.searcher.reason = lambda trial_id: f"{trial_id} had a bad day"
    rig.suggest(), rig.suggest()
    rig.searcher.on_trial_complete("t1", error=True)
    assert rig.searcher.notes == ["toy: no score of the base model (t1 had a bad day); the next start tries again"]
    rig.searcher.on_trial_complete("t2", error=True)
    assert {outcome.reason for outcome in rig.ledger.record.outcomes.values()} == {"t2 had a bad day"}
    rig.kill()
    assert Rig(rig.sweep, tmp_path / "out").suggest()["pack"]["kind"] == "base"


def test_a_base_that_does_not_fit_the_memory_has_no_score(tmp_path: Path) -> None:
    """An empty score would count for good; Tune hands the last result in twice."""
    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out")
    rig.suggest()
    result = {"out_of_memory": "no memory left", "done": True}
    rig.searcher.on_trial_result("t1", result)
    rig.searcher.on_trial_complete("t1", result=result)
    assert not rig.ledger.record.bases
    assert [note for note in rig.searcher.notes if "no score of the base model" in note] == rig.searcher.notes
    assert len(rig.searcher.notes) == 1
    rig.kill()
    again = Rig(rig.sweep, tmp_path / "out")
    assert again.run(random.Random(0)) and again.ledger.record.bases


def test_done_tells_whether_a_cluster_is_needed(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")
    assert not rig.searcher.done
    rig.run(random.Random(0), landings=6)
    assert not rig.searcher.done
    rig.run(random.Random(0))
    assert rig.searcher.done
    rig.kill()
    again = Rig(rig.sweep, tmp_path / "out")
    assert again.searcher.done
    again.kill()
    assert not Rig(replace(rig.sweep, seeds=3), tmp_path / "out").searcher.done


def test_a_pack_that_ends_without_outcomes_neither_hangs_nor_counts(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    sweep = toy_sweep(tmp_path, methods=("kl_penalty",))
    rig = Rig(sweep, tmp_path / "out")
    rig.suggest(), rig.suggest(), rig.suggest()
    assert rig.suggest() is None
    for trial_id in ("t1", "t2", "t3"):
        rig.searcher.on_trial_complete(trial_id, result={"done": True})
    assert rig.suggest() == Searcher.FINISHED
    assert not rig.ledger.record.outcomes and "the next start runs them" in caplog.text


def test_suggest_waits_and_goes_on(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=("kl_penalty",)), tmp_path / "out")
    for _ in range(3):
        assert isinstance(rig.suggest(), dict)
    assert rig.suggest() is None and rig.suggest() is None
    while rig._flying:
        rig.land(random.Random(0), finished)
    assert isinstance(rig.suggest(), dict)


def test_two_arms_with_the_same_trial_train_it_once(tmp_path: Path) -> None:
    methods = (vary("kl_penalty", configurations=2), grid("kl_penalty", beta=[1, 7]), vary("kl_penalty", beta=1))
    rig = Rig(toy_sweep(tmp_path, methods=methods), tmp_path / "out")
    assert rig.run(random.Random(0))
    dealt = [trial.trial_id for pack in rig.dealt for trial in pack]
    assert len(dealt) == len(set(dealt)) == 3 * 2
    assert_mirrored(rig)


def test_a_trial_that_another_arm_has_finished_is_told_at_once(tmp_path: Path) -> None:
    methods = (grid("kl_penalty", beta=[7, 1]), grid("kl_penalty", beta=[1, 3]))
    rig = Rig(toy_sweep(tmp_path, methods=methods, round_size=1), tmp_path / "out")
    assert rig.run(random.Random(0), workers=1)
    assert len(rig.dealt) == 3
    assert_mirrored(rig)


def test_the_ledger_has_it_before_anyone_hears_of_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[str] = []

    def outcome(ended: Outcome) -> None:
        assert ended.trial.trial_id in read(out).outcomes
        seen.append("outcome")

    def base(label: str, scores: Any) -> None:
        assert read(out).bases[label] == scores == {"task": Measurement(0.5, 4, 0)}
        seen.append("base")

    def started(trials: Any) -> None:
        seen.append(f"started {len(trials)}")

    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), out, listener=Listener(started, base, outcome))
    rig.run(random.Random(0), workers=1)
    assert seen == ["base", "started 2", "outcome", "outcome"]


def test_nested_base_scores_are_understood_too(tmp_path: Path) -> None:
    rig = Rig(toy_sweep(tmp_path, methods=("plain",)), tmp_path / "out")
    rig.suggest()
    rig.searcher.on_trial_complete("t1", result={"base": {"task": {"mean": 0.25, "n": 4, "missing": 0}}})
    assert rig.ledger.record.bases == {"toy": {"task": Measurement(0.25, 4, 0)}}


def test_a_ledger_that_cannot_be_written_ends_the_search(tmp_path: Path, monkeypatch: Any) -> None:
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")
    rig.suggest(), rig.suggest()

    def full(outcome: Outcome) -> bool:
        raise UserError("ledger.jsonl: No space left on device")

    monkeypatch.setattr(rig.ledger, "outcome", full)
    rig.searcher.on_trial_result("t2", {"outcomes": [finished(rig.dealt[0][0]).to_json()]})
    assert str(rig.searcher.problem) == "ledger.jsonl: No space left on device"
    assert rig.suggest() == Searcher.FINISHED


def test_a_ledger_that_cannot_be_written_asks_for_nothing_more(tmp_path: Path, monkeypatch: Any) -> None:
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")

    def full(*_: Any) -> None:
        raise UserError("ledger.jsonl: No space left on device")

    monkeypatch.setattr(rig.ledger, "asked", full)
    assert rig.suggest()["pack"]["kind"] == "base"
    assert rig.suggest() == Searcher.FINISHED
    assert str(rig.searcher.problem) == "ledger.jsonl: No space left on device"


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
    with pytest.raises(UserError, match=r"directions maximize, maximize, the sweep wants maximize, minimize"):
        StudyMirror(tmp_path / "out", sweep.name).open(turned)


@pytest.mark.parametrize("damage", ["zombie", "missing", "extra", "changed", "torn", "garbage", "gone"])
def test_a_study_that_disagrees_is_replaced(tmp_path: Path, damage: str) -> None:
    sweep = toy_sweep(tmp_path, methods=("kl_penalty",))
    rig = Rig(sweep, tmp_path / "out")
    rig.run(random.Random(0), landings=5)
    rig.kill()
    path, name = tmp_path / "out" / JOURNAL, f"{sweep.name}/{sweep.arms[0].key}"
    study = study_of(rig.out, name)
    if damage == "zombie":
        study.ask(sweep.arms[0].space.distributions())
    elif damage == "missing":
        optuna.delete_study(study_name=name, storage=study._storage)
    elif damage == "extra":
        study.add_trial(study.get_trials()[0])
    elif damage == "changed":
        study._storage.set_trial_user_attr(study.get_trials()[-1]._trial_id, "values", {"beta": 4.0})
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
    before = (tmp_path / "out" / JOURNAL).read_bytes()
    Rig(rig.sweep, tmp_path / "out").kill()
    assert (tmp_path / "out" / JOURNAL).read_bytes() == before


def test_a_dead_drivers_journal_lock_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{JOURNAL}.lock").symlink_to(tmp_path / "out" / JOURNAL)
    began = time.monotonic()
    rig = Rig(toy_sweep(tmp_path), tmp_path / "out")
    assert isinstance(rig.suggest(), dict)
    assert time.monotonic() - began < 20, "Optuna waits 30 seconds for such a lock"


@pytest.mark.parametrize("event", ["asked", "told"])
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
    done = set(rig.ledger.record.outcomes)
    assert rig.run(random.Random(1))
    assert not done & {trial.trial_id for pack in rig.dealt for trial in pack}
    assert rig.ledger.record.outcomes.keys() == whole.ledger.record.outcomes.keys()


def test_optuna_is_silent() -> None:
    """Its own handler writes to the standard error of the process, where pytest does not look."""
    log = logging.getLogger("optuna")
    assert not log.propagate and logging.StreamHandler not in map(type, log.handlers)


def dealt(searcher: PackSearcher, name: str) -> list[TrialConfig]:
    """The trials of the next pack; empty when the searcher waits or has no more."""
    found = searcher.suggest(name)
    return [TrialConfig.from_json(data) for data in found["pack"]["trials"]] if isinstance(found, dict) else []


def builders(tmp_path: Path) -> Sweep:
    """A method with a prior, one that only edits another's training, and readouts of plain fine-tuning."""
    methods = ("orthogonal_lora", grid("safe_lora", share=[0.5, 1.0]), grid("plain", adapter_scale=[0.5]))
    return toy_sweep(tmp_path, methods=methods, configurations=2)


def run_all(searcher: PackSearcher, ending: Ending = finished) -> list[list[TrialConfig]]:
    """Run packs one after another."""
    packs = []
    while pack := dealt(searcher, str(len(packs))):
        packs.append(pack)
        outcomes = [ending(trial).to_json() for trial in pack]
        searcher.on_trial_complete(str(len(packs) - 1), {"outcomes": outcomes})
    return packs


def scored(tmp_path: Path, sweep: Sweep) -> Ledger:
    """A ledger that knows the base model's scores, so that only training is left."""
    ledger = Ledger(tmp_path / "runs", sweep.name, sweep.identity())
    ledger.base(setting_label(sweep.settings[0]), {})
    return ledger


def test_what_others_build_on_is_trained_first_and_once(tmp_path: Path) -> None:
    sweep = builders(tmp_path)
    with scored(tmp_path, sweep) as ledger:
        searcher = PackSearcher(sweep, ledger, tmp_path / "runs")
        packs = run_all(searcher)
        assert searcher.done
        auxiliary = [end.trial for end in ledger.record.outcomes.values() if searcher.auxiliary(end.trial)]
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
    """Nothing else is left: the searcher waits, and does not end."""
    sweep = toy_sweep(tmp_path, methods=(grid("safe_lora", share=[0.5]),), seeds=1, pack_size=2)
    with scored(tmp_path, sweep) as ledger:
        searcher = PackSearcher(sweep, ledger, tmp_path / "runs")
        first = dealt(searcher, "a")
        assert {trial.method.name for trial in first} == {"plain", "alignment_only"}
        assert searcher.suggest("b") is None
        searcher.on_trial_complete("a", {"outcomes": [finished(trial).to_json() for trial in first]})
        assert [trial.method.name for trial in dealt(searcher, "b")] == ["safe_lora"]


def test_what_builds_on_an_invalid_training_is_invalid_and_says_why(tmp_path: Path) -> None:
    def ending(trial: TrialConfig) -> Outcome:
        return finished(trial, "invalid" if trial.method.name == "alignment_only" and trial.seed == 1 else "finished")

    sweep = toy_sweep(tmp_path, methods=("orthogonal_lora",), configurations=2)
    with scored(tmp_path, sweep) as ledger:
        searcher = PackSearcher(sweep, ledger, tmp_path / "runs")
        run_all(searcher, ending)
        assert searcher.done
        ends = [end for end in ledger.record.outcomes.values() if end.trial.method.name == "orthogonal_lora"]
    assert sorted((end.trial.seed, end.status) for end in ends) == [(0, "finished")] * 2 + [(1, "invalid")] * 2
    reasons = {end.reason for end in ends if end.status == "invalid"}
    assert reasons == {"the alignment_only training that it builds on is invalid: a test wants it"}


def test_resumed_after_the_priors_they_are_not_trained_again(tmp_path: Path) -> None:
    sweep = builders(tmp_path)
    with scored(tmp_path, sweep) as ledger:
        first = dealt(PackSearcher(sweep, ledger, tmp_path / "runs"), "a")
        for trial in first:
            ledger.outcome(finished(trial))
    with Ledger(tmp_path / "runs", sweep.name, sweep.identity()) as ledger:
        rest = [trial for pack in run_all(PackSearcher(sweep, ledger, tmp_path / "runs")) for trial in pack]
    assert not {trial.trial_id for trial in first} & {trial.trial_id for trial in rest}
    assert len(first) + len(rest) == 14


def test_checkpoints_that_the_sweep_wants_are_asked_of_the_trainings(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain", grid("plain", checkpoint_step=[2, 4, 5])))
    with scored(tmp_path, sweep) as ledger:
        found = PackSearcher(sweep, ledger, tmp_path / "runs").suggest("a")
    assert isinstance(found, dict)
    assert found["pack"]["snapshots"] == [2, 4, 5]
