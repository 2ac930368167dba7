"""Measure and record what packs occupy, and begin nothing that a budget has no room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

from sweeps.budget import Spending, spending_text
from sweeps.case import Arm, Case
from sweeps.ledger import Ledger
from sweeps.planning.spending import PacedForecast, occupied, with_needed
from sweeps.sweep import Sweep
from trainables.trial import TrialConfig

RECORD_SECONDS = 60.0  # between two records while packs run: the most that a killed driver forgets


@dataclass
class _Occupation:
    """A pack at a worker: what it was expected to take, since when it runs, and how many seconds are recorded."""

    trials: Sequence[TrialConfig]
    need: Spending
    began: float
    recorded: float = 0.0


class Accountant:
    """Keep the accounts of a sweep.

    Args:
        ledger: an open ledger; it has what earlier starts have spent.
        judge_dollars: returns what the judges of this start have charged so far.
        clock: returns the time in seconds.

    Attributes:
        forecast: forecast of what trials take. While it is None, nothing fits into a budget.
        stopped: why the search has stopped in this start; "" if it has not.
    """

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        judge_dollars: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.forecast: PacedForecast | None = None
        self.stopped = ""
        self._sweep, self._ledger, self._judge_dollars, self._clock = sweep, ledger, judge_dollars, clock
        self._judge_recorded = 0.0
        self._recorded_at = clock()
        self._at_workers: dict[str, _Occupation] = {}
        self._asked: dict[str, TrialConfig] = {}  # by id: trials that have not ended, and what they build on
        self._refused: dict[str, tuple[object, list[str]]] = {}  # arm, or "" for packs -> version, and what is exceeded

    @property
    def is_limited(self) -> bool:
        """Whether the sweep has a budget."""
        return self._sweep.budget is not None

    # --- what is spent ---

    def begin(self, name: str, trials: Sequence[TrialConfig], base: Case | None) -> None:
        """Note that a worker gets a pack, or a base model to score."""
        need = self._need_of(trials, base) if self.forecast else Spending()
        self._at_workers[name] = _Occupation(trials, need, self._clock())

    def end(self, name: str) -> None:
        """Note that a pack has left its worker."""
        if name in self._at_workers:
            self.record()
            del self._at_workers[name]

    def tick(self) -> None:
        """Record what was spent if the last record is old."""
        if self._clock() - self._recorded_at >= RECORD_SECONDS:
            self.record()

    def record(self) -> None:
        """Record what was spent since the last record."""
        unrecorded = self._unrecorded()
        self._recorded_at = now = self._clock()
        for pack in self._at_workers.values():
            pack.recorded = now - pack.began
        self._judge_recorded += unrecorded.judge_dollars
        self._ledger.record_spending(unrecorded)

    def _unrecorded(self) -> Spending:
        now = self._clock()
        seconds = sum(now - pack.began - pack.recorded for pack in self._at_workers.values())
        charged = Spending(judge_dollars=self._judge_dollars() - self._judge_recorded)
        return occupied(self._sweep.execution, seconds) + charged

    @property
    def spent(self) -> Spending:
        """What the sweep has taken up to now, over all of its starts."""
        return self._ledger.state.account.spent + self._unrecorded()

    # --- what fits ---

    def commit(self, trials: Iterable[TrialConfig]) -> None:
        """Note that the search has asked for trials: they and what they build on will run."""
        if self.is_limited:
            self._asked |= with_needed(trials, self._known)

    def admit(self, arm: Arm, trials: Sequence[TrialConfig]) -> bool:
        """Commit to a configuration if the budget has room for it besides all asked for. Return whether it has."""
        if not self.is_limited:
            return True
        if self.forecast is None:
            return False
        new = with_needed(trials, self._known)
        planned = self._committed() + Spending.total(map(self.forecast.trial, new.values()))
        exceeded = self._exceeded(planned)
        if exceeded:
            self._refused[arm.key] = self._version, exceeded
            return False
        self.commit(trials)
        return True

    def is_refused(self, arm: Arm) -> bool:
        """Return whether an arm was refused and nothing has begun or ended since."""
        return arm.key in self._refused and self._refused[arm.key][0] == self._version

    def may_begin(self, trials: Sequence[TrialConfig], base: Case | None) -> bool:
        """Return whether the budget has room for a pack besides those at workers."""
        if not self.is_limited:
            return True
        if self.forecast is None:
            return False
        exceeded = self._exceeded(self._spent_and_running() + self._need_of(trials, base))
        if exceeded:
            self._refused[""] = self._version, exceeded
        return not exceeded

    def stop_if_spent(self) -> None:
        """Record that the search stops and why, if the budget has refused what is left. Call it when nothing runs."""
        if not any(version == self._version for version, _ in self._refused.values()):
            return
        self.record()
        account, sweep = self._ledger.state.account, self._sweep
        refused = [exceeded for version, exceeded in self._refused.values() if version == self._version]
        units = dict.fromkeys(unit for exceeded in refused for unit in exceeded)
        spent = spending_text(account.spent, sweep.budget, sweep.on_gpu)
        self.stopped = f"the search has stopped at its budget: {spent}; what is left would exceed the"
        self.stopped += f" {' and '.join(units)}"
        self._ledger.record_stop(self.stopped)

    @property
    def _known(self) -> Container[str]:
        """Ids of the trials that have ended or were asked for."""
        return {*self._asked, *self._ledger.state.outcomes}

    @property
    def _version(self) -> object:
        """A value that changes whenever a refusal might turn out differently."""
        record = self._ledger.state
        return len(record.outcomes), len(record.generated), len(self._at_workers)

    def _exceeded(self, spending: Spending) -> list[str]:
        assert self._sweep.budget is not None
        return self._sweep.budget.exceeded(spending, self._sweep.on_gpu)

    def _committed(self) -> Spending:
        """Return what will be spent once all that was asked for has ended."""
        assert self.forecast is not None
        outcomes = self._ledger.state.outcomes
        self._asked = {key: trial for key, trial in self._asked.items() if key not in outcomes}
        running = {trial.trial_id for pack in self._at_workers.values() for trial in pack.trials}
        running_and_spent = self._spent_and_running()
        counted = running | self.forecast.awaiting.keys()
        waiting = [trial for key, trial in self._asked.items() if key not in counted]
        return running_and_spent + Spending.total(map(self._left_of, waiting))

    def _spent_and_running(self) -> Spending:
        """Return what will be spent once the packs at workers have ended and the judge has graded what waits for it."""
        assert self.forecast is not None
        self.forecast.learn(self._ledger.state, self.spent)
        now, rest = self._clock(), []
        for pack in self._at_workers.values():
            gone = occupied(self._sweep.execution, now - pack.began)
            left = Spending.total(map(self._left_of, pack.trials))
            gpu_hours = max(0.0, pack.need.gpu_hours - gone.gpu_hours)
            core_hours = max(0.0, pack.need.core_hours - gone.core_hours)
            dollars = left.judge_dollars if pack.trials else pack.need.judge_dollars
            rest.append(Spending(gpu_hours, core_hours, left.tokens, dollars))
        running = {trial.trial_id for pack in self._at_workers.values() for trial in pack.trials}
        rest += [self._left_of(trial) for key, trial in self.forecast.awaiting.items() if key not in running]
        return self.spent + Spending.total(rest)

    def _need_of(self, trials: Sequence[TrialConfig], base: Case | None) -> Spending:
        """Return what a pack, or scoring a base model, is expected to take."""
        assert self.forecast is not None
        return self.forecast.base(base) if base else Spending.total(map(self._left_of, trials))

    def _left_of(self, trial: TrialConfig) -> Spending:
        assert self.forecast is not None
        return self.forecast.left_of(trial, self._ledger.state)
