"""Rows that are collected and written together are those that MLflow's client writes, all of them or none."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from sweeps.ledger import LedgerState
from sweeps.names import default_uri
from sweeps.sweep import Sweep
from sweeps.tracking import sweep_runs, writer
from sweeps.tracking.run_writers import BatchWriter, ClientWriter
from sweeps.tracking.writer import Tracker, project
from tests.support.fakes import finished, toy_sweep
from tests.support.mlflow_store import copy_store
from tests.sweeps.tracking.test_writer import dump, record_of
from trainables.outcome import Outcome

pytestmark = pytest.mark.slow


def tables(store: Path) -> dict[str, list[Any]]:
    """All rows of a store but for times, with names in place of MLflow's random ids."""
    with closing(sqlite3.connect(store)) as database:
        names = dict(database.execute("SELECT run_uuid, name FROM runs"))
        names |= dict(database.execute("SELECT dataset_uuid, name FROM datasets"))
        inputs = database.execute("SELECT input_uuid, source_id, destination_id FROM inputs").fetchall()
        names |= {key: f"{names[source]} -> {names[run]}" for key, source, run in inputs}
        found = {}
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            cursor = database.execute(f"SELECT * FROM {table}")
            columns = [name for name, *_ in cursor.description]
            rows = [
                tuple(_named(value, names) for column, value in zip(columns, row, strict=True) if "time" not in column)
                for row in cursor
            ]
            found[table] = sorted(rows, key=repr)
    return found


def _named(value: Any, names: dict[str, str]) -> Any:
    if not isinstance(value, str) or len(value) < 32:
        return value
    key = value.split("/")[-2] if value.endswith("/artifacts") else value  # where a run's artifacts lie
    return names.get(key, value)


def tell(sweep: Sweep, record: LedgerState, output: Path) -> None:
    """Let a tracker write a sweep in two starts: one that is cut, with curves that go on, and one that completes it."""
    outcomes = list(record.outcomes.values())
    begun = LedgerState(sweep.name, sweep.identity(), outcomes={each.trial.trial_id: each for each in outcomes[:3]})
    tracker = Tracker(default_uri(output), sweep, output / "artifacts")
    tracker.start("# a description", begun)
    running = outcomes[3].trial
    tracker.pack_started([running])
    for step in (3, 1, 2):  # the latest is by step
        tracker.progress(running.trial_id, step, {"loss": float("inf") if step == 2 else 3.0 - step})
    tracker.close("KILLED")
    again = Tracker(default_uri(output), sweep, output / "artifacts")
    again.start("# another", record)
    again.close()
    assert tracker.problems == again.problems == []


def test_both_leave_the_same_tables(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    batched, alone = (copy_store(empty_store, tmp_path / name) for name in ("batched", "alone"))
    tell(sweep, record, batched)
    monkeypatch.setattr(sweep_runs, "writer_of", lambda client, is_file: ClientWriter(client))
    tell(sweep, record, alone)
    found, expected = (tables(output / "mlflow.db") for output in (batched, alone))
    assert len(expected["runs"]) == 10 and len(expected["inputs"]) > 20 and len(expected["latest_metrics"]) > 40
    changed = {table for table in expected if found[table] != expected[table]}
    paths = {table for table in changed if str(batched) in repr(found[table])}  # where artifacts lie
    assert changed == paths == {"experiments"}


def test_the_latest_value_is_that_of_the_latest_step_and_time(tmp_path: Path, empty_store: Path) -> None:
    """Whether the values come together or in several commits."""
    client = MlflowClient(default_uri(copy_store(empty_store, tmp_path)))
    rng = random.Random(0)
    points = [Metric("loss", rng.random(), rng.randrange(3), rng.randrange(4)) for _ in range(40)]
    latest = max(points, key=lambda point: (point.step, point.timestamp, point.value))
    for size in (1, 7, 40):
        batch = BatchWriter(client)
        run_id = batch.create("0", f"in batches of {size}", {"kind": "first"})
        for start in range(0, 40, size):
            batch.log(run_id, metrics=points[start : start + size], tags=[RunTag("kind", str(start))])
            batch.commit()
        run = client.get_run(run_id)
        assert run.data.metrics == {"loss": latest.value}
        assert run.data.tags["kind"] == str((39 // size) * size), "the last batch counts"
        assert len(client.get_metric_history(run_id, "loss")) == 40


@pytest.mark.parametrize("commits", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "after"])
def test_killed_at_a_commit_the_next_start_completes(
    tmp_path: Path, empty_store: Path, commits: int, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_ROWS", 20)
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    whole, out = (copy_store(empty_store, tmp_path / name) for name in ("whole", "out"))
    assert project(record, sweep, default_uri(whole)) == []
    child = os.fork()
    if child == 0:
        _die_at_commit(commits, inside)
        project(record, sweep, default_uri(out))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert project(record, sweep, default_uri(out)) == []
    assert dump(out, sweep) == dump(whole, sweep)


def _die_at_commit(number: int, inside: bool) -> None:
    """In this process, a commit ends the process: before the transaction is closed, or after."""
    name = "_write" if inside else "_clear"
    original, count = getattr(BatchWriter, name), [0]

    def deadly(self: BatchWriter, *arguments: Any) -> None:
        original(self, *arguments)
        count[0] += 1
        if count[0] == number + (not inside):  # a new writer is cleared, too
            os._exit(9)

    setattr(BatchWriter, name, deadly)


@pytest.mark.parametrize("written", [True, False])
def test_a_commit_that_fails_loses_and_repeats_nothing(
    tmp_path: Path, empty_store: Path, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second commit: the store did it and said otherwise, or did nothing."""
    monkeypatch.setattr(writer, "MOST_ROWS", 20)
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    whole, out = (copy_store(empty_store, tmp_path / name) for name in ("whole", "out"))
    assert project(record, sweep, default_uri(whole)) == []
    original, count = BatchWriter.commit, [0]

    def lossy(self: BatchWriter) -> None:
        count[0] += self.waits > 0
        fails = self.waits > 0 and count[0] % 2 == 0
        if written or not fails:
            original(self)
        if fails:
            raise OSError("disk I/O error")

    monkeypatch.setattr(BatchWriter, "commit", lossy)
    assert project(record, sweep, default_uri(out)) == ["OSError: disk I/O error"]
    assert dump(out, sweep) == dump(whole, sweep)


def test_an_outcome_costs_few_statements(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the database, counted where SQLAlchemy sends them: a few for a batch, however many runs are in it."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        counts = []
        for seeds in (5, 25):
            sweep = toy_sweep(tmp_path, name=f"seeds-{seeds}", methods=("plain",), seeds=seeds)
            ends: list[Outcome] = [finished(trial) for trial in sweep.trials_of(sweep.arms[0], {})]
            record = LedgerState(sweep.name, sweep.identity(), outcomes={end.trial.trial_id: end for end in ends})
            statements.clear()
            assert project(record, sweep, default_uri(copy_store(empty_store, tmp_path / f"{seeds}"))) == []
            counts.append(len(statements))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert counts[1] - counts[0] <= 20, "twenty runs more are longer lists, not more statements"
