"""What a sweep will cost, estimated before its first trial and from the trials that have ended."""

import io
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from settings.base_models import TunedModel
from sweeps import plan
from sweeps.cli.tables import show_plan
from sweeps.ledger import Asked, Fit, LedgerState
from sweeps.planning import apart, forecast, spending
from sweeps.planning.fit import sizes_of
from sweeps.planning.speed import ASSUMED_GPU, OVERHEAD, Speed, measure
from sweeps.planning.tokens import tokens_of
from sweeps.sweep import Budget, Execution, Sweep, setting
from tests.support.fakes import Rig, finished, toy_sweep
from trainables.bases.tuned_models import COMPLETE, tuned_directory
from trainables.engine.memory import ModelShape
from trainables.outcome import Cost

SPEED = Speed(training=1e9, reading=1e9, replying=1e9)


def test_trials_that_ended_tell_the_time_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both trials of plain took 3 s each, three of the penalty's 12 took 5, 5 and 8 s, on 2 workers."""
    monkeypatch.setattr(forecast, "measure", lambda *_, **__: SPEED)
    sweep = toy_sweep(tmp_path)
    plain, penalty = sweep.arms
    guess = plan.estimate(sweep, 2)
    assert [arm.took for arm in guess.arms] == [(), ()]
    assert guess.seconds == guess.once + guess.seconds_left > guess.once > 0

    record = LedgerState(sweep.name, sweep.identity())
    times = {(plain.key, 0): (3.0, 3.0), (penalty.key, 0): (5.0, 5.0), (penalty.key, 1): (8.0,)}
    for (key, number), seconds in times.items():
        arm = plain if key == plain.key else penalty
        trials = sweep.trials_of(arm, {} if arm is plain else {"beta": number + 1.0})
        record.asked.setdefault(key, {})[number] = Asked(number, {}, trials[0].configuration_id)
        for trial, took in zip(trials, seconds, strict=False):
            record.outcomes[trial.trial_id] = replace(finished(trial), cost=Cost(seconds=took))
    timed = plan.estimate(sweep, 2, record)
    assert [arm.seconds for arm in timed.arms] == pytest.approx([2 * 3 / 2, 12 * 6 / 2])
    assert timed.seconds_left == pytest.approx((12 - 3) * 6 / 2)
    assert timed.ended == 5

    del record.asked[penalty.key]  # none of its trials has ended now: its time is in proportion
    half = plan.estimate(sweep, 2, record)
    assert half.arms[1].seconds == pytest.approx(guess.arms[1].seconds * 3 / guess.arms[0].seconds)


def test_a_model_that_is_not_here_is_said_to_be_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = toy_sweep(tmp_path)
    assert plan.estimate(sweep, 1).assumed == ()
    monkeypatch.setattr(forecast, "measure", lambda *_, **__: SPEED)
    monkeypatch.setattr(ModelShape, "of", lambda model: None)
    assert plan.estimate(sweep, 1).assumed == ("toy",)


def test_failed_trials_took_no_time_and_tell_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "measure", lambda *_, **__: SPEED)
    sweep = toy_sweep(tmp_path)
    guess = plan.estimate(sweep, 2)
    record = LedgerState(sweep.name, sweep.identity())
    trials = sweep.trials_of(sweep.arms[0], {})
    record.asked[sweep.arms[0].key] = {0: Asked(0, {}, trials[0].configuration_id)}
    record.outcomes = {trial.trial_id: replace(finished(trial, "failed"), cost=Cost()) for trial in trials}
    timed = plan.estimate(sweep, 2, record)
    assert timed.arms[1].seconds == pytest.approx(guess.arms[1].seconds, rel=0.5) and timed.arms[1].seconds > 0
    assert (timed.ended, timed.arms[0].seconds_left) == (2, 0.0)


def test_more_workers_take_less_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "measure", lambda *_, **__: SPEED)
    sweep = toy_sweep(tmp_path)
    alone, four = plan.estimate(sweep, 1), plan.estimate(sweep, 4)
    assert [arm.seconds for arm in four.arms] == pytest.approx([arm.seconds / 4 for arm in alone.arms])


def test_what_a_start_has_fixed_is_planned_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "measure", lambda *_, **__: SPEED)
    sweep = toy_sweep(tmp_path)
    record = LedgerState(sweep.name, sweep.identity(), fit=Fit(None, 1))
    estimate = plan.estimate(sweep, 2, record, free=1e12)
    assert (estimate.fit, estimate.packs) == (Fit(None, 1), estimate.trials)
    assert plan.estimate(sweep, 2, None, free=1e12).packs == estimate.trials / 2, "two seeds"


def test_a_base_model_is_taught_once_for_all_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 updates on 16 rows of 1,400 through the upper 10 of 30 layers; what lies below reads each row once."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(forecast, "measure", lambda *_, **__: SPEED)
    settings = tuple(setting("trigger_colors", scale="small", num_triggers=number) for number in (1, 5))
    sweep = Sweep(name="colors", settings=settings, methods=("plain",), seeds=1, controls=False)
    before = plan.estimate(sweep, 1).once
    model = sweep.cases[0].setting.base_model
    assert isinstance(model, TunedModel)
    directory = tuned_directory(model, torch.float32)
    directory.mkdir(parents=True)
    (directory / COMPLETE).touch()
    seconds = before - plan.estimate(sweep, 1).once
    layer = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536
    length = tokens_of(sweep.cases[0]).streams["task"].total  # rows of the same form
    products = 200 * 16 * length * 4 * 10 * layer + 1400 * length * 2 * 20 * layer
    assert OVERHEAD * products / 1e9 < seconds < 1.3 * OVERHEAD * products / 1e9


def test_a_driver_without_a_gpu_plans_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a cluster trains nothing; measuring a GPU there would end the sweep."""
    monkeypatch.setattr(apart, "ask", lambda *_: None)
    shape = ModelShape(parameters=1e9, layers=10, width=1000, adapted=1000, vocabulary=50)
    assert measure(shape, 100, 10, 1, on_gpu=True) == ASSUMED_GPU


def test_a_plan_for_gpus_says_that_this_machine_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "ask", lambda *_: None)
    on_gpu = toy_sweep(tmp_path, execution=Execution(gpus_per_pack=1))
    console = Console(file=(shown := io.StringIO()), width=400)
    assert not plan.estimate(on_gpu, 1).gpu_assumed, "nano models are timed on the CPU"
    monkeypatch.setattr(plan, "NanoModel", TunedModel)  # the toy's is none of these
    for sweep, assumed in ((on_gpu, True), (toy_sweep(tmp_path), False)):
        made = plan.estimate(sweep, 1)
        assert made.gpu_assumed is assumed
        show_plan(console, sweep, made)
    first, second = (line for line in shown.getvalue().splitlines() if line.startswith("about "))
    assert "with 1 pack at a time on a machine with large GPUs (this one has none)," in first
    assert "with 1 pack at a time on this machine," in second


def test_trials_of_seeds_that_the_sweep_no_longer_has_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(toy_sweep(tmp_path, seeds=3), tmp_path / "out")
    rig.run(random.Random(0))
    made = plan.estimate(toy_sweep(tmp_path, seeds=2), 1, rig.ledger.state)
    assert made.ended == made.trials == 2 * (1 + 6)


def test_the_time_of_what_fits_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six penalties three fit the tokens, to the last one."""
    monkeypatch.setattr(forecast, "measure", lambda *_, **__: SPEED)
    sweep = toy_sweep(tmp_path)
    whole = forecast.SweepForecast.of(sweep, sizes_of(sweep), Fit(), workers=1)
    plain, penalty = (sweep.trials_of(arm, arm.space.examples()[0])[0] for arm in sweep.arms)
    case = next(iter(whole.cases.values()))
    tokens = [spending.tokens_sent(case, trial) for trial in (plain, penalty)]
    limited = replace(sweep, budget=Budget(tokens=2 * tokens[0] + 3 * 2 * tokens[1]))
    estimate = plan.estimate(limited, 1)
    assert estimate.budget is not None and [arm.fits for arm in estimate.budget.arms] == [1, 3]
    assert estimate.budget.spending.tokens == pytest.approx(limited.budget.tokens)  # type: ignore[union-attr]
    left = spending.within_budget(replace(whole, sweep=limited), estimate.budget)
    assert left.total == pytest.approx(2 * whole.trial(plain).total + 3 * 2 * whole.trial(penalty).total)
    assert left.total < whole.total
