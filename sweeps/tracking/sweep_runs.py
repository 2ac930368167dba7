"""A sweep's runs in an MLflow store, found by tags or made: sweep run -> configuration runs -> trial runs.

So a trial has one run, and a metric one value per step, whatever was killed and when.
"""

from __future__ import annotations

import math
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.tables import long_tags, mlflow_client, schema
from settings.common.addresses import SQLITE, sqlite_file
from settings.common.files import cache_root, replacing_file
from sweeps.sweep import Sweep
from sweeps.tracking import projection
from sweeps.tracking.datasets import CaseDatasets
from sweeps.tracking.models import LoggedAdapters
from sweeps.tracking.projection import Point
from sweeps.tracking.run_writers import RunWriter, writer_of
from sweeps.tracking.stored_runs import StoredRun, StoredRuns
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient


BATCH = 1000  # metrics in one log_batch: the server's limit
TAG_BATCH = 100  # tags, likewise


class SweepRuns:
    """The runs of one sweep in one store.

    Args:
        uri: URI of the store.
        sweep: the sweep to write.
        artifact_root: artifact folder of a new experiment; None leaves it to the server.
    """

    def __init__(self, uri: str, sweep: Sweep, artifact_root: Path | None) -> None:
        self._uri, self._sweep, self._artifact_root = uri, sweep, artifact_root
        self._shared = {schema.SWEEP: sweep.name, schema.IDENTITY: sweep.identity()}
        self._client: MlflowClient | None = None
        self._writer: RunWriter  # of a connected store
        self._experiment = ""
        self._runs = StoredRuns()
        self._datasets = {case.label: CaseDatasets(case) for case in sweep.cases}
        self._models: LoggedAdapters | None = None

    @property
    def client(self) -> MlflowClient:
        """The client of a connected store, after writing everything that waits."""
        assert self._client is not None
        self._writer.commit()
        return self._client

    @property
    def waits(self) -> int:
        """Number of rows to be written with the next `commit`."""
        return self._writer.waits if self._client else 0

    def commit(self) -> None:
        """Write everything that waits."""
        self._writer.commit()

    @property
    def is_connected(self) -> bool:
        """Whether the store is open and its runs of the sweep are known."""
        return self._client is not None

    def connect(self) -> None:
        """Open the store and find the sweep's runs. Make database and experiment if needed."""
        if self._client is not None:
            return
        client = open_client(self._uri)
        self._writer = writer_of(client, sqlite_file(self._uri) is not None)
        self._experiment = self._open_experiment(client)
        self._runs = StoredRuns()
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self._shared.items())
        for run in mlflow_client.search_runs(client, [self._experiment], condition):
            self._runs.add(client, run)
        self._client = client

    def disconnect(self) -> None:
        """Forget the connection and all runs; `connect` reads them anew."""
        self._client = self._models = None

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
        """Return the ended trials that the store lacks; None if it lacks the sweep's own run or tags."""
        return self._runs.lacks(outcomes)

    def _run_of_sweep(self) -> StoredRun:
        if self._runs.sweep is None:
            tags = self._shared | {schema.KIND: schema.SWEEP_RUN}
            self._runs.sweep = self._create(self._sweep.name, tags)
        return self._runs.sweep

    def _create(self, name: str, tags: Mapping[str, str], parent: str = "") -> StoredRun:
        above = {schema.PARENT: parent} if parent else {}
        run_id = self._writer.create(self._experiment, name, long_tags.split(tags) | above)
        return StoredRun(run_id, parent=parent)

    def _put_below(self, run: StoredRun, parent: str) -> None:
        """Move a run below a new parent, made because the old one was deleted."""
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
            self._log_inputs(stored, trial)
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

    def _log_inputs(self, run: StoredRun, trial: TrialConfig) -> None:
        """Write which rows a trial reads."""
        case = self._sweep.case_of(trial.setting)
        self._writer.log_inputs(self._experiment, run.run_id, self._datasets[case.label].read_by([trial]))

    def _write(
        self,
        run: StoredRun,
        metrics: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        revise: bool = False,
    ) -> None:
        """Write what the run lacks, in as few batches as the limits allow; tags come last.

        Args:
            revise: also overwrite metrics that have another value.
        """
        from mlflow.entities import Metric, Param, RunTag

        new_points = {
            (key, step): (value, now)
            for key, value, now, step in metrics
            if (key, step) not in run.points or (revise and not _equal(run.points[key, step], value))
        }
        new_params = {key: value for key, value in (params or {}).items() if key not in run.params}
        points = [Metric(key, _or_nan(value), now, step) for (key, step), (value, now) in new_points.items()]
        batches = [points[start : start + BATCH] for start in range(0, len(points), BATCH)] or [[]]
        last = [RunTag(key, value) for key, value in long_tags.split(tags or {}).items()]
        for batch in batches[:-1]:
            self._writer.log(run.run_id, metrics=batch)
        while len(last) > TAG_BATCH:
            self._writer.log(run.run_id, tags=last[:TAG_BATCH])
            del last[:TAG_BATCH]
        if batches[-1] or new_params or last:
            new = [Param(key, value) for key, value in new_params.items()]
            self._writer.log(run.run_id, metrics=batches[-1], params=new, tags=last)
        run.points.update((key, value) for key, (value, _) in new_points.items())
        run.params.update(new_params)


def open_client(uri: str) -> MlflowClient:
    """Return a client. Make an SQLite store if it is missing; keep it in write-ahead mode."""
    if path := sqlite_file(uri):
        if not path.exists():
            _create(path)
        with closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    return mlflow_client.connect(uri)


def _create(path: Path) -> None:
    """Make an SQLite store atomically: MLflow would not accept half of its tables.

    Making them takes seconds, so an empty store for this version of MLflow is kept in the cache.
    """
    empty = cache_root() / "mlflow" / f"empty-{projection.version_of('mlflow')}.db"
    if not empty.is_file():
        with tempfile.TemporaryDirectory(prefix="selgen-") as folder:
            complete = Path(folder) / path.name
            mlflow_client.connect(f"{SQLITE}{complete}").search_experiments()
            _copy(complete, empty)
    _copy(empty, path)


def _copy(store: Path, path: Path) -> None:
    """Copy an SQLite store atomically; of several concurrent copies, the first wins."""
    with (
        replacing_file(path, keep=True) as temporary,
        closing(sqlite3.connect(store)) as source,
        closing(sqlite3.connect(temporary)) as target,
    ):
        source.backup(target)


def _equal(value: float, other: float) -> bool:
    """Return whether two values are equal up to rounding: means are computed in more than one place."""
    return math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-12)


def _or_nan(value: float) -> float:
    """Replace infinity, which MLflow stores as 1.8e308 and which then ruins every plot."""
    return float(value) if math.isfinite(value) else math.nan
