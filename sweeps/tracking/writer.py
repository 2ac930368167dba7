"""Shows a sweep in MLflow: sweep run -> configuration runs -> trial runs. A projection of the ledger, never its source.

One thread of the driver is the only writer. It imports MLflow and creates the database once a worker has something to
tell, so that it does not hold up the start of Ray and of the workers; it writes in batches, and repairs what an earlier
driver left behind: every run is found again by its tags, so that a trial has one run and a metric one value per step,
whatever was killed when. A store that fails costs the display, not the sweep: while it is away a bounded number of
updates waits in memory, and what does not fit is read from the ledger afterwards.

The schema, which `analysis/tables/mlflow_runs.py` reads. Tags: `selgen.kind` (sweep, configuration, trial),
`selgen.sweep`, `selgen.identity`, `selgen.objectives`, `selgen.scores` (name -> [kind,
higher is better]), `selgen.base_scores`, `selgen.configuration`, `selgen.trial`, `selgen.method`,
`selgen.label`, `selgen.coefficients`, `selgen.seed`, `selgen.setting`, `selgen.status`, `selgen.reason`,
`selgen.counts` (score -> [graded, missing, of these refused]), `selgen.auxiliary` ("true" for trials that are there for
others to build on). Metrics: `eval/<score>`, `train/<curve>` by step, `tokens`, `seconds` (both with all that the
trial was built on); of a configuration the means of `eval/<score>` over its finished seeds, and their number `seeds`.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import queue
import re
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from settings.common.errors import UserError
from settings.common.files import replacing_file
from settings.reference import setting_label, setting_of
from settings.setting import Measurement
from sweeps.ledger import LedgerState, read
from sweeps.sweep import Sweep
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Status = Literal["FINISHED", "FAILED", "KILLED"]
Update = Callable[[], None]
RUN_STATUS: Mapping[str, Status] = {
    "finished": "FINISHED",
    "invalid": "FAILED",
    "failed": "FAILED",
    "stopped": "KILLED",
}
BATCH = 1000  # metrics in one log_batch; the limit of a server
BUFFER = 10_000  # updates that wait for a store that is away
PROBLEMS = 10  # that are kept for the user
PAGE = 1000  # runs in one answer of a search
ATTEMPTS = 3  # at one update, before it is given up
QUIET_SECONDS = 30.0  # without news from a worker, before the store is opened all the same
RETRY_SECONDS = 5.0  # between attempts to reach a store, doubling up to a minute
PACKAGES = ("ray", "torch", "transformers", "peft", "optuna", "mlflow", "numpy")
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class Tracker:
    """Writes a sweep to MLflow from a thread of its own. No method waits, and none raises because of the store.

    While the store is away updates wait in a buffer of at most `BUFFER`. Of more than half of that the progress of
    running trials is dropped, which their outcomes bring along; of more, everything that the ledger has. Its file is
    the buffer on disk: it is read again once the store is back.

    Args:
        uri: of the store, `sqlite:///path` or a server's.
        sweep: what is run.
        artifact_root: folder of the artifacts, of a new experiment; None leaves it to the server.
        flush_seconds: how often the progress of running trials is written.
        ledger: folder of the sweep's ledger. Without one, updates that do not fit are left to the next start.
    """

    def __init__(
        self,
        uri: str,
        sweep: Sweep,
        artifact_root: Path | None = None,
        flush_seconds: float = 5.0,
        ledger: Path | None = None,
    ) -> None:
        self.problems: list[str] = []
        self._store = _Store(uri, sweep, artifact_root)
        self._flush_seconds = flush_seconds
        self._flushed = time.monotonic()
        self._ledger = ledger
        self._behind = False  # updates were dropped that the ledger has
        self._queue: queue.Queue[Update | None] = queue.Queue()
        self._status: Status = "FINISHED"
        self._closing = threading.Event()
        self._news = threading.Event()  # of a worker: the store is worth opening
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self, description: str = "", record: LedgerState | None = None) -> None:
        """Open the store and the sweep's run, and write what `record`, the ledger so far, has and the store lacks.

        With the first news of a worker, or after `QUIET_SECONDS` without.
        """
        self._queue.put(lambda: self._store.open_sweep(description))
        for update in self._projection(record) if record else ():
            self._queue.put(update)
        self._thread.start()

    def _projection(self, record: LedgerState) -> Iterator[Update]:
        """All that a ledger says, as updates. What the store has already stays as it is."""
        for label, scores in record.bases.items():
            yield partial(self._store.base, label, scores)
        asked = record.configurations
        for outcome in record.outcomes.values():
            yield partial(self._store.outcome, outcome, outcome.trial.configuration_id not in asked)

    def base(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        """The scores of the untouched base model of a setting (its label)."""
        self._news.set()
        self._put_known(partial(self._store.base, setting, scores))

    def trials_started(self, trials: Sequence[TrialConfig]) -> None:
        """Trials went to a worker."""
        for trial in trials:
            self._put_known(partial(self._store.started, trial))

    def progress(self, trial_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Training metrics of a started trial, written as `train/<name>` within `flush_seconds`."""
        self._news.set()
        if self._queue.qsize() < BUFFER // 2:
            self._queue.put(partial(self._store.progress, trial_id, step, dict(metrics), _milliseconds()))

    def outcome(self, outcome: Outcome, auxiliary: bool = False) -> None:
        """How a trial ended; an auxiliary one is only there for others to build on."""
        self._news.set()
        self._put_known(partial(self._store.outcome, outcome, auxiliary))

    def _put_known(self, update: Update) -> None:
        """Queue an update that the ledger has, too, if there is room."""
        if self._queue.qsize() < BUFFER:
            self._queue.put(update)
        else:
            self._behind = True

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a folder to the sweep's artifacts."""
        self._news.set()
        self._queue.put(lambda: self._store.artifact(path, folder))

    def describe(self, markdown: str) -> None:
        """Set the sweep's description, which MLflow shows on its run; `{run_id}` stands for the run's id."""
        self._queue.put(lambda: self._store.describe(markdown))

    def close(self, status: Status = "FINISHED") -> None:
        """Write what is left, end the sweep and stop. What went wrong is in `problems`, for the caller to show."""
        self._status = status
        self._queue.put(None)
        self._closing.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        """The thread: take updates in order, until None."""
        finished = False
        self._news.wait(QUIET_SECONDS)
        try:
            while self._step():
                pass
            finished = True
        finally:
            if not finished:  # a bug of this file; the thread's traceback says more
                self.problems.append("the writer stopped; the next start of the sweep writes what is missing")

    def _step(self) -> bool:
        """One update, or what it is time for. False at the end."""
        if time.monotonic() - self._flushed > self._flush_seconds:
            self._flushed = time.monotonic()
            return self._try(self._store.flush)
        if self._behind and self._queue.empty():
            return self._catch_up()
        try:
            update = self._queue.get(timeout=self._flush_seconds)
        except queue.Empty:
            return True
        if update is not None:
            return self._try(update)
        if not self._behind or self._catch_up():
            self._try(lambda: self._store.close(self._status))
        return False

    def _catch_up(self) -> bool:
        """Write what was dropped, from the ledger. False when the store is out of reach and the sweep is over."""
        self._behind = False
        try:
            record = read(self._ledger) if self._ledger else None
        except UserError as error:
            self._note(error)
            return True
        if record is None:
            self.problems.append("not all updates fit into memory; the next start of the sweep writes what is missing")
            return True
        return all(map(self._try, self._projection(record)))

    def _try(self, update: Update) -> bool:
        """Apply an update, again if it fails. False when the store is out of reach and the sweep is over."""
        wait, attempts = RETRY_SECONDS, 0
        while attempts < ATTEMPTS:
            if not self._reach():
                if self._closing.is_set():
                    self.problems.append(
                        "the store cannot be reached; the next start of the sweep writes what is missing"
                    )
                    return False
                self._closing.wait(wait)
                wait = min(2 * wait, 60.0)
                continue
            try:
                update()
            except _errors() as error:
                attempts += 1
                self._note(error)
                self._store.disconnect()
            else:
                return True
        return True

    def _reach(self) -> bool:
        """Connect if need be."""
        try:
            self._store.connect()
        except _errors() as error:
            self._note(error)
            self._store.disconnect()
            return False
        return True

    def _note(self, error: BaseException) -> None:
        """Keep a problem for the user, each once: object addresses differ from one attempt to the next."""
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        text = re.sub(r"0x[0-9a-f]+", "0x...", text)
        if text not in self.problems and len(self.problems) < PROBLEMS:
            self.problems.append(text)


def project(record: LedgerState, sweep: Sweep, uri: str, artifact_root: Path | None = None) -> list[str]:
    """Write a ledger to a store, for instance one that was lost. Returns problems; none means that it is complete."""
    tracker = Tracker(uri, sweep, artifact_root)
    tracker.start(record=record)
    tracker.close()
    return tracker.problems


def log_files(uri: str, run_id: str, files: Sequence[Path], folder: str) -> None:
    """Copy files to a run's artifacts. Raises UserError."""
    try:
        client = _client(uri)
        for file in files:
            client.log_artifact(run_id, str(file), folder)
    except _errors() as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{files[0].parent} is written, but cannot be logged to {uri}: {reason}") from error


@dataclass
class _Known:
    """A run in the store.

    Attributes:
        run_id: MLflow's.
        ended: its last word is said.
        failure: the reason, if that word was that the trial failed; it may be trained again.
        asleep: a driver closed it before that.
        auxiliary: it is a trial that others build on, and the search did not ask for it.
        params, points: its parameters and (metric, step) pairs.
    """

    run_id: str
    ended: bool = False
    failure: str | None = None
    asleep: bool = False
    auxiliary: bool = False
    params: set[str] = field(default_factory=set)
    points: set[tuple[str, int]] = field(default_factory=set)


class _Store:
    """The MLflow side, used by one thread. Every method may be repeated after a failure."""

    def __init__(self, uri: str, sweep: Sweep, artifact_root: Path | None) -> None:
        self._uri, self._sweep, self._artifact_root = uri, sweep, artifact_root
        self._identity = sweep.identity()
        self._shared = {"selgen.sweep": sweep.name, "selgen.identity": self._identity}
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._parent: _Known | None = None
        self._configurations: dict[str, _Known] = {}
        self._trials: dict[str, _Known] = {}
        self._buffer: dict[str, list[tuple[str, float, int, int]]] = {}  # trial id -> (metric, value, time, step)
        self._outcomes: dict[str, dict[int, Outcome]] = {}  # configuration id -> seed -> outcome
        self._bases: dict[str, dict[str, float | None]] = {}

    @property
    def client(self) -> MlflowClient:
        assert self._client is not None
        return self._client

    def connect(self) -> None:
        """Open the store, creating database and experiment if need be, and find the sweep's runs again."""
        if self._client is not None:
            return
        client = _client(self._uri)
        self._experiment = self._open_experiment(client)
        self._parent, self._configurations, self._trials = None, {}, {}
        for run in self._runs(client):
            self._remember(client, run)
        self._client = client

    def disconnect(self) -> None:
        """Forget the connection and what is known; `connect` reads it anew."""
        self._client = None

    def _open_experiment(self, client: MlflowClient) -> str:
        name = self._sweep.name
        found = client.get_experiment_by_name(name)
        if found is None:
            root = self._artifact_root
            location = (root.resolve() / name).as_uri() if root else None
            return client.create_experiment(name, artifact_location=location)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _runs(self, client: MlflowClient) -> list[Run]:
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in self._shared.items())
        runs: list[Run] = []
        token = None
        while True:
            page = client.search_runs([self._experiment], wanted, max_results=PAGE, page_token=token)
            runs.extend(page)
            token = page.token
            if not token:
                return runs

    def _remember(self, client: MlflowClient, run: Run) -> None:
        tags, run_id = run.data.tags, run.info.run_id
        kind = tags.get("selgen.kind")
        ended = run.info.status != "RUNNING" and tags.get("selgen.status") not in (None, "running")
        asleep = run.info.status != "RUNNING" and not ended
        failure = tags.get("selgen.reason", "") if tags.get("selgen.status") == "failed" else None
        known = _Known(run_id, ended, failure, asleep, params=set(run.data.params))
        if kind == "sweep":
            self._parent = known
            self._bases = {**_loads(tags.get("selgen.bases")), **self._bases}
        elif kind == "configuration":
            known.points = {(name, int(run.data.metrics.get("seeds", 0))) for name in run.data.metrics}
            self._configurations[tags["selgen.configuration"]] = known
        elif kind == "trial":
            known.auxiliary = tags.get("selgen.auxiliary") == "true"
            if not ended:
                histories = (client.get_metric_history(run_id, name) for name in run.data.metrics)
                known.points = {(metric.key, metric.step) for history in histories for metric in history}
            self._trials[tags["selgen.trial"]] = known

    def open_sweep(self, description: str) -> None:
        """Make the sweep's run, or open it again."""
        tags = _sweep_tags(self._sweep) | self._shared | {"selgen.kind": "sweep"}
        if description:
            tags["mlflow.note.content"] = description
        parent = self._sweep_run()
        self.client.update_run(parent.run_id, status="RUNNING")
        self._write(parent, tags=tags, params=_sweep_params(self._sweep))

    def _sweep_run(self) -> _Known:
        if self._parent is None:
            tags = self._shared | {"selgen.kind": "sweep"}
            run = self.client.create_run(self._experiment, run_name=self._sweep.name, tags=tags)
            self._parent = _Known(run.info.run_id)
        return self._parent

    def _configuration_run(self, trial: TrialConfig) -> _Known:
        key = trial.configuration_id
        if key not in self._configurations:
            tags = self._tags("configuration", trial) | {"mlflow.parentRunId": self._sweep_run().run_id}
            run = self.client.create_run(self._experiment, run_name=self._sweep.title_of(trial), tags=tags)
            self._configurations[key] = _Known(run.info.run_id)
        known = self._configurations[key]
        if not known.params:
            self._write(known, params=_params(trial))
        return known

    def _trial_run(self, trial: TrialConfig) -> _Known:
        key = trial.trial_id
        if key not in self._trials:
            parent = self._configuration_run(trial).run_id
            tags = self._tags("trial", trial) | {
                "mlflow.parentRunId": parent,
                "selgen.trial": key,
                "selgen.seed": str(trial.seed),
                "selgen.status": "running",
            }
            name = f"{self._sweep.title_of(trial)} seed={trial.seed}"
            run = self.client.create_run(self._experiment, run_name=name, tags=tags)
            self._trials[key] = _Known(run.info.run_id)
        return self._trials[key]

    def _tags(self, kind: str, trial: TrialConfig) -> dict[str, str]:
        return self._shared | {
            "selgen.kind": kind,
            "selgen.configuration": trial.configuration_id,
            "selgen.method": trial.method.title,
            "selgen.label": self._sweep.label_of(trial),
            "selgen.coefficients": json.dumps(self._sweep.coefficients_of(trial)),
            "selgen.setting": setting_label(trial.setting),
        }

    def started(self, trial: TrialConfig) -> None:
        """Make the trial's run, or open again one that an earlier driver left unfinished."""
        self._forget_failure(trial)
        run = self._trial_run(trial)
        for sleeper in (run, self._configuration_run(trial)):
            if sleeper.asleep:
                self.client.update_run(sleeper.run_id, status="RUNNING")
                sleeper.asleep = False
        if not run.ended:
            self._write(run, params=_params(trial) | {"seed": str(trial.seed)})

    def _forget_failure(self, trial: TrialConfig) -> None:
        """Delete the run of a trial that had failed and is trained again: curves and costs are of another training."""
        run = self._trials.get(trial.trial_id)
        if run and run.failure is not None:
            self.client.delete_run(run.run_id)
            del self._trials[trial.trial_id]

    def progress(self, trial_id: str, step: int, metrics: Mapping[str, float], now: int) -> None:
        """Keep metrics until the next flush."""
        self._buffer.setdefault(trial_id, []).extend(
            (f"train/{key}", value, now, step) for key, value in metrics.items()
        )

    def flush(self) -> None:
        """Write the progress of running trials; that of an unknown or finished trial is dropped."""
        for trial_id in list(self._buffer):
            run = self._trials.get(trial_id)
            if run and not run.ended:
                self._write(run, metrics=self._buffer[trial_id])
            del self._buffer[trial_id]

    def outcome(self, outcome: Outcome, auxiliary: bool = False) -> None:
        """Write how a trial ended, and its configuration's means once all seeds are in."""
        trial, reason = outcome.trial, (outcome.reason or "")[:1000]
        if (outcome.status, reason) != ("failed", self._trial_run(trial).failure):
            self._forget_failure(trial)
        run = self._trial_run(trial)
        if run.auxiliary != auxiliary:  # the search may ask later for what others have built on already
            for known in (run, self._configuration_run(trial)):
                self._write(known, tags={"selgen.auxiliary": str(auxiliary).lower()})
            run.auxiliary = auxiliary
        if not run.ended:
            metrics = self._buffer.get(trial.trial_id, []) + _metrics(outcome)
            tags = {"selgen.status": outcome.status, "selgen.counts": _counts(outcome)}
            if reason:
                tags["selgen.reason"] = reason
            self._write(run, metrics=metrics, params=_params(trial) | {"seed": str(trial.seed)}, tags=tags)
            self.client.set_terminated(run.run_id, RUN_STATUS[outcome.status])
            run.ended, run.failure = True, reason if outcome.status == "failed" else None
        self._buffer.pop(trial.trial_id, None)
        self._outcomes.setdefault(trial.configuration_id, {})[trial.seed] = outcome
        self._finish_configuration(trial)

    def _finish_configuration(self, trial: TrialConfig) -> None:
        outcomes = self._outcomes[trial.configuration_id]
        if not set(self._sweep.seed_values) <= set(outcomes):
            return
        finished = [outcome for outcome in outcomes.values() if outcome.status == "finished"]
        run = self._configuration_run(trial)
        if run.ended and ("seeds", len(finished)) in run.points:
            return
        columns: dict[str, list[float]] = {}
        for outcome in finished:
            for name, score in outcome.scores.items():
                if math.isfinite(score.mean):
                    columns.setdefault(name, []).append(score.mean)
        now, count = _milliseconds(), len(finished)
        metrics = [(f"eval/{name}", fmean(column), now, count) for name, column in columns.items()]
        self._write(run, metrics=[*metrics, ("seeds", float(count), now, count)], tags={"selgen.status": "finished"})
        self.client.set_terminated(run.run_id, "FINISHED" if finished else "FAILED")
        run.ended = True

    def base(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        """Write the base model's scores: score -> mean; in a sweep of several settings, setting -> score -> mean."""
        self._bases[setting] = {name: _finite(score.mean) for name, score in scores.items()}
        single = len(self._sweep.settings) == 1
        shown = self._bases[setting] if single else self._bases
        tags = {"selgen.base_scores": json.dumps(shown), "selgen.bases": json.dumps(self._bases)}
        self._write(self._sweep_run(), tags=tags)

    def artifact(self, path: Path, folder: str | None) -> None:
        """Copy a file or folder. Raises FileNotFoundError."""
        if path.is_dir():
            self.client.log_artifacts(self._sweep_run().run_id, str(path), folder)
        else:
            self.client.log_artifact(self._sweep_run().run_id, str(path), folder)

    def describe(self, markdown: str) -> None:
        """Set the description."""
        run_id = self._sweep_run().run_id
        self._write(self._sweep_run(), tags={"mlflow.note.content": markdown.replace("{run_id}", run_id)})

    def close(self, status: Status) -> None:
        """End the sweep's run, and unfinished ones as killed: a later driver opens them again."""
        self.flush()
        for run in [*self._trials.values(), *self._configurations.values()]:
            if not run.ended:
                self.client.set_terminated(run.run_id, "KILLED")
        self.client.set_terminated(self._sweep_run().run_id, status)

    def _write(
        self,
        run: _Known,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Write what the run lacks, in as few batches as the limit allows; tags come last."""
        from mlflow.entities import Metric, Param, RunTag

        new = {(key, step): (value, now) for key, value, now, step in metrics if (key, step) not in run.points}
        points = [Metric(key, _or_nan(value), now, step) for (key, step), (value, now) in new.items()]
        given = {key: value for key, value in (params or {}).items() if key not in run.params}
        chunks = [points[start : start + BATCH] for start in range(0, len(points), BATCH)] or [[]]
        for chunk in chunks[:-1]:
            self.client.log_batch(run.run_id, metrics=chunk)
        if chunks[-1] or given or tags:
            self.client.log_batch(
                run.run_id,
                metrics=chunks[-1],
                params=[Param(key, value) for key, value in given.items()],
                tags=[RunTag(key, value) for key, value in (tags or {}).items()],
            )
        run.points.update(new)
        run.params.update(given)


def _client(uri: str) -> MlflowClient:
    """A client that neither phones home nor prints. An SQLite file is made here, in write-ahead mode."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
        if not path.exists():
            _create(path)
        with closing(sqlite3.connect(path, timeout=60)) as database:
            database.execute("PRAGMA journal_mode=WAL")
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _create(path: Path) -> None:
    """Make an SQLite store in one move. MLflow needs seconds for its tables, and never accepts half of them."""
    import mlflow

    with tempfile.TemporaryDirectory(prefix="selgen-") as folder, replacing_file(path, keep=True) as temporary:
        made = Path(folder) / path.name
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{made}", registry_uri=f"sqlite:///{made}").search_experiments()
        with closing(sqlite3.connect(made)) as source, closing(sqlite3.connect(temporary)) as target:
            source.backup(target)


def _errors() -> tuple[type[Exception], ...]:
    """What a broken store may raise."""
    known: tuple[type[Exception], ...] = (OSError, sqlite3.Error, ImportError)
    try:
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return known
    return (*known, CommandError, MlflowException, SQLAlchemyError)


def _sweep_tags(sweep: Sweep) -> dict[str, str]:
    objectives = [
        {
            "name": score.name,
            "kind": score.kind,
            "higher_is_better": score.higher_is_better,
            "description": score.description,
        }
        for score in sweep.objectives_of(sweep.settings[0])
    ]
    data = {setting_label(ref): sweep.template(ref).data for ref in sweep.settings}
    scores = {
        score.name: [score.kind, score.higher_is_better]
        for ref in sweep.settings
        for score in setting_of(ref).all_scores
    }
    return {
        "selgen.objectives": json.dumps(objectives),
        "selgen.scores": json.dumps(scores),
        "selgen.data": json.dumps(data),
        "selgen.version": _version("selgen"),
        "selgen.commit": _commit(),
        "selgen.packages": json.dumps({name: _version(name) for name in PACKAGES}),
    }


def _sweep_params(sweep: Sweep) -> dict[str, str]:
    recipe = _recipe(sweep.template(sweep.settings[0]))
    return recipe | {
        "setting": ", ".join(setting_label(ref) for ref in sweep.settings),
        "methods": ", ".join(space.method for space in sweep.spaces),
        "configurations": str(sum(arm.budget for arm in sweep.arms)),
        "seeds": ", ".join(map(str, sweep.seed_values)),
        "search_seed": str(sweep.seed),
        "round_size": str(sweep.round_size),
    }


def _params(trial: TrialConfig) -> dict[str, str]:
    coefficients = {name: str(value) for name, value in trial.coefficients.items()}
    return coefficients | _recipe(trial) | {"method": trial.method.name}


def _recipe(trial: TrialConfig) -> dict[str, str]:
    return {
        "learning_rate": f"{trial.optimizer.learning_rate:g}",
        "rank": str(trial.adapter.rank),
        "steps": str(trial.steps),
        "checkpoint_step": str(trial.updates),
        "adapter_scale": f"{trial.adapter_scale:g}",
        "batch_size": str(trial.batch_size),
        "alignment_batch_size": str(trial.alignment_batch_size),
        "max_length": str(trial.max_length),
    }


def _metrics(outcome: Outcome) -> list[tuple[str, float, int, int]]:
    """The outcome's scores, curves and cost as (metric, value, time, step)."""
    now, last = _milliseconds(), outcome.trial.updates
    curves = [(f"train/{name}", value, now, step) for name, curve in outcome.curves.items() for step, value in curve]
    scores = [
        (f"eval/{name}", score.mean, now, last) for name, score in outcome.scores.items() if math.isfinite(score.mean)
    ]
    cost = [("tokens", float(outcome.total_tokens), now, last), ("seconds", outcome.total_seconds, now, last)]
    return [*curves, *scores, *cost]


def _counts(outcome: Outcome) -> str:
    return json.dumps({name: [score.n, score.missing, score.refused] for name, score in outcome.scores.items()})


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """The commit of this code if it runs from a repository, with "+" when files differ from it."""
    folder = str(Path(__file__).parent)
    try:
        run = ["git", "-C", folder, "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _loads(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float) -> float:
    """MLflow stores infinity as 1.8e308, which ruins every plot."""
    return float(value) if math.isfinite(value) else math.nan


def _milliseconds() -> int:
    return int(time.time() * 1000)
