"""A search with a budget, with made-up costs: what begins, when it stops, what is written down."""

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from settings.setting import Measurement, Setting
from sweeps.budget import Budget, Spending
from sweeps.ledger import Ledger, read
from sweeps.ledger_lines import read_raw
from sweeps.planning.spending import Need, PacedForecast, what_fits
from sweeps.search.accountant import Accountant
from sweeps.search.judging import Grades
from sweeps.search.scheduler import NoJob
from sweeps.space import grid
from sweeps.sweep import Execution, Sweep
from tests.support.fakes import Rig, finished, toy, toy_sweep
from trainables.outcome import Cost, Outcome
from trainables.trial import TrialConfig

HALF_AN_HOUR = 1800.0


@dataclass
class World:
    """Trials of two seeds: every trial is expected to take half an hour, and takes `slower` times that.

    Attributes:
        now: the clock, in seconds, which only trials move.
        charged: dollars that the judge has charged.
    """

    slower: float = 1.0
    tokens: int = 100
    dollars: float = 0.0
    now: float = 0.0
    charged: float = 0.0
    ended: list[TrialConfig] = field(default_factory=list)

    def forecast(self, sweep: Sweep) -> PacedForecast:
        need = Need(HALF_AN_HOUR, 100, self.dollars)
        cases = {case.label: case for case in sweep.cases}
        return PacedForecast(sweep.execution, lambda trial: need, lambda case: Need(), cases)

    def account(self, sweep: Sweep, ledger: Ledger) -> Accountant:
        account = Accountant(sweep, ledger, lambda: self.charged, lambda: self.now)
        account.forecast = self.forecast(sweep)
        return account

    def ending(self, trial: TrialConfig) -> Outcome:
        seconds = self.slower * HALF_AN_HOUR
        self.now += seconds
        self.charged += self.dollars
        self.ended.append(trial)
        return replace(finished(trial), cost=Cost(tokens=self.tokens, seconds=seconds))

    def rig(self, sweep: Sweep, out: Path, **options: Any) -> Rig:
        self.charged = 0.0  # a start's own judges
        return Rig(sweep, out, account=self.account, **options)

    def run(self, sweep: Sweep, out: Path) -> Rig:
        rig = self.rig(sweep, out)
        assert rig.run(random.Random(0), self.ending, workers=1)
        return rig


def limited(folder: Path, **limits: Any) -> Sweep:
    """One configuration of plain and six of the penalty, two seeds each: 1 + 6 hours."""
    execution = limits.pop("execution", Execution())
    return toy_sweep(folder, budget=Budget(**limits) if limits else None, execution=execution)


GPU = Execution(gpus_per_pack=2.0)


@pytest.mark.parametrize(
    ("limits", "configurations", "text"),
    [
        ({"hours": 5.5}, 5, "5 of 5.5 core hours, 1,000 tokens; what is left would exceed the core hours"),
        ({"hours": 5}, 5, "5 of 5 core hours, 1,000 tokens; what is left would exceed the core hours"),
        ({"tokens": 799}, 3, "3 core hours, 600 of 799 tokens; what is left would exceed the tokens"),
        (
            {"hours": 4, "execution": Execution(cpus_per_pack=2)},
            2,
            "4 of 4 core hours, 400 tokens; what is left would exceed the core hours",
        ),
        (
            {"hours": 5, "dollars": 8, "dollars_per_gpu_hour": 1.5, "execution": GPU},
            2,  # two GPUs for an hour each, at 3 dollars
            "4 of 5 GPU hours, 400 tokens, $6.00 of $8.00; what is left would exceed the GPU hours and dollars",
        ),
    ],
)
def test_it_stops_before_a_limit(tmp_path: Path, limits: dict[str, Any], configurations: int, text: str) -> None:
    sweep = limited(tmp_path, **limits)
    rig = World().run(sweep, tmp_path / "out")
    assert len(rig.dispatched) == configurations and len(rig.ledger.state.outcomes) == 2 * configurations
    assert rig.scheduler.notes[-1] == f"the search has stopped at its budget: {text}"
    assert rig.scheduler.idle and not rig.scheduler.done
    assert rig.ledger.state.account.stopped == rig.scheduler.notes[-1]


def test_the_judge_is_paid_from_it(tmp_path: Path) -> None:
    world = World(dollars=0.7)
    rig = world.run(limited(tmp_path, dollars=5), tmp_path / "out")
    assert len(rig.dispatched) == 3 and world.charged == pytest.approx(6 * 0.7)
    assert rig.ledger.state.account.spent.judge_dollars == pytest.approx(4.2)
    assert "$4.20 of $5.00; what is left would exceed the dollars" in rig.scheduler.notes[-1]


class SlowJudge:
    """A judge that is through so much of each reply's requests when no trial is left to train, and then ends one."""

    def __init__(self, world: World, through: float = 0.25, price: float = 1.0) -> None:
        self.waiting: list[tuple[Any, TrialConfig | None]] = []
        self._world, self._through, self._price, self._released = world, through, price, 0

    @property
    def pending(self) -> int:
        return len(self.waiting)

    def submit(self, what: Any, setting: Setting, trial: TrialConfig | None) -> None:
        self.waiting.append((what, trial))
        self._world.charged += self._through * self._price if trial else 0.0
        self._released += trial is None

    def release(self) -> None:
        self._world.charged += (1 - self._through) * self._price
        self._released = 1

    def collect(self) -> list[tuple[Any, Grades]]:
        graded, self.waiting = self.waiting[: self._released], self.waiting[self._released :]
        self._released = 0
        return [(what, Grades({"liked": Measurement(50.0, 2, 0)}, None)) for what, _ in graded]


@pytest.mark.parametrize("price", [1.0, 0.0, 2.0])
def test_replies_that_wait_for_a_slow_judge_are_owed(tmp_path: Path, price: float) -> None:
    """$2 a configuration and $10: five. Packs end while the judge is a quarter through what it has, and none is graded.

    A dollar is owed for each reply that waits, whatever was charged so far. Cached verdicts cost nothing, and then
    all seven configurations fit, though no more than five wait at once. At twice the price, three are begun before the
    first grade says so and are paid by $12; nothing else is.
    """
    options = {"settings": (toy(tmp_path, judged=True),), "objectives": ("task", "liked")}
    sweep = toy_sweep(tmp_path, budget=Budget(dollars=10), **options)
    world = World(dollars=1.0)
    judge = SlowJudge(world, price=price)
    rig = world.rig(sweep, tmp_path / "out", judging=judge)
    world.dollars, most = 0.0, 0  # the judge itself charges; the forecast has its own need
    while (job := rig.next_job()) is not NoJob.FINISHED:
        while rig.in_flight:
            rig.finish_pack(random.Random(0), world.ending)
        most = max(most, sum(trial is not None for _, trial in judge.waiting))
        if job is NoJob.WAIT:
            judge.release()
    spent = rig.ledger.state.account.spent.judge_dollars
    trials = len(rig.ledger.state.outcomes)
    assert (trials, spent) == {1.0: (10, 10.0), 0.0: (14, 0.0), 2.0: (6, 12.0)}[price]
    assert most <= 10


def test_a_budget_that_is_enough_says_nothing(tmp_path: Path) -> None:
    rig = World().run(limited(tmp_path, hours=7, tokens=1400), tmp_path / "out")
    assert rig.scheduler.done and rig.scheduler.notes == [] and rig.ledger.state.account.stopped == ""


def test_trials_that_take_twice_as_long_are_half_as_many(tmp_path: Path) -> None:
    """After plain the pace is known. A penalty that was asked for is held back then, and a larger budget trains it."""
    world, out = World(slower=2), tmp_path / "out"
    first = world.run(limited(tmp_path, hours=5.5), out)
    assert [pack[0].method.name for pack in first.dispatched] == ["plain", "kl_penalty"]
    assert sum(map(len, first.ledger.state.asked.values())) == 3
    assert first.ledger.state.account.spent.core_hours == pytest.approx(4)
    first.kill()

    same = world.rig(limited(tmp_path, hours=5.5), out)
    same.scheduler.look_for_work()
    assert same.scheduler.idle and same.next_job() is NoJob.FINISHED, "known before any worker is started"
    same.kill()

    second = world.run(limited(tmp_path, hours=6), out)
    assert len(second.dispatched) == 1 and "6 of 6 core hours, 600 tokens" in second.ledger.state.account.stopped
    second.kill()

    third = world.run(limited(tmp_path), out)
    assert third.scheduler.done and third.ledger.state.account == read_raw(out).account == read(out).account
    assert third.ledger.state.account.spent == Spending(0.0, pytest.approx(14), 1400, 0.0)
    assert third.ledger.state.account.stopped == ""


def test_the_plan_says_what_the_search_does(tmp_path: Path) -> None:
    sweep, out = limited(tmp_path, hours=5.5), tmp_path / "out"
    world = World()
    rig = world.rig(sweep, out)
    plan = what_fits(sweep, world.forecast(sweep), rig.ledger.state)
    assert [(arm.method, arm.fits, arm.configurations) for arm in plan.arms] == [("plain", 1, 1), ("kl_penalty", 4, 6)]
    assert plan.trials == 10
    assert (plan.spending.core_hours, plan.spending.tokens, plan.exceeded) == (5, 1000, ("core hours",))
    assert rig.run(random.Random(0), world.ending, workers=1)
    assert sum(map(len, rig.ledger.state.asked.values())) == 5
    afterwards = what_fits(sweep, world.forecast(sweep), rig.ledger.state)
    assert afterwards == replace(plan, spending=rig.ledger.state.account.spent)
    more = replace(sweep, budget=Budget(hours=100))
    assert what_fits(more, world.forecast(more), rig.ledger.state).exceeded == ()


def test_what_is_built_on_is_paid_for_once(tmp_path: Path) -> None:
    """Three readouts of one training: an hour for it, and an hour each. The second and third share it."""
    sweep = toy_sweep(tmp_path, methods=(grid("plain", adapter_scale=[0.2, 0.4, 0.6]),), budget=Budget(hours=3.9))
    world = World()
    rig = world.run(sweep, tmp_path / "out")
    assert [pack[0].adapter_scale for pack in rig.dispatched] == [1.0, 0.2, 0.4]
    plan = what_fits(sweep, world.forecast(sweep), Rig(sweep, tmp_path / "other").ledger.state)
    assert [arm.fits for arm in plan.arms] == [2] and plan.spending.core_hours == 3


def test_no_method_gets_two_rounds_ahead(tmp_path: Path) -> None:
    """The penalty's packs end at once and the others never do: of its six configurations it is asked for four."""
    sweep = toy_sweep(tmp_path, methods=("upweighted", "kl_penalty"), budget=Budget(hours=1000))
    rig = World().rig(sweep, tmp_path / "out")
    rig.score_base()
    for _ in range(20):
        job = rig.next_job()
        if isinstance(job, NoJob):
            continue
        name, trials = next(reversed(rig.in_flight)), job.trials
        if trials[0].method.name == "kl_penalty":
            del rig.in_flight[name]
            rig.scheduler.report(name, outcomes=[finished(trial) for trial in trials])
            rig.scheduler.close(name)
    asked = {key.split()[0]: len(numbers) for key, numbers in rig.ledger.state.asked.items()}
    assert sorted(asked.values()) == [2, 4] and job is NoJob.WAIT


def test_a_kill_forgets_a_minute_at_most(tmp_path: Path) -> None:
    world, out = World(), tmp_path / "out"
    rig = world.rig(limited(tmp_path), out)
    rig.score_base()
    rig.next_job()
    for now in (59.0, 61.0, 100.0):
        world.now = now
        rig.scheduler.keep_account()
    assert read(out).account.spent.core_hours == pytest.approx(61 / 3600)
    rig.scheduler.keep_account(now=True)
    assert read(out).account.spent.core_hours == pytest.approx(100 / 3600)
    rig.kill()
    again = world.run(limited(tmp_path), out)
    assert again.ledger.state.account.spent.core_hours == pytest.approx(7 + 100 / 3600)


def test_a_pack_that_runs_longer_than_expected_counts_as_it_runs(tmp_path: Path) -> None:
    """Two workers; plain was expected to take an hour and is at two: of three hours none is left for another round."""
    world = World()
    rig = world.rig(limited(tmp_path, hours=3), tmp_path / "out")
    rig.score_base()
    assert not isinstance(rig.next_job(), NoJob) and not isinstance(rig.next_job(), NoJob)
    world.now += 2 * 3600
    assert rig.next_job() is NoJob.WAIT, "4 hours of two packs are gone"
    assert len(rig.dispatched) == 2 and rig.ledger.state.account.stopped == ""


def test_packs_at_workers_are_counted_before_they_have_ended(tmp_path: Path) -> None:
    """Four workers, and an hour for each of three packs: half an hour is left, and the fourth gets nothing."""
    sweep = toy_sweep(tmp_path, methods=("kl_penalty", "upweighted"), budget=Budget(hours=3.5))
    rig = World().rig(sweep, tmp_path / "out")
    rig.score_base()
    jobs = [rig.next_job() for _ in range(4)]
    assert [isinstance(job, NoJob) for job in jobs] == [False, False, False, True] and jobs[3] is NoJob.WAIT


def test_trained_again_counts_again(tmp_path: Path) -> None:
    """A trial that is retried is trained anew; one whose replies are stored is only judged anew."""
    sweep = limited(tmp_path)
    first, second = sweep.trials_of(sweep.arms[0], {})
    with Ledger(tmp_path / "out", sweep.name, sweep.identity()) as ledger:
        ledger.record_generated(finished(first))
        for _ in range(2):
            for trial in (first, second):
                ledger.record_outcome(finished(trial))
            ledger.retry([first.trial_id, second.trial_id])
        assert ledger.state.account.spent.tokens == 100 + 2 * 100
    assert read_raw(tmp_path / "out").account == read(tmp_path / "out").account


def test_nothing_fits_before_a_forecast_is_there(tmp_path: Path) -> None:
    rig = Rig(limited(tmp_path, hours=5), tmp_path / "out")
    assert rig.next_job() is NoJob.FINISHED and not rig.scheduler.idle


def test_the_budget_is_no_part_of_the_identity(tmp_path: Path) -> None:
    sweep = limited(tmp_path)
    assert limited(tmp_path, hours=1).identity() == sweep.identity() == limited(tmp_path, tokens=5).identity()
