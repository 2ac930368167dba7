"""A sweep's runs in an MLflow store: sweep run -> configuration runs -> trial runs, under the names of the schema.

Runs are found again by their tags, so that a trial has one run and a metric one value per step, whatever was killed
when.
"""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from analysis.statistics.arrays import finite_or_none
from analysis.tables import long_tags, mlflow_client, schema
from analysis.tables.mlflow_checks import reason_of
from settings.common.addresses import SQLITE, sqlite_file, without_password
from settings.common.errors import UserError
from settings.common.files import replacing_file
from settings.setting import Measurement
from sweeps.sweep import Sweep
from sweeps.tracking import projection
from sweeps.tracking.projection import Point
from sweeps.tracking.stored_runs import StoredRun, StoredRuns, failure_of
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
RUN_STATUS: Mapping[str, RunStatus] = {
    "finished": "FINISHED",
    "invalid": "FAILED",
    "failed": "FAILED",
    "stopped": "KILLED",
}
BATCH = 1000  # metrics in one log_batch; the limit of a server
TAG_BATCH = 100  # tags, likewise


class SweepStore:
    """Writes one sweep to a store, from one thread. Every method may be repeated after a failure.

    Args:
        uri: of the store.
        sweep: that is written.
        artifact_root: folder of the artifacts of a new experiment; None leaves it to the server.
    """

    def __init__(self, uri: str, sweep: Sweep, artifact_root: Path | None) -> None:
        self._uri, self._sweep, self._artifact_root = uri, sweep, artifact_root
        self._shared = {schema.SWEEP: sweep.name, schema.IDENTITY: sweep.identity()}
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._runs = StoredRuns()
        self._progress: dict[str, list[Point]] = {}  # trial id -> points that wait for the next flush
        self._started: dict[str, TrialConfig] = {}  # trial id -> trial that runs and whose parameters may be lacking
        self._outcomes: dict[str, dict[int, Outcome]] = {}  # configuration id -> seed -> outcome
        self._bases: dict[str, dict[str, float | None]] = {}

    @property
    def client(self) -> MlflowClient:
        """The client of a connected store."""
        assert self._client is not None
        return self._client

    @property
    def is_connected(self) -> bool:
        """Whether the store is open, and what it has of the sweep is known."""
        return self._client is not None

    def connect(self) -> None:
        """Open the store and find the sweep's runs again. Make database and experiment if need be."""
        if self._client is not None:
            return
        client = open_client(self._uri)
        self._experiment = self._open_experiment(client)
        self._runs = StoredRuns()
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self._shared.items())
        for run in mlflow_client.search_runs(client, [self._experiment], condition):
            self._runs.add(client, run)
        self._client = client

    def disconnect(self) -> None:
        """Forget the connection and all runs; `connect` reads them anew."""
        self._client = None

    def _open_experiment(self, client: MlflowClient) -> str:
        name = self._sweep.name
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            root = self._artifact_root
            location = (root.resolve() / name).as_uri() if root else None
            return client.create_experiment(name, artifact_location=location)
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return experiment.experiment_id

    def lacks(self, outcomes: Sequence[Outcome]) -> list[Outcome] | None:
        """Return the ended trials that the store lacks; None where it lacks what the sweep itself says."""
        return self._runs.lacks(outcomes)

    def open_sweep(self, description: str) -> None:
        """Make the sweep's run, or open it again."""
        tags = projection.sweep_tags(self._sweep) | self._shared | {schema.KIND: schema.SWEEP_RUN}
        if description:
            tags[schema.DESCRIPTION] = description
        run = self._run_of_sweep()
        self.client.update_run(run.run_id, status="RUNNING")
        self._write(run, tags=tags, params=projection.sweep_params(self._sweep))

    def _run_of_sweep(self) -> StoredRun:
        if self._runs.sweep is None:
            tags = self._shared | {schema.KIND: schema.SWEEP_RUN}
            self._runs.sweep = self._create(self._sweep.name, tags)
        return self._runs.sweep

    def _create(self, name: str, tags: Mapping[str, str], parent: str = "") -> StoredRun:
        above = {schema.PARENT: parent} if parent else {}
        run = self.client.create_run(self._experiment, run_name=name, tags=long_tags.split(tags) | above)
        return StoredRun(run.info.run_id, parent=parent)

    def _put_below(self, run: StoredRun, parent: str) -> None:
        """Move a run below another one that was made anew, because the one above it was deleted."""
        if run.parent != parent:
            self._write(run, tags={schema.PARENT: parent})
            run.parent = parent

    def _run_of_configuration(self, trial: TrialConfig) -> StoredRun:
        key, above = trial.configuration_id, self._run_of_sweep().run_id
        if key not in self._runs.configurations:
            tags = self._tags(schema.CONFIGURATION_RUN, trial)
            self._runs.configurations[key] = self._create(self._sweep.title_of(trial), tags, above)
        stored = self._runs.configurations[key]
        self._put_below(stored, above)
        if not stored.params:
            self._write(stored, params=projection.configuration_params(trial))
        return stored

    def _run_of_trial(self, trial: TrialConfig) -> StoredRun:
        key, above = trial.trial_id, self._run_of_configuration(trial).run_id
        if key not in self._runs.trials:
            tags = self._tags(schema.TRIAL_RUN, trial) | {
                schema.TRIAL: key,
                schema.SEED: str(trial.seed),
                schema.STATUS: schema.RUNNING,
            }
            name = f"{self._sweep.title_of(trial)} seed={trial.seed}"
            self._runs.trials[key] = self._create(name, tags, above)
        self._put_below(self._runs.trials[key], above)
        return self._runs.trials[key]

    def _tags(self, kind: str, trial: TrialConfig) -> dict[str, str]:
        return self._shared | {schema.KIND: kind} | projection.configuration_tags(self._sweep, trial)

    def started(self, trial: TrialConfig) -> None:
        """Make the trial's run, or open again one that an earlier driver left unfinished.

        Its parameters go with the first batch that is due anyway: of the next flush, or of its outcome.
        """
        self._delete_failed_run(trial)
        run = self._run_of_trial(trial)
        for stored in (run, self._run_of_configuration(trial)):
            if stored.interrupted:
                self.client.update_run(stored.run_id, status="RUNNING")
                stored.interrupted = False
        if not run.ended:
            self._started[trial.trial_id] = trial

    def _delete_failed_run(self, trial: TrialConfig) -> None:
        """Delete the run of a trial that is trained or judged again: what it says is no longer so."""
        run = self._runs.trials.get(trial.trial_id)
        if run and run.failure is not None:
            self.client.delete_run(run.run_id)
            del self._runs.trials[trial.trial_id]

    def progress(self, trial_id: str, step: int, metrics: Mapping[str, float], now: int) -> None:
        """Keep training metrics until the next flush."""
        self._progress.setdefault(trial_id, []).extend(projection.progress_points(step, metrics, now))

    def flush(self) -> None:
        """Write progress and parameters of running trials, and drop those of trials that ended or are unknown."""
        for trial_id in list(dict.fromkeys([*self._progress, *self._started])):
            run, trial = self._runs.trials.get(trial_id), self._started.get(trial_id)
            if run and not run.ended:
                params = projection.trial_params(trial) if trial else None
                self._write(run, metrics=self._progress.get(trial_id, ()), params=params)
            self._progress.pop(trial_id, None)
            self._started.pop(trial_id, None)

    def outcome(self, outcome: Outcome, auxiliary: bool = False) -> None:
        """Write how a trial ended, and its configuration's means once all seeds are in."""
        trial, reason = outcome.trial, projection.short_reason(outcome)
        if (outcome.status, reason) != self._run_of_trial(trial).failure:
            self._delete_failed_run(trial)
        run = self._run_of_trial(trial)
        if run.auxiliary != auxiliary:  # the search may ask later for what others have built on already
            for stored in (run, self._run_of_configuration(trial)):
                self._write(stored, tags={schema.AUXILIARY: str(auxiliary).lower()})
            run.auxiliary = auxiliary
        if not run.ended:
            metrics = self._progress.get(trial.trial_id, []) + projection.outcome_points(outcome)
            metrics += projection.cost_points(outcome, self._sweep)
            params, tags = projection.trial_params(trial), projection.outcome_tags(outcome)
            self._write(run, metrics=metrics, params=params, tags=tags)
            self.client.set_terminated(run.run_id, RUN_STATUS[outcome.status])
            run.ended, run.failure = True, failure_of(outcome.status, reason)
            run.status = outcome.status
        self._progress.pop(trial.trial_id, None)
        self._started.pop(trial.trial_id, None)
        self._outcomes.setdefault(trial.configuration_id, {})[trial.seed] = outcome
        self._finish_configuration(trial)

    def _finish_configuration(self, trial: TrialConfig) -> None:
        outcomes = self._outcomes[trial.configuration_id]
        if not set(self._sweep.seed_values) <= set(outcomes):
            return
        finished = [outcome for outcome in outcomes.values() if outcome.status == "finished"]
        run = self._run_of_configuration(trial)
        if run.ended and (schema.NUM_SEEDS, len(finished)) in run.points:
            return
        self._write(run, metrics=projection.configuration_points(finished), tags={schema.STATUS: "finished"})
        self.client.set_terminated(run.run_id, "FINISHED" if finished else "FAILED")
        run.ended = True

    def bases(self, scores_of: Mapping[str, Mapping[str, Measurement]]) -> None:
        """Write base models' scores: score -> mean; in a sweep of several settings, setting -> score -> mean."""
        for setting, scores in scores_of.items():
            self._bases[setting] = {name: finite_or_none(score.mean) for name, score in scores.items()}
        single = len(self._sweep.settings) == 1
        shown = next(iter(self._bases.values()), {}) if single else self._bases
        self._write(self._run_of_sweep(), tags={schema.BASE_SCORES: json.dumps(shown)})

    def artifact(self, path: Path, folder: str | None) -> None:
        """Copy a file or folder to the sweep's artifacts. Raise FileNotFoundError."""
        if path.is_dir():
            self.client.log_artifacts(self._run_of_sweep().run_id, str(path), folder)
        else:
            self.client.log_artifact(self._run_of_sweep().run_id, str(path), folder)

    def describe(self, markdown: str) -> None:
        """Set the sweep's description; `{run_id}` in it stands for the run's id."""
        run = self._run_of_sweep()
        text = projection.shortened(markdown.replace("{run_id}", run.run_id), long_tags.LONGEST)
        self._write(run, tags={schema.DESCRIPTION: text})

    def close(self, status: RunStatus) -> None:
        """End the sweep's run, and unfinished ones as killed: a later driver opens them again."""
        self.flush()
        for run in [*self._runs.trials.values(), *self._runs.configurations.values()]:
            if not run.ended:
                self.client.set_terminated(run.run_id, "KILLED")
        self.client.set_terminated(self._run_of_sweep().run_id, status)

    def _write(
        self,
        run: StoredRun,
        metrics: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write what the run lacks, in as few batches as the limit allows; tags come last."""
        from mlflow.entities import Metric, Param, RunTag

        new_points = {(key, step): (value, now) for key, value, now, step in metrics if (key, step) not in run.points}
        new_params = {key: value for key, value in (params or {}).items() if key not in run.params}
        points = [Metric(key, _or_nan(value), now, step) for (key, step), (value, now) in new_points.items()]
        batches = [points[start : start + BATCH] for start in range(0, len(points), BATCH)] or [[]]
        last = [RunTag(key, value) for key, value in long_tags.split(tags or {}).items()]
        for batch in batches[:-1]:
            self.client.log_batch(run.run_id, metrics=batch)
        while len(last) > TAG_BATCH:
            self.client.log_batch(run.run_id, tags=last[:TAG_BATCH])
            del last[:TAG_BATCH]
        if batches[-1] or new_params or last:
            new = [Param(key, value) for key, value in new_params.items()]
            self.client.log_batch(run.run_id, metrics=batches[-1], params=new, tags=last)
        run.points.update(new_points)
        run.params.update(new_params)


def log_files(uri: str, run_id: str, files: Sequence[Path], folder: str) -> None:
    """Copy files to a run's artifacts. Raise UserError."""
    try:
        client = open_client(uri)
        for file in files:
            client.log_artifact(run_id, str(file), folder)
    except mlflow_client.store_errors() as error:
        where = without_password(uri)
        reason = reason_of(error, uri)
        raise UserError(f"{files[0].parent} is written, but cannot be logged to {where}: {reason}") from error


def open_client(uri: str) -> MlflowClient:
    """Return a client. An SQLite store is made if it is not there, and kept in write-ahead mode."""
    if path := sqlite_file(uri):
        if not path.exists():
            _create(path)
        with closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    return mlflow_client.connect(uri)


def _create(path: Path) -> None:
    """Make an SQLite store in one move. MLflow needs seconds for its tables, and never accepts half of them."""
    with tempfile.TemporaryDirectory(prefix="selgen-") as folder, replacing_file(path, keep=True) as temporary:
        complete = Path(folder) / path.name
        mlflow_client.connect(f"{SQLITE}{complete}").search_experiments()
        with closing(sqlite3.connect(complete)) as source, closing(sqlite3.connect(temporary)) as target:
            source.backup(target)


def _or_nan(value: float) -> float:
    """Replace infinity, which MLflow stores as 1.8e308 and which then ruins every plot."""
    return float(value) if math.isfinite(value) else math.nan
