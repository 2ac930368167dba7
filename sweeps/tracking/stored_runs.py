"""What an MLflow store has about a sweep: its runs, as a new driver finds them, and what they lack."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analysis.tables import long_tags, schema
from trainables.outcome import Outcome

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass
class StoredRun:
    """What is known about a run in the store.

    Attributes:
        run_id: MLflow's id of the run.
        ended: its outcome has been written; nothing else will be.
        failure: status and reason, if its trial failed or is invalid; it may be trained or judged again.
        interrupted: a driver closed it before it ended.
        auxiliary: its trial exists for others to build on; the search did not ask for it.
        status: how its trial ended.
        parent: id of the run above it.
        params: names of its parameters.
        points: (metric, step) -> value. A configuration's values change with the sweep, a trial's are written once.
        on_front: the frontier tag of a configuration's run.
    """

    run_id: str
    ended: bool = False
    failure: tuple[str, str] | None = None
    interrupted: bool = False
    auxiliary: bool = False
    status: str = ""
    parent: str = ""
    params: set[str] = field(default_factory=set)
    points: dict[tuple[str, int], float] = field(default_factory=dict)
    on_front: str = ""


@dataclass
class StoredRuns:
    """The runs of a sweep.

    Attributes:
        sweep: the run of the sweep itself.
        configurations, trials: id -> run.
        tags_are_whole: whether no tag of the sweep's run was cut; in earlier versions MLflow cut long tags.
    """

    sweep: StoredRun | None = None
    configurations: dict[str, StoredRun] = field(default_factory=dict)
    trials: dict[str, StoredRun] = field(default_factory=dict)
    tags_are_whole: bool = True

    def add(self, client: MlflowClient, run: Run) -> None:
        """Add a run from the store. Of several for the same thing, the newest counts; it comes first."""
        tags, stored = run.data.tags, _stored(run)
        kind, trial_id = tags.get(schema.KIND), tags.get(schema.TRIAL, "")
        if kind == schema.SWEEP_RUN and self.sweep is None:
            self.sweep = stored
            self.tags_are_whole = all(_is_json(tags, key) for key in (schema.SCORES, schema.BASE_SCORES))
        elif kind == schema.CONFIGURATION_RUN:
            num_seeds = int(run.data.metrics.get(schema.NUM_SEEDS, 0))
            steps = {schema.NUM_SEEDS: num_seeds}
            stored.points = {(name, steps.get(name, 0)): value for name, value in run.data.metrics.items()}
            stored.on_front = tags.get(schema.FRONTIER, "")
            self.configurations.setdefault(tags.get(schema.CONFIGURATION, ""), stored)
        elif kind == schema.TRIAL_RUN and trial_id not in self.trials:
            stored.ended = stored.ended and _is_json(tags, schema.COUNTS)  # otherwise its tags are written again
            if not stored.ended:
                histories = (client.get_metric_history(stored.run_id, name) for name in run.data.metrics)
                stored.points = {(metric.key, metric.step): metric.value for history in histories for metric in history}
            self.trials[trial_id] = stored

    def lacks(self, outcomes: Sequence[Outcome]) -> list[Outcome] | None:
        """Return the ended trials that are missing; None if the sweep's run is missing or its tags were cut.

        Their runs, or the runs above them, were deleted or never written.
        """
        if self.sweep is None or not self.tags_are_whole:
            return None
        return [outcome for outcome in outcomes if not self._has(outcome, self.sweep.run_id)]

    def _has(self, outcome: Outcome, sweep_run: str) -> bool:
        trial = self.trials.get(outcome.trial.trial_id)
        configuration = self.configurations.get(outcome.trial.configuration_id)
        if trial is None or configuration is None or not trial.ended or trial.status != outcome.status:
            return False
        return (trial.parent, configuration.parent) == (configuration.run_id, sweep_run)


def failure_of(status: str, reason: str) -> tuple[str, str] | None:
    """Return status and reason of a trial that may run again; None for any other."""
    return (status, reason) if status in ("failed", "invalid") else None


def _stored(run: Run) -> StoredRun:
    tags = run.data.tags
    status, is_over = tags.get(schema.STATUS, ""), run.info.status != "RUNNING"
    ended = is_over and status not in ("", schema.RUNNING)
    return StoredRun(
        run.info.run_id,
        ended,
        failure=failure_of(status, tags.get(schema.REASON, "")),
        interrupted=is_over and not ended,
        auxiliary=tags.get(schema.AUXILIARY) == "true",
        status=status,
        parent=tags.get(schema.PARENT, ""),
        params=set(run.data.params),
    )


def _is_json(tags: Mapping[str, str], key: str) -> bool:
    """Return whether a tag, if it is there, holds JSON."""
    try:
        json.loads(long_tags.whole(tags, key) or "{}")
    except ValueError:
        return False
    return True
