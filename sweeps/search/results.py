"""Pass on results: to the ledger first, then to the study, then to observers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from settings.common.files import remove
from settings.setting import Measurement, Setting
from sweeps.case import Case
from sweeps.ledger import Ledger
from sweeps.search.judging import Grades, GradingQueue
from sweeps.search.sweep_search import SweepSearch
from sweeps.sweep import Sweep
from trainables.folder import SweepFolder
from trainables.outcome import Outcome
from trainables.trial import TrialConfig


class Observer(Protocol):
    """An observer of events, called after the ledger has them. None of the methods may raise."""

    def pack_started(self, trials: Sequence[TrialConfig]) -> None:
        """Note that trials went to a worker as one pack."""

    def base_scored(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        """Note the scores of the untouched base model of a setting, which is named by its label."""

    def trial_ended(self, outcome: Outcome, auxiliary: bool) -> None:
        """Note how a trial ended; an auxiliary one exists only for others to build on."""


class Results:
    """Record how trials end and what base models score, and have the driver do what workers leave to it.

    Args:
        sweep, ledger, search: what runs, what has ended, and the search of all arms.
        folder: the sweep's folder.
        observers: others that learn of results.
        judging: for settings whose replies a judge grades or a server samples.

    Attributes:
        notes: base models without a score.
    """

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        search: SweepSearch,
        folder: Path,
        observers: Sequence[Observer],
        judging: GradingQueue | None,
    ) -> None:
        self.notes: list[str] = []
        self._sweep, self._ledger, self._search, self._folder = sweep, ledger, search, folder
        self._observers, self._judging = observers, judging

    @property
    def num_judging(self) -> int:
        """The number of models that wait for replies or grades."""
        return self._judging.pending if self._judging else 0

    def trained(self, outcome: Outcome) -> None:
        """Take in a trial from a worker: it has ended, or waits for its grades."""
        if outcome.status == "finished" and self._sweep.case_of(outcome.trial.setting).graded_later:
            self._ledger.record_generated(outcome)
            self.judge(outcome)
        else:
            self.end(outcome)

    def end(self, outcome: Outcome) -> None:
        """Record how a trial ended, and tell the configurations that this completes."""
        if not self._ledger.record_outcome(outcome):
            return
        if self._sweep.search.early_stopping:
            remove(SweepFolder(self._folder).paused(outcome.trial.trial_id))
        self._search.tell(outcome.trial)
        auxiliary = self._search.is_auxiliary(outcome.trial)
        for observer in self._observers:
            observer.trial_ended(outcome, auxiliary)

    def base_scored(self, case: Case, scores: Mapping[str, Measurement]) -> None:
        """Record what a base model scores, once all of its grades are in."""
        if any(score.name not in scores for evaluation in case.graded_later for score in evaluation.scores):
            assert self._judging is not None
            self._judging.submit((case, scores), case.setting, None)
        elif self._ledger.record_base_scores(case.label, scores):
            for observer in self._observers:
                observer.base_scored(case.label, scores)

    def no_base(self, case: Case, reason: str) -> None:
        """Note that a base model has no score."""
        self.notes.append(f"{case.label}: no score of the base model ({reason}); the next start tries again")

    def judge(self, outcome: Outcome) -> None:
        """Have a trial's replies sampled and graded where the worker has not done so."""
        assert self._judging is not None
        self._judging.submit(outcome, self._sweep.case_of(outcome.trial.setting).setting, outcome.trial)

    def collect_grades(self) -> None:
        """End the trials whose grades are in. Raise an endpoint's UserError."""
        for graded, grades in self._judging.collect() if self._judging else ():
            if isinstance(graded, Outcome):
                self.end(_with_grades(graded, grades, self._sweep.case_of(graded.trial.setting).setting))
            else:
                case, scores = graded
                if grades.problem:
                    self.no_base(case, grades.problem)
                else:
                    self.base_scored(case, case.setting.with_worst({**scores, **grades.scores}))


def _with_grades(outcome: Outcome, grades: Grades, setting: Setting) -> Outcome:
    """Add a judge's scores to an outcome; it becomes invalid if they cannot be trusted."""
    if grades.problem:
        return replace(outcome, status="invalid", reason=grades.problem)
    return replace(outcome, scores=setting.with_worst({**outcome.scores, **grades.scores}))
