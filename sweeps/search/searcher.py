"""The scheduler as a searcher of Ray Tune. The only module of the search that imports Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from settings.common.errors import UserError
from sweeps.search.scheduler import NoJob, PackScheduler
from trainables.messages import Ended, Failed, OutOfMemory, PackReport, UserProblem, to_config


class PackSearcher(Searcher):
    """Give Ray Tune the scheduler's packs, and the scheduler the reports of Tune's trials.

    Jobs and reports cross Tune in the form of `trainables.messages`. A pack may send any number of reports, and the
    same one twice.

    Args:
        scheduler: has the packs. After `Tuner.fit`, its `problem` says whether the search ended early.
        reason: returns why a Tune trial failed, as a line or a traceback.
    """

    def __init__(
        self,
        scheduler: PackScheduler,
        *,
        reason: Callable[[str], str] = lambda trial_id: "the worker that trained it died or raised an error",
    ) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._reason = reason

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next pack; None if results must come first; FINISHED if no more will come."""
        job = self._scheduler.next_job(trial_id)
        if job is NoJob.FINISHED:
            return Searcher.FINISHED
        return None if job is NoJob.WAIT else to_config(job)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on what a worker reports."""
        try:
            report = PackReport.from_result(result)
        except UserError as error:  # written by another version of the training code
            self._scheduler.abort(error)
            return
        match report.end if report else None:
            case Ended(outcomes, rungs, base):
                self._scheduler.report(trial_id, outcomes=outcomes, rungs=rungs, base=base)
            case UserProblem(text):
                self._scheduler.abort(UserError(text))
            case OutOfMemory(reason):
                self._scheduler.halve(trial_id, reason)
            case Failed(traceback):
                self._scheduler.fail(trial_id, traceback)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Close a pack. With `error`, its trials without an outcome have failed; otherwise the next start runs them."""
        if result:
            self.on_trial_result(trial_id, result)
        if error:
            self._scheduler.fail(trial_id, self._reason(trial_id))
        self._scheduler.close(trial_id)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Accept Tune's own metric, mode and search space, and use none of them."""
        return True

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing: the ledger has it all, at any time."""

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Restore nothing: a new scheduler on the same ledger continues."""

    def save(self, checkpoint_path: str) -> None:
        """See `save_to_dir`."""

    def restore(self, checkpoint_path: str) -> None:
        """See `restore_from_dir`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration; open files and observers stay here
