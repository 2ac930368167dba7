"""What trials will take from a budget: a forecast, corrected by what ended trials took."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from settings.judge.price import most_dollars
from sweeps.budget import SECONDS_PER_HOUR, Spending
from sweeps.case import Case
from sweeps.ledger import LedgerState
from sweeps.planning.forecast import PACK_SECONDS, CaseForecast, SweepForecast
from sweeps.planning.planned import planned_arms
from sweeps.sweep import Execution, Sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

WORKER_SECONDS = 6.0  # until a worker has started; meanwhile it occupies what its packs do
ALL = "all"  # trials of any method


@dataclass(frozen=True)
class Need:
    """What a trial, or scoring a base model, is expected to take: wall seconds of a pack, tokens, dollars."""

    seconds: float = 0.0
    tokens: float = 0.0
    judge_dollars: float = 0.0


def occupied(execution: Execution, seconds: float) -> Spending:
    """Return what a pack spends in `seconds` at a worker."""
    hours = seconds / SECONDS_PER_HOUR
    return Spending(execution.gpus_per_pack * hours, execution.cpus_per_pack * hours)


class PacedForecast:
    """Forecasts that follow the pace of ended trials: those of the same method, or else all.

    Args:
        execution: what a pack occupies.
        trial: returns the need of a trial, without what it builds on.
        base: returns the need of a setting's base model: to start workers, load the model, score it, and compute
            what methods refer to.
        cases: the sweep's settings.

    Attributes:
        awaiting: the trials whose replies are stored but not yet graded, by id.
    """

    def __init__(
        self,
        execution: Execution,
        trial: Callable[[TrialConfig], Need],
        base: Callable[[Case], Need],
        cases: Mapping[str, Case],
    ) -> None:
        self._execution, self._trial, self._base, self._cases = execution, trial, base, cases
        self._trial_needs: dict[str, Need] = {}  # by id
        self._base_needs: dict[str, Need] = {}  # by the setting's label
        self._paces: dict[Hashable, _Pace] = {}
        self.awaiting: dict[str, TrialConfig] = {}
        self._judge_pace = 1.0
        self._seen = self._seen_generated = 0
        self._judged = 0.0  # dollars that the judge was expected to charge for ended trials

    @staticmethod
    def of(sweep: Sweep, forecast: SweepForecast) -> PacedForecast:
        """Forecast a sweep on this machine."""
        dollars = {case.label: most_dollars(case.setting, sweep.execution.judge) for case in sweep.cases}
        cases = {case.label: case for case in sweep.cases}

        def need(trial: TrialConfig) -> Need:
            label = sweep.case_of(trial.setting).label
            case = forecast.cases[label]
            seconds = case.seconds(trial).total + PACK_SECONDS / case.members
            return Need(seconds, tokens_sent(case, trial), dollars[label])

        def base(case: Case) -> Need:
            asked = [
                trial
                for arm in case.arms
                for values in arm.space.every_option()
                for trial in sweep.trials_of(arm, values)
            ]
            of_case = forecast.cases[case.label]
            starting = WORKER_SECONDS * forecast.workers / len(cases)
            return Need(starting + of_case.once(asked) + of_case.base_seconds, 0.0, dollars[case.label])

        return PacedForecast(sweep.execution, need, base, cases)

    def learn(self, record: LedgerState, spent: Spending | None = None) -> None:
        """Take in the trials that have ended since the last time. Outcomes are only ever added.

        The judge's pace never falls below 1. It may charge less than expected, which is its most, because replies still
        wait or verdicts were cached, but that says nothing about the next ones. What it has already charged for
        replies that still wait makes it look dearer until they are graded.

        Args:
            spent: spending up to now; None takes the record's, which may lag behind.
        """
        for outcome in islice(record.generated.values(), self._seen_generated, None):
            self.awaiting[outcome.trial.trial_id] = outcome.trial
        for outcome in islice(record.outcomes.values(), self._seen, None):
            for key in (_kind(outcome.trial), ALL):
                self._paces.setdefault(key, _Pace()).add(outcome, self._need(outcome.trial))
            if self.awaiting.pop(outcome.trial.trial_id, None):
                self._judged += self._need(outcome.trial).judge_dollars
        self._seen, self._seen_generated = len(record.outcomes), len(record.generated)
        bases = sum(self._need_of_base(self._cases[label]).judge_dollars for label in record.bases)
        charged, expected = (spent or record.account.spent).judge_dollars, self._judged + bases
        self._judge_pace = max(1.0, charged / expected) if expected else 1.0

    def trial(self, trial: TrialConfig) -> Spending:
        """Return what a trial takes, without what it builds on."""
        pace = next((pace for key in (_kind(trial), ALL) if (pace := self._paces.get(key)) and pace.is_known), _Pace())
        need = self._need(trial)
        tokens = Spending(tokens=need.tokens * pace.of_tokens, judge_dollars=need.judge_dollars * self._judge_pace)
        return occupied(self._execution, need.seconds * pace.of_seconds) + tokens

    def left_of(self, trial: TrialConfig, record: LedgerState) -> Spending:
        """Return what a trial still takes: only the judge if its replies are stored; after a rung, the remaining hours.

        All of its tokens remain until it ends, since none count as spent before its outcome says so.
        """
        if trial.trial_id in record.outcomes:
            return Spending()
        whole = self.trial(trial)
        if trial.trial_id in record.generated:
            return Spending(judge_dollars=whole.judge_dollars)
        share = 1 - max(record.rungs.get(trial.trial_id, {}), default=0) / trial.updates
        return Spending(whole.gpu_hours * share, whole.core_hours * share, whole.tokens, whole.judge_dollars)

    def base(self, case: Case) -> Spending:
        """Return what scoring a base model takes."""
        need = self._need_of_base(case)
        return occupied(self._execution, need.seconds) + Spending(judge_dollars=need.judge_dollars * self._judge_pace)

    def _need(self, trial: TrialConfig) -> Need:
        if trial.trial_id not in self._trial_needs:
            self._trial_needs[trial.trial_id] = self._trial(trial)
        return self._trial_needs[trial.trial_id]

    def _need_of_base(self, case: Case) -> Need:
        if case.label not in self._base_needs:
            self._base_needs[case.label] = self._base(case)
        return self._base_needs[case.label]


@dataclass
class _Pace:
    """What ended trials took, against what they were expected to take; failed ones tell nothing."""

    took: list[float] = field(default_factory=lambda: [0.0, 0.0])  # seconds, tokens
    expected: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def is_known(self) -> bool:
        return self.took[0] > 0

    @property
    def of_seconds(self) -> float:
        return self.took[0] / self.expected[0] if self.took[0] and self.expected[0] else 1.0

    @property
    def of_tokens(self) -> float:
        return self.took[1] / self.expected[1] if self.took[1] and self.expected[1] else 1.0

    def add(self, outcome: Outcome, need: Need) -> None:
        if outcome.cost.seconds > 0 and outcome.status == "finished":
            for at, (took, expected) in enumerate(
                [(outcome.cost.seconds, need.seconds), (outcome.cost.tokens, need.tokens)]
            ):
                self.took[at] += took
                self.expected[at] += expected


def with_needed(trials: Iterable[TrialConfig], known: Container[str]) -> dict[str, TrialConfig]:
    """Return trials and what they build on, by id, except those in `known`."""
    new: dict[str, TrialConfig] = {}
    for trial in trials:
        if trial.trial_id not in known:
            new |= {trial.trial_id: trial, **with_needed(trial.requires, known)}
    return new


@dataclass(frozen=True)
class FittingArm:
    """A method on a setting, its key, and how many of its configurations fit."""

    key: str
    setting: str
    method: str
    fits: int
    configurations: int


@dataclass(frozen=True)
class BudgetPlan:
    """What fits into a budget.

    Attributes:
        arms: every arm of the sweep.
        trials: number of trials of the configurations that fit, without what these build on.
        spending: what was spent before, plus what the fitting configurations take.
        exceeded: the units of the limits that more configurations would exceed; none if everything fits.
    """

    arms: tuple[FittingArm, ...]
    trials: int
    spending: Spending
    exceeded: tuple[str, ...]


def what_fits(sweep: Sweep, forecast: PacedForecast, record: LedgerState) -> BudgetPlan:
    """Return what fits into a sweep's budget. Methods take turns, a configuration each, as the search asks for them.

    Configurations to be searched are taken from the middle of their ranges.
    """
    assert sweep.budget is not None
    forecast.learn(record)
    counts = {arm.key: len(record.asked.get(arm.key, {})) for arm in sweep.arms}
    asked = [
        trial
        for arm in sweep.arms
        for item in record.asked.get(arm.key, {}).values()
        for trial in sweep.trials_of(arm, item.values)
    ]
    committed = with_needed(asked, record.outcomes)
    parts = [forecast.left_of(trial, record) for trial in committed.values()]
    parts += [forecast.base(case) for case in sweep.cases if case.label not in record.bases]
    spending = Spending.total([record.account.spent, *parts])
    known, exceeded = {*record.outcomes, *committed}, dict.fromkeys(sweep.budget.exceeded(spending, sweep.on_gpu))
    refused: set[str] = set()
    for number in range(max(arm.budget for arm in sweep.arms)):
        for arm in sweep.arms:
            if not counts[arm.key] <= number < arm.budget or arm.key in refused:
                continue
            trials = sweep.trials_of(arm, arm.space.examples(arm.budget)[number])
            new = with_needed([needed for trial in trials for needed in trial.requires], known)
            stand_ins = [trial for trial in trials if arm.space.ranges or trial.trial_id not in known]
            more = spending + Spending.total(map(forecast.trial, [*new.values(), *stand_ins]))
            if over := sweep.budget.exceeded(more, sweep.on_gpu):
                refused.add(arm.key)
                exceeded |= dict.fromkeys(over)
            else:
                spending, counts[arm.key] = more, number + 1
                known |= new.keys() | {trial.trial_id for trial in trials}
    arms = [
        FittingArm(arm.key, case.label, arm.title, counts[arm.key], arm.budget)
        for case in sweep.cases
        for arm in case.arms
    ]
    return BudgetPlan(tuple(arms), sum(counts.values()) * len(sweep.seed_values), spending, tuple(exceeded))


def within_budget(forecast: SweepForecast, plan: BudgetPlan) -> SweepForecast:
    """Return the forecast of only what fits into a budget, to estimate the time left."""
    fits = {arm.key: arm.fits for arm in plan.arms}
    planned = [
        trial
        for arm in planned_arms(forecast.sweep)
        for configuration in arm.configurations[: fits.get(arm.arm or "")]  # all, for what others build on
        for trial in configuration
    ]
    return replace(forecast, total=sum(forecast.trial(trial).total for trial in planned))


def _kind(trial: TrialConfig) -> Hashable:
    """Return a key of trials that share a pace."""
    return trial.data, trial.method.name, trial.is_readout


def tokens_sent(case: CaseForecast, trial: TrialConfig) -> float:
    """Return the tokens that a trial sends through the model in training, including those of the reference."""
    if trial.is_readout:
        return 0.0
    method, tokens = trial.method, case.tokens
    return trial.updates * sum(
        (2 if stream in method.reference else 1)
        * method.rows_per_step(stream, trial.sizes)
        * tokens.trained(method, stream).total
        for stream in method.streams
    )
