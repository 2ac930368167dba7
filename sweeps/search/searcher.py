"""The scheduler as Ray Tune wants it. The only module of the search that imports Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.search.scheduler import NoJob, PackScheduler
from trainables.outcome import Outcome


class PackSearcher(Searcher):
    """Give Ray Tune the scheduler's packs, and the scheduler what Tune's trials report.

    A Tune configuration is `{"pack": {"kind": "train", "trials": [TrialConfig.to_json(), ...], "snapshots": [...]}}` or
    `{"pack": {"kind": "base", "setting": {"name": ..., "options": {...}}}}`. A result may carry `outcomes` and `rungs`,
    lists of `Outcome.to_json()`, and `base`, a dict of score name -> measurement; each may come in several results. A
    result with `user_error`, one line about what only the user can put right, ends the search; `failed` is the
    traceback of a pack that has failed, `out_of_memory` the reason of one that is to be halved.

    Args:
        scheduler: has the packs. After `Tuner.fit`, its `problem` says whether the search ended early.
        reason: tells why a Tune trial failed, as a line or a traceback.
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
        """Return the next pack; None when results must come first; FINISHED when no more will come."""
        job = self._scheduler.next_job(trial_id)
        if job is NoJob.FINISHED:
            return Searcher.FINISHED
        return None if job is NoJob.WAIT else {"pack": job}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass on what a worker reports."""
        if result.get("user_error"):
            self._scheduler.abort(UserError(str(result["user_error"])))
        elif result.get("out_of_memory"):
            self._scheduler.halve(trial_id, str(result["out_of_memory"]))
        elif result.get("failed"):
            self._scheduler.fail(trial_id, str(result["failed"]))
        else:
            try:
                outcomes = [Outcome.from_json(data) for data in result.get("outcomes") or ()]
                rungs = [Outcome.from_json(data) for data in result.get("rungs") or ()]
            except UserError as error:  # written by another version of the training code
                self._scheduler.abort(error)
                return
            scores = {name: Measurement(**score) for name, score in _branch(result, "base").items()}
            base = scores if scores or result.get("done") else None
            self._scheduler.report(trial_id, outcomes=outcomes, rungs=rungs, base=base)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Close a pack. With `error`, its trials without an outcome have failed; else the next start runs them."""
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


def _branch(result: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Return `result[key]`, a dict of dicts, also when Tune has flattened it to "key/score/field" entries."""
    if isinstance(result.get(key), Mapping):
        return dict(result[key])
    branch: dict[str, dict[str, Any]] = {}
    for path, value in result.items():
        if path.startswith(f"{key}/"):
            name, _, leaf = path.removeprefix(f"{key}/").rpartition("/")
            branch.setdefault(name, {})[leaf] = value
    return branch
