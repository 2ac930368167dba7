"""Decide what a sweep's workers do next, and what happens to their results: a data structure, without Ray."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from settings.common.errors import UserError
from settings.common.files import remove
from settings.setting import Measurement
from sweeps.ledger import Ledger
from sweeps.search.accountant import Accountant
from sweeps.search.failures import reason_of
from sweeps.search.judging import GradingQueue
from sweeps.search.pack_queue import InFlightPack, PackQueue
from sweeps.search.results import Observer, Results
from sweeps.search.snapshots import checkpoints_read, snapshots_of
from sweeps.search.sweep_search import SweepSearch
from sweeps.sweep import Sweep
from trainables.folder import SweepFolder
from trainables.messages import Job, ScoreBase, TrainPack
from trainables.outcome import Outcome
from trainables.trial import base_id, pack_id

OUT_OF_MEMORY = re.compile(r"out of memory|low on memory|OutOfMemory|MemoryError", re.IGNORECASE)
logger = logging.getLogger(__name__)


class NoJob(Enum):
    """Why a worker gets no job: results must come first, or no more jobs will come."""

    WAIT = "wait"
    FINISHED = "finished"


class PackScheduler:
    """Hand out packs, and record what comes back: ledger first, then study, then observers.

    Trials that others build on (priors, trainings to be read out) are trained first, once, whether or not the sweep
    asks for them itself. A pack that runs out of memory is handed out again in halves, and later packs of its
    setting are as small.

    A `UserError`, from the disk or about something that only the user can fix, ends the search: it is kept in
    `problem`, and from then on nothing is handed out and no result is taken.

    Args:
        sweep: what to run.
        ledger: an open ledger; nothing in it is run again.
        folder: the ledger's folder, where study and checkpoints are kept.
        observers: others that learn of packs and results.
        judging: for settings whose replies a judge grades or a server samples; their trials end when their grades are
            in, while others train.
        account: account of what is spent; None starts one without a forecast.
        interrupted: returns whether the user wants to stop; if so, the scheduler does not wait for the judge.

    Attributes:
        problem: why the search ended early; None if it did not.
        search: the search of all arms.
    """

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        folder: Path,
        *,
        observers: Sequence[Observer] = (),
        judging: GradingQueue | None = None,
        account: Accountant | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.problem: UserError | None = None
        self._account = account or Accountant(sweep, ledger)
        self.search = SweepSearch(sweep, ledger, folder, self._account)
        self._sweep, self._ledger, self._folder = sweep, ledger, folder
        self._checkpoints = checkpoints_read(sweep)
        self._observers, self._is_judged, self._interrupted = tuple(observers), judging is not None, interrupted
        self._results = Results(sweep, ledger, self.search, folder, self._observers, judging)
        self._queue = PackQueue(sweep, ledger, self.search)
        self._in_flight: dict[str, InFlightPack] = {}  # at workers, by name
        for trial_id, outcome in ledger.state.generated.items():
            if trial_id not in ledger.state.outcomes:
                self._results.judge(outcome)
        self._queue.restore(self.search.restore())

    @property
    def done(self) -> bool:
        """Whether nothing is left to run: every arm is exhausted, every trial ended, every base scored."""
        waiting = self._queue.packs or self._queue.has_trials or self._in_flight or self._results.num_judging
        return not waiting and self.search.exhausted

    @property
    def idle(self) -> bool:
        """Whether nothing is left to run, or what is left does not fit the sweep's budget."""
        return self.done or bool(self._account.stopped)

    @property
    def notes(self) -> list[str]:
        """What the user should know at the end: arms that ended early, base models without a score, a spent budget."""
        return [*self.search.notes, *self._results.notes, *filter(None, [self._account.stopped])]

    # --- what is handed out ---

    def awaits_only_grades(self) -> bool:
        """Return whether only grades are awaited: no pack is queued or at a worker."""
        if self.problem or not self._results.num_judging:
            return False
        with self._ending_on_problem():
            self._queue.fill(self._results.end)
        return not (self.problem or self._queue.packs or self._in_flight)

    def keep_account(self, now: bool = False) -> None:
        """Record what was spent: now, or only if the last record is old."""
        with self._ending_on_problem():
            (self._account.record if now else self._account.tick)()

    def collect_grades(self) -> None:
        """End the trials whose grades are in."""
        with self._ending_on_problem():
            self._results.collect_grades()

    def next_job(self, name: str) -> Job | NoJob:
        """Take the next pack and call it `name`, or return why there is none."""
        if self.problem:
            return NoJob.FINISHED
        with self._ending_on_problem():
            self._results.collect_grades()
            self._queue.fill(self._results.end)
            if pack := self._queue.take(self._may_begin):
                self._in_flight[name] = pack
                self._account.begin(name, list(pack.waiting.values()), pack.base)
                return self._job_of(pack)
            if self._more_may_come():
                return NoJob.WAIT
            self._stop_at_budget()
        return NoJob.FINISHED

    def look_for_work(self) -> None:
        """Ask for what fits into the budget; if nothing fits and nothing is awaited, stop the search."""
        with self._ending_on_problem():
            self._queue.fill(self._results.end)
            if not (any(map(self._may_begin, self._queue.packs)) or self._more_may_come()):
                self._stop_at_budget()

    def _may_begin(self, pack: InFlightPack) -> bool:
        return self._account.may_begin(list(pack.waiting.values()), pack.base)

    def _stop_at_budget(self) -> None:
        if not (self._in_flight or self._results.num_judging):
            self._account.stop_if_spent()

    def _more_may_come(self) -> bool:
        """Whether packs in flight or the judge may bring more work. After FINISHED, Tune never asks again."""
        least = 0 if self._sweep.search.early_stopping else 1
        if any(len(pack.waiting) > least for pack in self._in_flight.values()):
            return True  # trials may come back from a rung, or in halves
        if self._in_flight and (self._queue.packs or self._queue.has_trials or not self.search.exhausted):
            return True
        return bool(self._is_judged and (self._in_flight or self._results.num_judging) and not self._interrupted())

    def _job_of(self, pack: InFlightPack) -> Job:
        if pack.base:
            return ScoreBase(pack.base.ref, self._sweep.adapters_of(pack.base), not pack.base.replies_elsewhere)
        pause_after = [self.search.next_rung(trial) for trial in pack.members]
        self._ledger.record_dispatch([trial.trial_id for trial in pack.members], pause_after)
        for observer in self._observers:
            observer.pack_started(list(pack.waiting.values()))
        return TrainPack(tuple(pack.members), snapshots_of(pack.members, self._checkpoints), tuple(pause_after))

    # --- what comes back ---

    def report(
        self,
        name: str,
        *,
        outcomes: Sequence[Outcome] = (),
        rungs: Sequence[Outcome] = (),
        base: Mapping[str, Measurement] | None = None,
    ) -> None:
        """Take in a worker's report on the pack `name`. Repeating a report changes nothing.

        Args:
            outcomes: how members ended.
            rungs: results so far of members that paused at a rung, as trials of fewer updates.
            base: the scores of the base model, if the pack scores one.
        """
        with self._ending_on_problem():
            if pack := self._pack_of_report(name):
                self._receive(pack, outcomes, rungs)
                if pack.base and base is not None:
                    self._results.base_scored(pack.base, base)
                    pack.base = None

    def fail(self, name: str, text: str) -> None:
        """Fail the unfinished trials of the pack `name`, or hand them out in halves if memory was lacking.

        Args:
            text: a line or a traceback; the ledger keeps one line.
        """
        with self._ending_on_problem():
            if pack := self._pack_of_report(name):
                file = base_id(pack.base.setting) if pack.base else pack_id(pack.members)
                reason = reason_of(text, self._folder, file)
                if OUT_OF_MEMORY.search(reason):
                    self._halve(pack, reason)
                    return
                self._note_unscored(pack, reason)
                lost = [Outcome(trial=trial, status="failed", reason=reason) for trial in pack.waiting.values()]
                self._receive(pack, lost)

    def halve(self, name: str, reason: str) -> None:
        """Hand out the pack `name`, which ran out of memory, again as two packs of half its size."""
        with self._ending_on_problem():
            if pack := self._pack_of_report(name):
                self._halve(pack, reason)

    def close(self, name: str) -> None:
        """Forget the pack `name`, which has left its worker. The next start trains its trials without an outcome."""
        pack = self._in_flight.pop(name, None)
        with self._ending_on_problem():
            self._account.end(name)
        if pack and pack.waiting:
            logger.info("a pack ended without the outcome of %d trials; the next start runs them", len(pack.waiting))

    def abort(self, problem: UserError) -> None:
        """End the search because of a problem that only the user can fix; the first one is kept."""
        self.problem = self.problem or problem

    def _pack_of_report(self, name: str) -> InFlightPack | None:
        """Return the pack that a report is about; None once it is closed or the search has ended."""
        return None if self.problem else self._in_flight.get(name)

    @contextmanager
    def _ending_on_problem(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.abort(error)

    def _halve(self, pack: InFlightPack, reason: str) -> None:
        """Queue the trials of a pack in halves, before all others; one that does not fit on its own fails."""
        self._note_unscored(pack, f"out of memory: {reason}")
        trials = list(pack.waiting.values())
        pack.waiting.clear()
        if len(trials) == 1:
            advice = "try rows_per_forward=1 and gradient_checkpointing=True"
            reason = f"out of memory even on its own; {advice} ({reason})"
            self._results.end(Outcome(trial=trials[0], status="failed", reason=reason))
        elif trials:
            self._queue.put_back_halves(trials)
            self._results.notes.append(
                f"a pack of {len(trials)} trials ran out of memory and is trained in halves ({reason})"
            )

    def _note_unscored(self, pack: InFlightPack, reason: str) -> None:
        """Note that a base model, if the pack scores one, has no score."""
        if pack.base:
            self._results.no_base(pack.base, reason)
            pack.base = None

    def _receive(self, pack: InFlightPack, outcomes: Sequence[Outcome], rungs: Sequence[Outcome] = ()) -> None:
        for outcome in outcomes:
            if pack.waiting.pop(outcome.trial.trial_id, None):
                self._results.trained(outcome)
        for outcome in rungs:
            trial = pack.waiting.pop(outcome.trial.full_training.trial_id, None)
            if trial:
                self._ledger.record_rung(outcome)
                self._queue.put_back(trial)
        if pack.members and not pack.waiting:
            remove(SweepFolder(self._folder).checkpoint(pack_id(pack.members)))
