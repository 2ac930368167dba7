"""Write runs to a store: to a server through MLflow's client, call by call; to an SQLite file in large batches.

MLflow's client makes some twenty database queries for each run that it writes. If this process can write the file
itself, the rows of all waiting runs go in one transaction, through MLflow's own tables. A test compares their contents
with what the client writes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sweeps.tracking.projection import milliseconds

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Row = dict[str, Any]
ASKED = 500  # runs named in one query


class RunWriter(Protocol):
    """Writes runs. Writes may wait for `commit`."""

    @property
    def waits(self) -> int:
        """Number of rows that wait for `commit`."""
        ...

    def create(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Make a run and return its id."""
        ...

    def log(
        self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """Write to a run. Raise MlflowException if MLflow does not accept it."""
        ...

    def log_inputs(self, experiment: str, run_id: str, inputs: Sequence[DatasetInput]) -> None:
        """Write which datasets a run reads."""
        ...

    def reopen(self, run_id: str) -> None:
        """Mark a run as running again."""
        ...

    def end(self, run_id: str, status: RunStatus) -> None:
        """End a run."""
        ...

    def commit(self) -> None:
        """Write everything that waits."""
        ...


class ClientWriter:
    """Writes at once, through MLflow's client."""

    waits = 0

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def create(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Make a run and return its id."""
        run_id: str = self._client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id
        return run_id

    def log(
        self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """Write to a run."""
        self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags)

    def log_inputs(self, experiment: str, run_id: str, inputs: Sequence[DatasetInput]) -> None:
        """Write which datasets a run reads."""
        self._client.log_inputs(run_id, inputs)

    def reopen(self, run_id: str) -> None:
        """Mark a run as running again."""
        self._client.update_run(run_id, status="RUNNING")

    def end(self, run_id: str, status: RunStatus) -> None:
        """End a run."""
        self._client.set_terminated(run_id, status)

    def commit(self) -> None:
        """Do nothing: everything is written."""


class BatchWriter:
    """Collects rows for an SQLite store until `commit`, which writes all of them or none."""

    def __init__(self, client: MlflowClient) -> None:
        from mlflow.store.tracking.dbmodels import models

        self._client, self._tables = client, models
        self._store = client._tracking_client.store
        self._locations: dict[str, str] = {}  # experiment -> location of its artifacts
        self._datasets: dict[tuple[str, str, str], str] = {}  # experiment, name, digest -> id
        self._clear()

    def _clear(self) -> None:
        self._runs: dict[str, Row] = {}  # new ones
        self._states: dict[str, Row] = {}  # of existing runs
        self._tags: dict[tuple[str, str], Row] = {}
        self._params: list[Row] = []
        self._metrics: list[Row] = []
        self._new_datasets: list[Row] = []
        self._inputs: dict[tuple[str, str], tuple[Row, list[Row]]] = {}  # dataset, run -> input, its tags

    @property
    def waits(self) -> int:
        """Number of rows that wait for `commit`."""
        changed = len(self._runs) + len(self._states) + len(self._tags) + len(self._params)
        return changed + len(self._metrics) + len(self._inputs)

    def create(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Make a run and return its id."""
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

        run_id = uuid.uuid4().hex
        self._runs[run_id] = {
            "run_uuid": run_id,
            "name": name,
            "experiment_id": int(experiment),
            "artifact_uri": f"{self._location(experiment)}/{run_id}/{self._store.ARTIFACTS_FOLDER_NAME}",
            "source_type": "UNKNOWN",
            "source_name": "",
            "entry_point_name": "",
            "source_version": "",
            "user_id": "unknown",
            "status": "RUNNING",
            "start_time": milliseconds(),
            "end_time": None,
            "deleted_time": None,
            "lifecycle_stage": "active",
        }
        self._set_tags(run_id, {**tags, MLFLOW_RUN_NAME: name})
        return run_id

    def _location(self, experiment: str) -> str:
        if experiment not in self._locations:
            self._locations[experiment] = self._client.get_experiment(experiment).artifact_location.rstrip("/")
        return self._locations[experiment]

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._tags[run_id, key] = {"run_uuid": run_id, "key": key, "value": value}

    def log(
        self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """Write to a run. Raise MlflowException if MLflow does not accept it."""
        from mlflow.utils.validation import _validate_batch_log_data

        metrics, params, tags = _validate_batch_log_data(metrics, params, tags)
        self._params += [{"run_uuid": run_id, "key": param.key, "value": param.value} for param in params]
        self._set_tags(run_id, {tag.key: tag.value for tag in tags})
        for metric in metrics:
            is_nan, value = self._store.sanitize_metric_value(metric.value)
            row = {"run_uuid": run_id, "key": metric.key, "value": value, "is_nan": is_nan}
            self._metrics.append(row | {"timestamp": metric.timestamp, "step": metric.step})

    def log_inputs(self, experiment: str, run_id: str, inputs: Sequence[DatasetInput]) -> None:
        """Write which datasets a run reads."""
        for each in inputs:
            dataset, input_id = self._dataset_id(experiment, each), uuid.uuid4().hex
            row: Row = {"input_uuid": input_id, "source_type": "DATASET", "source_id": dataset}
            row |= {"destination_type": "RUN", "destination_id": run_id, "step": 0}
            tags = [{"input_uuid": input_id, "name": tag.key, "value": tag.value} for tag in each.tags]
            self._inputs.setdefault((dataset, run_id), (row, tags))

    def _dataset_id(self, experiment: str, read: DatasetInput) -> str:
        """Return the id of a dataset; add it if it is missing."""
        from sqlalchemy import select

        table, dataset = self._tables.SqlDataset, read.dataset
        key = (experiment, dataset.name, dataset.digest)
        if key not in self._datasets:
            with self._store.ManagedSessionMaker() as session:
                names = (table.experiment_id == int(experiment), table.name == key[1], table.digest == key[2])
                known = session.execute(select(table.dataset_uuid).where(*names)).scalar()
            self._datasets[key] = known or uuid.uuid4().hex
            row = {"dataset_uuid": self._datasets[key], "experiment_id": int(experiment)}
            row |= {"name": dataset.name, "digest": dataset.digest, "dataset_source_type": dataset.source_type}
            row |= {"dataset_source": dataset.source, "dataset_schema": dataset.schema}
            self._new_datasets += [] if known else [row | {"dataset_profile": dataset.profile}]
        return self._datasets[key]

    def reopen(self, run_id: str) -> None:
        """Mark a run as running again. It keeps its end time, as with MLflow's client."""
        self._set_state(run_id, {"status": "RUNNING"})

    def end(self, run_id: str, status: RunStatus) -> None:
        """End a run."""
        self._set_state(run_id, {"status": status, "end_time": milliseconds()})

    def _set_state(self, run_id: str, state: Row) -> None:
        if run_id in self._runs:
            self._runs[run_id] |= state
        else:
            self._states[run_id] = self._states.get(run_id, {}) | state

    def commit(self) -> None:
        """Write everything that waits, in one transaction."""
        if not self.waits:
            return
        with self._store.ManagedSessionMaker(read_only=False) as session:
            self._write(session.execute)
        self._clear()

    def _write(self, execute: Callable[..., Any]) -> None:
        from sqlalchemy import update
        from sqlalchemy.dialects.sqlite import insert

        tables = self._tables

        def add(table: Any, rows: Iterable[Row], replaces: Collection[str] = ()) -> None:
            """Insert rows; in those that exist, replace these columns."""
            listed = list(rows)
            if listed:
                new = insert(table)
                values = {name: new.excluded[name] for name in replaces}
                execute(new.on_conflict_do_update(set_=values) if values else new.on_conflict_do_nothing(), listed)

        add(tables.SqlRun, self._runs.values())
        for run_id, state in self._states.items():
            execute(update(tables.SqlRun).where(tables.SqlRun.run_uuid == run_id).values(**state))
        add(tables.SqlTag, self._tags.values(), replaces=["value"])
        add(tables.SqlParam, self._params)
        add(tables.SqlMetric, self._metrics)
        add(tables.SqlLatestMetric, self._latest(execute), replaces=["value", "timestamp", "step", "is_nan"])
        add(tables.SqlDataset, self._new_datasets)
        there = self._inputs_of_old_runs(execute)
        new = [each for key, each in self._inputs.items() if key not in there]
        add(tables.SqlInput, (row for row, _ in new))
        add(tables.SqlInputTag, (tag for _, tags in new for tag in tags))

    def _latest(self, execute: Callable[..., Any]) -> list[Row]:
        """Return the waiting points that are now the latest of their metrics, by step, time and value."""
        from sqlalchemy import select

        table = self._tables.SqlLatestMetric
        latest: dict[tuple[str, str], tuple[tuple[Any, ...], Row | None]] = {}
        for run_ids in self._old_runs(row["run_uuid"] for row in self._metrics):
            columns = (table.run_uuid, table.key, table.step, table.timestamp, table.value)
            for run_id, key, *order in execute(select(*columns).where(table.run_uuid.in_(run_ids))):
                latest[run_id, key] = (tuple(order), None)
        for row in self._metrics:
            key, order = (row["run_uuid"], row["key"]), (row["step"], row["timestamp"], row["value"])
            if key not in latest or order > latest[key][0]:
                latest[key] = (order, row)
        return [row for _, row in latest.values() if row]

    def _inputs_of_old_runs(self, execute: Callable[..., Any]) -> set[tuple[str, str]]:
        """Return (dataset, run) for the inputs that runs of earlier commits already have."""
        from sqlalchemy import select

        table, there = self._tables.SqlInput, set()
        for run_ids in self._old_runs(run_id for _, run_id in self._inputs):
            query = select(table.source_id, table.destination_id).where(table.destination_id.in_(run_ids))
            there |= {(source, run_id) for source, run_id in execute(query)}
        return there

    def _old_runs(self, run_ids: Iterable[str]) -> Iterable[list[str]]:
        """Yield the runs of earlier commits, in groups that one query can name."""
        old = [run_id for run_id in dict.fromkeys(run_ids) if run_id not in self._runs]
        return (old[start : start + ASKED] for start in range(0, len(old), ASKED))


def writer_of(client: MlflowClient, is_file: bool) -> RunWriter:
    """Return the writer of a store; `is_file`: the store is a file on this machine."""
    return BatchWriter(client) if is_file else ClientWriter(client)
