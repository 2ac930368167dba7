"""Early stopping: the order at a rung, who goes on, and a sweep that stops whole configurations and says so."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.early_stopping import (
    EarlyStopping,
    Gains,
    RungDecision,
    RungRuling,
    decide_configuration,
    decide_trial,
    gains_at_rung,
    order,
    promoted,
)
from sweeps.ledger import read
from sweeps.space import vary
from sweeps.sweep import Execution, Search, Sweep
from tests.support.fakes import BASE_SCORES, Rig, finished, toy, toy_sweep
from trainables.messages import ScoreBase
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=7)


def dominates(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


def depth(points: list[tuple[int, ...]], index: int) -> int:
    """Return the front of a point: one deeper than the deepest point that dominates it."""
    above = [depth(points, row) for row in range(len(points)) if dominates(points[row], points[index])]
    return 1 + max(above, default=0)


@given(POINTS)
def test_fronts_come_one_after_another(points: list[tuple[int, ...]]) -> None:
    """By enumeration: every point occurs once, and none of a deeper front comes first."""
    ranked = order(points)
    assert sorted(ranked) == list(range(len(points)))
    depths = [depth(points, index) for index in ranked]
    assert depths == sorted(depths)


@given(POINTS, st.sampled_from([0.1, 0.34, 0.5, 0.9]))
def test_the_ends_of_the_front_and_the_share_go_on(points: list[tuple[int, ...]], keep: float) -> None:
    going = promoted(points, keep)
    least = int(np.ceil(keep * len(points)))
    assert least <= len(going) <= least + 2
    for objective in range(2):
        assert max(points[index][objective] for index in going) == max(point[objective] for point in points)


def test_inside_a_front_the_farthest_is_next() -> None:
    """By hand: the ends 0 and 4, then 2 in the middle; 1 and 3 are as far from all before, and the earlier comes first.

    The second objective is in units a hundred times as large, which changes nothing.
    """
    front = [(4.0, 0.0), (3.0, 100.0), (2.0, 200.0), (1.0, 300.0), (0.0, 400.0)]
    assert order(front) == [0, 4, 2, 1, 3]
    assert order([*front, (0.5, 0.5)]) == [0, 4, 2, 1, 3, 5]
    assert promoted(front, 0.5) == {0, 4, 2}
    assert promoted([(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)], 0.3) == {0}
    assert promoted([], 0.5) == set()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rungs": ()}, "growing shares between 0 and 1"),
        ({"rungs": (0.5, 0.25)}, "growing shares"),
        ({"rungs": (0.5, 1.0)}, "growing shares"),
        ({"keep": 1.0}, "keep must be a share"),
    ],
)
def test_rules_that_make_no_sense(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        EarlyStopping(**values)


@pytest.mark.parametrize(
    ("number", "gains", "decision"),
    [
        (0, {0: (1.0, 1.0), 1: (0.0, 0.0)}, RungDecision.CONTINUE),
        (1, {0: (1.0, 1.0), 1: (0.0, 0.0)}, RungDecision.STOP),
        (1, {0: None, 1: (0.0, 0.0)}, RungDecision.WAIT),
        (1, {0: (1.0, 1.0), 1: ()}, RungDecision.CONTINUE),
        (1, {0: (), 1: (0.0, 0.0)}, RungDecision.CONTINUE),
    ],
    ids=["promoted", "dominated", "one has not arrived", "not measured", "the others ended before"],
)
def test_what_happens_to_a_configuration_at_a_rung(
    number: int, gains: dict[int, Gains | None], decision: RungDecision
) -> None:
    ruling = decide_configuration(number, gains, keep=0.5)
    assert ruling.decision is decision
    reason = "not among the 1 promoted of 2 configurations"
    assert ruling.stopped_because == (reason if decision is RungDecision.STOP else "")


def test_a_shared_trial_is_stopped_only_if_all_of_its_configurations_are() -> None:
    go, wait, stop = (
        RungRuling(RungDecision.CONTINUE),
        RungRuling(RungDecision.WAIT),
        RungRuling(RungDecision.STOP, "x"),
    )
    assert decide_trial([stop, wait, go]) == go
    assert decide_trial([stop, wait]) == wait
    assert decide_trial([stop, RungRuling(RungDecision.STOP, "y")]) == stop


def test_gains_are_means_over_the_seeds_that_were_measured(tmp_path: Path) -> None:
    sweep = toy_sweep(tmp_path, seeds=3, settings=(toy(tmp_path, upside_down=True),))
    ends = [finished(trial) for trial in sweep.trials_of(sweep.arms[1], {"beta": 1.0})]
    ends[2] = replace(ends[2], scores={**ends[2].scores, "alignment": Measurement(float("nan"), 0, 4)})
    objectives = sweep.cases[0].objectives
    means = [(ends[0].scores[name].mean + ends[1].scores[name].mean) / 2 for name in ("task", "alignment")]
    assert gains_at_rung(ends, objectives) == pytest.approx((means[0], -means[1]))
    assert gains_at_rung(ends[2:], objectives) == ()


# --- a sweep ---


def halving(rule: EarlyStopping | None) -> Search:
    return Search(round_size=4, early_stopping=rule)


def early(folder: Path, **changes: Any) -> Sweep:
    """Declare eight values of one knob, in rounds of four; trials of 5 updates are compared after 1 and 2."""
    values: dict[str, Any] = {
        "methods": ("plain", vary("kl_penalty")),
        "configurations": 8,
        "search": halving(EarlyStopping(rungs=(0.25, 0.5))),
    }
    return toy_sweep(folder, **(values | changes))


class Halting(Rig):
    """Workers that pause where they are told to."""

    def finish_pack(self, rng: random.Random, ending: Any) -> None:
        name = rng.choice(sorted(self.in_flight))
        job = self.in_flight.pop(name)
        if isinstance(job, ScoreBase):
            self.scheduler.report(name, base=BASE_SCORES)
        else:
            outcomes: list[Outcome] = []
            rungs: list[Outcome] = []
            for trial, pause in zip(job.trials, job.pause_after, strict=True):
                if pause is None:
                    outcomes.append(ending(trial))
                else:
                    rungs.append(ending(replace(trial, checkpoint_step=pause)))
            self.scheduler.report(name, outcomes=outcomes, rungs=rungs)
        self.scheduler.close(name)


def worse_after(beta: float, trial: TrialConfig) -> Outcome:
    """End a trial; from some beta on it loses in both objectives."""
    outcome = finished(trial)
    if trial.coefficients.get("beta", 0.0) < beta:
        return outcome
    return replace(outcome, scores={name: replace(score, mean=-1.0) for name, score in outcome.scores.items()})


def ends(rig: Rig) -> dict[str, tuple[str, str | None]]:
    return {key: (outcome.status, outcome.reason) for key, outcome in rig.ledger.state.outcomes.items()}


def test_whole_configurations_are_stopped_and_the_record_says_why(tmp_path: Path) -> None:
    rig = Halting(early(tmp_path), tmp_path / "out")
    assert rig.run(random.Random(0))
    statuses_of: dict[str, set[str]] = {}
    for outcome in rig.ledger.state.outcomes.values():
        statuses_of.setdefault(outcome.trial.configuration_id, set()).add(outcome.status)
        if outcome.status == "stopped":
            assert outcome.trial.checkpoint_step is None
            assert not outcome.scores and outcome.cost.tokens == 100 and outcome.curves
            assert "configurations after" in str(outcome.reason) and str(outcome.reason).endswith("of 5 updates")
    assert len(statuses_of) == 9 and all(len(statuses) == 1 for statuses in statuses_of.values())
    assert {"stopped"} in statuses_of.values() and {"finished"} in statuses_of.values()
    (plain,) = (
        end for end in rig.ledger.state.outcomes.values() if end.trial.method.name == "plain" and not end.trial.seed
    )
    assert plain.status == "finished", "nobody searches it"
    states = {told.state.name for proposer in rig.scheduler.search.proposers for told in proposer.told.values()}
    assert states == {"COMPLETE", "PRUNED"}


def test_what_is_stopped_does_not_depend_on_who_comes_first(tmp_path: Path) -> None:
    expected = Halting(early(tmp_path), tmp_path / "a")
    assert expected.run(random.Random(0))
    for seed, workers in ((1, 1), (2, 5)):
        rig = Halting(early(tmp_path), tmp_path / str(seed))
        assert rig.run(random.Random(seed), workers=workers)
        assert ends(rig) == ends(expected)


@pytest.mark.parametrize("packs", [2, 5, 9, 14])
def test_killed_anywhere_it_ends_as_if_nothing_had_happened(tmp_path: Path, packs: int) -> None:
    expected = Halting(early(tmp_path), tmp_path / "a")
    assert expected.run(random.Random(0))
    first = Halting(early(tmp_path), tmp_path / "b")
    first.run(random.Random(1), packs=packs)
    first.kill()
    again = Halting(early(tmp_path), tmp_path / "b")
    assert again.run(random.Random(2))
    assert ends(again) == ends(expected)
    assert read(tmp_path / "b").rungs.keys() == read(tmp_path / "a").rungs.keys()


def test_those_that_are_behind_in_everything_are_stopped_at_the_first_rung(tmp_path: Path) -> None:
    rig = Halting(early(tmp_path), tmp_path / "out")
    assert rig.run(random.Random(0), ending=lambda trial: worse_after(1.5, trial))
    behind = [end for end in rig.ledger.state.outcomes.values() if end.trial.coefficients.get("beta", 0.0) >= 1.5]
    assert len(behind) >= 4
    assert {end.status for end in behind} == {"stopped"}
    assert all("after 1 of 5 updates" in str(end.reason) for end in behind)


def test_the_places_of_the_stopped_are_filled(tmp_path: Path) -> None:
    """Two configurations fill a pack. At the rung each pack loses its second, and those that go on share the next."""
    rule = EarlyStopping(rungs=(0.5,))
    methods = (vary("kl_penalty"),)
    sweep = early(tmp_path, methods=methods, configurations=4, execution=Execution(pack_size=4), search=halving(rule))
    rig = Halting(sweep, tmp_path / "out")

    def betas() -> list[list[float]]:
        return [[trial.coefficients["beta"] for trial in pack] for pack in rig.dispatched]

    def ending(trial: TrialConfig) -> Outcome:
        second = any(trial.coefficients["beta"] == pack[-1] for pack in betas()[:2])
        return worse_after(0.0 if second else float("inf"), trial)

    assert rig.run(random.Random(0), ending=ending)
    (a, _, b, _), (c, _, d, _), last = betas()
    assert betas()[:2] == [[a, a, b, b], [c, c, d, d]] and len({a, b, c, d}) == 4
    assert sorted(last) == sorted([a, a, c, c])
    assert [outcome.status for outcome in rig.ledger.state.outcomes.values()].count("stopped") == 4


def test_it_is_part_of_what_a_sweep_is_and_off_by_default(tmp_path: Path) -> None:
    assert toy_sweep(tmp_path).search.early_stopping is None
    identities = {
        early(tmp_path, search=halving(rule)).identity() for rule in (None, EarlyStopping(), EarlyStopping(keep=0.3))
    }
    assert len(identities) == 3
    with pytest.raises(UserError, match="early_stopping must be EarlyStopping"):
        Search(early_stopping=True)  # type: ignore[arg-type]


def test_a_judge_is_too_slow_for_it(tmp_path: Path) -> None:
    sweep = early(tmp_path, settings=(toy(tmp_path, judged=True),), objectives=("task", "liked"))
    with pytest.raises(
        UserError, match="early_stopping compares scores that workers grade themselves, but a judge grades liked"
    ):
        sweep.check()


def test_every_pair_of_steps_is_before_the_end(tmp_path: Path) -> None:
    (trial, *_) = toy_sweep(tmp_path).trials_of(toy_sweep(tmp_path).arms[1], {"beta": 1.0})
    for steps, at in itertools.product((1, 2, 3, 48), ((0.25, 0.5), (0.01,), (0.99,))):
        rungs = EarlyStopping(rungs=at).steps(replace(trial, steps=steps))
        assert all(1 <= step <= steps for step in rungs)
