"""What an arm proposes: the same whatever happens, in rounds, the defaults first, then the design, then TPE."""

import logging
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from settings.setting import Measurement
from sweeps.search.proposer import Proposer, summarize_seeds
from sweeps.space import between, grid, vary
from sweeps.sweep import Search, Sweep
from tests.support.fakes import Ending, Rig, finished, toy_sweep
from tests.support.search import proposer_of
from trainables.outcome import Outcome
from trainables.trial import TrialConfig


def explore(sweep: Sweep, rng: random.Random, ending: Ending = finished) -> list[dict[str, Any]]:
    """Run one arm to its end: results arrive in random order, and configurations are asked for as early as possible."""
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
    sweep = toy_sweep(tmp_path, configurations=11, search=Search(round_size=3))
    runs = [explore(sweep, random.Random(seed)) for seed in range(3)]
    assert all(run == runs[0] for run in runs) and len(runs[0]) == 11


def test_a_result_of_the_same_round_is_not_looked_at(tmp_path: Path) -> None:
    """Results told at once or at the end of each round lead to the same proposals."""
    sweep = toy_sweep(tmp_path, configurations=16, search=Search(round_size=5))
    eager, lazy = proposer_of(sweep), proposer_of(sweep)
    for number in range(16):
        assert eager.next() == (lazy.next() or _told_and_next(lazy, sweep))
        eager.tell(number, [finished(trial) for trial in sweep.trials_of(eager.arm, eager.asked[number])])


def _told_and_next(proposer: Proposer, sweep: Sweep) -> Any:
    for number, values in proposer.asked.items():
        proposer.tell(number, [finished(trial) for trial in sweep.trials_of(proposer.arm, values)])
    return proposer.next()


def test_later_proposals_follow_the_results(tmp_path: Path) -> None:
    """TPE learns: other results lead to other proposals. The design at the start does not."""

    def favouring_large_betas(trial: TrialConfig) -> Outcome:
        outcome = finished(trial)
        return replace(outcome, scores={**outcome.scores, "alignment": Measurement(trial.coefficients["beta"], 4, 0)})

    sweep = toy_sweep(tmp_path, configurations=10)
    usual = explore(sweep, random.Random(0))
    favoured = explore(sweep, random.Random(0), favouring_large_betas)
    assert usual[:5] == favoured[:5] and usual[6:] != favoured[6:]


def test_the_seed_changes_the_search_and_a_larger_budget_extends_it(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path)
    changes: list[dict[str, Any]] = [{}, {"configurations": 9}, {"search": Search(seed=1)}]
    runs = [explore(replace(sweep, **change), random.Random(0)) for change in changes]
    assert runs[1][:6] == runs[0] and runs[2][1:] != runs[0][1:]


def test_a_round_waits_for_all_rounds_before_it(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, search=Search(round_size=2))
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
        sweep = toy_sweep(tmp_path, search=Search(seed=seed))
        assert explore(sweep, random.Random(0))[0] == {"beta": 1.0}
        values = [proposer_of(sweep).design.values(number) for number in range(5)]
        places = sorted(sweep.arms[1].space.position(value)[0] for value in values)
        assert min(right - left for left, right in pairwise(places)) > 0.06, "near repeats waste a training"
        assert max(right - left for left, right in pairwise([0.0, *places, 1.0])) < 0.36, "a hole"


def test_a_narrowed_range_without_the_default_starts_inside(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain", vary("kl_penalty", beta=between(2, 20))))
    assert all(2 <= value["beta"] <= 20 for value in explore(sweep, random.Random(0)))


def test_failures_alone_leave_the_design_in_charge(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, configurations=8)
    values = explore(sweep, random.Random(0), lambda trial: finished(trial, "invalid"))
    assert values == [proposer_of(sweep).design.values(number) for number in range(8)]


def test_a_small_space_ends_early_with_a_reason(tmp_path: Path) -> None:
    """Between 1 and 1.02 there are three numbers of three digits."""
    sweep = toy_sweep(
        tmp_path, methods=("plain", vary("kl_penalty", beta=between(1, 1.02))), search=Search(round_size=6)
    )
    proposer = proposer_of(sweep)
    asked = [proposal.values["beta"] for proposal in iter(proposer.next, None)]
    assert sorted(asked) == [1.0, 1.01, 1.02]
    assert proposer.exhausted and "3 of 6" in (proposer.ended or "")
    rig = Rig(sweep, tmp_path / "out")
    assert rig.run(random.Random(0))
    assert len(rig.ledger.state.outcomes) == 2 + 3 * 2 and rig.scheduler.notes == [proposer.ended]


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


def test_optuna_is_silent() -> None:
    """Its own handler writes to the standard error of the process, where pytest does not look."""
    log = logging.getLogger("optuna")
    assert not log.propagate and logging.StreamHandler not in map(type, log.handlers)
