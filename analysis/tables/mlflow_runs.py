"""A sweep's table from MLflow, where `sweeps.tracking.writer` writes it.

It only reads, and no other file here imports mlflow.

The schema is documented in `sweeps/tracking/writer.py`: sweep run -> configuration runs -> trial runs, told apart by
tags.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from analysis.tables.questions import Grade, read_grades
from analysis.tables.scores import Configuration, Objective, ScoreTable, Status, TrialRecord
from settings.common.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

PAGE = 1000  # runs per request
PREFIX = "eval/"
QUESTIONS = "questions"  # folder of artifacts
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedSweep:
    """What MLflow has of a sweep.

    Attributes:
        name, run_id: of the sweep and its run.
        table: scores of the objectives.
        objectives: task first.
        base_scores: score name -> mean of the untouched base model; empty when it was not scored.
        counts: status -> number of trials: finished, invalid, failed, stopped, running.
        setting: what was learned; None when the runs do not say.
        records: the trials that ended, with all of their scores.
        experiment: id of the experiment, as in the addresses of MLflow's UI.
        run_ids: configuration id -> id of its run.
        grades: of single questions, where the sweep has published them.
    """

    name: str
    run_id: str
    table: ScoreTable
    objectives: tuple[Objective, ...]
    base_scores: Mapping[str, float]
    counts: Mapping[str, int]
    setting: str | None = None
    records: tuple[TrialRecord, ...] = ()
    experiment: str = ""
    run_ids: Mapping[str, str] = field(default_factory=dict)
    grades: tuple[Grade, ...] = ()


def load(
    sweep: str, tracking_uri: str, setting: str | None = None, objectives: Sequence[str] | None = None
) -> LoadedSweep:
    """Read a sweep. Trials that still run are counted and left out.

    A finished trial in which an objective could not be measured counts as invalid, as it does for the search
    (`sweeps.search.scheduler.summarize_seeds`). Of two sweep runs of one name, as when the sweep's file was changed,
    the newer one is read.

    Args:
        sweep: its name, which is the experiment's.
        tracking_uri: of the store, `sqlite:///path` or a server's. It is only read, and never created.
        setting: which one, of a sweep over several: its label, or a part that no other has.
        objectives: names of its scores, instead of those that the sweep optimised.

    Raises UserError: a store that is missing or cannot be read; no such score; an unknown sweep, with those that exist;
    a sweep of several settings and none chosen; runs that do not follow the schema.
    """
    parent, trials = _sweep(sweep, tracking_uri)
    setting = _choose_setting(trials, sweep, setting)
    trials = [run for run in trials if run.data.tags.get("selgen.setting") == setting]
    chosen = _objectives(parent, objectives)
    records, num_running = _records(trials, chosen)
    counts = Counter({"finished": 0, "invalid": 0, "failed": 0, "stopped": 0, "running": num_running})
    counts.update(record.status for record in records)
    return LoadedSweep(
        name=sweep,
        run_id=parent.info.run_id,
        table=ScoreTable.from_records(records, chosen),
        objectives=chosen,
        base_scores=_base_scores(parent, setting),
        counts=dict(counts),
        setting=setting,
        records=tuple(records),
        experiment=str(parent.info.experiment_id),
        run_ids={_tag(run, "selgen.configuration"): run.data.tags.get("mlflow.parentRunId", "") for run in trials},
        grades=tuple(_grades(parent, tracking_uri, setting)),
    )


def settings_of(sweep: str, tracking_uri: str) -> list[str]:
    """The labels of a sweep's settings, sorted. Raises UserError as `load`."""
    _, trials = _sweep(sweep, tracking_uri)
    return sorted({label for run in trials if (label := run.data.tags.get("selgen.setting")) is not None})


def _grades(parent: Run, tracking_uri: str, setting: str | None) -> list[Grade]:
    """Grades of single questions, which a sweep publishes as artifacts when it ends."""
    import tempfile

    with _reading(tracking_uri), tempfile.TemporaryDirectory() as folder:
        client = _client(tracking_uri)
        names = {Path(item.path).name: item.path for item in client.list_artifacts(parent.info.run_id, QUESTIONS)}
        if setting is None or grades_file(setting) not in names:
            return []
        path = client.download_artifacts(parent.info.run_id, names[grades_file(setting)], folder)
        return read_grades(Path(path))


def grades_file(setting: str) -> str:
    """Name of the artifact with a setting's grades of single questions."""
    return f"{re.sub('[^A-Za-z0-9._-]+', '_', setting)}.csv.gz"


def load_records(sweep: str, tracking_uri: str) -> dict[str, list[TrialRecord]]:
    """All trials of a sweep that ended, with all of their scores: setting -> trials. Raises UserError as `load`."""
    parent, trials = _sweep(sweep, tracking_uri)
    objectives = tuple(_objective(item, parent) for item in _json(parent, "selgen.objectives", list))
    found = {}
    for setting in sorted({_tag(run, "selgen.setting") for run in trials}):
        of_setting = [run for run in trials if run.data.tags.get("selgen.setting") == setting]
        found[setting], _ = _records(of_setting, objectives)
    return found


def _sweep(sweep: str, tracking_uri: str) -> tuple[Run, list[Run]]:
    """The newest run of a sweep, and the trial runs below it that the search asked for."""
    with _reading(tracking_uri):
        client, experiment = _experiment(sweep, tracking_uri)
        runs = _runs(client, [experiment])
    parents = [run for run in runs if _kind(run) == "sweep"]
    if not parents:
        raise UserError(f"experiment {sweep!r} in {tracking_uri} holds no run of a sweep")
    if len(parents) > 1:
        logger.warning("sweep %r has %d runs in %s; reading the newest", sweep, len(parents), tracking_uri)
    parent = max(parents, key=lambda run: (run.info.start_time, run.info.run_id))
    return parent, _trials_of(runs, parent)


def experiment_id(sweep: str, tracking_uri: str) -> str:
    """The id of a sweep's experiment in the store, as in the addresses of MLflow's UI. Raises UserError as `load`."""
    with _reading(tracking_uri):
        return _experiment(sweep, tracking_uri)[1]


def _experiment(sweep: str, tracking_uri: str) -> tuple[MlflowClient, str]:
    """A client of the store, and the id of the sweep's experiment there."""
    _check_exists(tracking_uri)
    client = _client(tracking_uri)
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None or experiment.lifecycle_stage == "deleted":
        raise UserError(_unknown(client, sweep, tracking_uri))
    return client, str(experiment.experiment_id)


@contextmanager
def _reading(tracking_uri: str) -> Iterator[None]:
    """Turn whatever a store raises into one line."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot read the MLflow store {tracking_uri}: {reason}") from error


def _client(tracking_uri: str) -> MlflowClient:
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _check_exists(tracking_uri: str) -> None:
    """Refuse a local store that is not there: MLflow would create it. Raises UserError and sqlite3.Error."""
    scheme, _, rest = tracking_uri.partition(":")
    if not rest or scheme == "file":
        raise UserError(f"{tracking_uri!r} is not the address of an MLflow store, e.g. sqlite:///runs/mlflow.db")
    if scheme.partition("+")[0] != "sqlite":
        return
    from sqlalchemy.engine import make_url

    path = Path(make_url(tracking_uri).database or "")  # as MLflow reads it, %20 and all
    if not path.is_file():
        raise UserError(f"there is no MLflow store {path}; run a sweep first, or give the address of another store")
    import mlflow.store.tracking.dbmodels.models  # noqa: F401 - fills the metadata
    from mlflow.store.db.base_sql_model import Base

    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=60)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not set(Base.metadata.tables) <= tables:
        raise UserError(
            f"{path} is not a store of this version of MLflow, or is still being made; "
            "if MLflow was killed meanwhile, delete it and resume the sweep, whose ledger has everything"
        )


def _runs(client: MlflowClient, experiments: list[str], wanted: str = "") -> list[Run]:
    """All runs of the experiments, page by page."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(experiments, wanted, max_results=PAGE, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def _unknown(client: MlflowClient, sweep: str, tracking_uri: str) -> str:
    experiments: list[Experiment] = []
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        experiments.extend(page)
        token = page.token
        if not token:
            break
    ids = [experiment.experiment_id for experiment in experiments]
    parents = {run.info.experiment_id for run in _runs(client, ids, "tags.`selgen.kind` = 'sweep'")} if ids else set()
    names = sorted(experiment.name for experiment in experiments if experiment.experiment_id in parents)
    return f"no sweep {sweep!r} in {tracking_uri}; it has {', '.join(names) if names else 'no sweep at all'}"


def _kind(run: Run) -> str | None:
    return run.data.tags.get("selgen.kind")


def _trials_of(runs: Sequence[Run], parent: Run) -> list[Run]:
    """The trial runs below a sweep's run that the search asked for."""
    children = {
        run.info.run_id
        for run in runs
        if _kind(run) == "configuration" and run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    trials = [run for run in runs if _kind(run) == "trial" and run.data.tags.get("mlflow.parentRunId") in children]
    return [run for run in trials if run.data.tags.get("selgen.auxiliary") != "true"]


def _choose_setting(trials: Sequence[Run], sweep: str, setting: str | None) -> str | None:
    found = {run.data.tags.get("selgen.setting") for run in trials}
    names = sorted(name for name in found if name is not None)
    if setting is not None:
        return _named(names, sweep, setting)
    if len(found) > 1:
        raise UserError(
            f"sweep {sweep!r} has several settings; choose one with --setting, or a part of it: {', '.join(names)}"
        )
    return found.pop() if found else None


def _named(names: Sequence[str], sweep: str, text: str) -> str:
    """The one of the labels that is, or else contains, a text."""
    close = [text] if text in names else [name for name in names if text in name]
    if not close:
        raise UserError(f"sweep {sweep!r} has no setting {text!r}; it has {', '.join(names) or 'no named one'}")
    if len(close) > 1:
        raise UserError(f"sweep {sweep!r}: several settings contain {text!r}: {', '.join(close)}")
    return close[0]


def _records(trials: Sequence[Run], objectives: Sequence[Objective]) -> tuple[list[TrialRecord], int]:
    """One record per trial that ended, and the number of trials that run."""
    by_trial: dict[str, list[Run]] = {}
    for run in trials:
        by_trial.setdefault(_tag(run, "selgen.trial"), []).append(run)
    ended = []
    for same in by_trial.values():
        over = [run for run in same if _status(run) != "running"]
        if over:
            ended.append(_one_of(over))
    records = [_record(run, objectives) for run in ended]
    _check_measured(ended, records, objectives)
    return records, len(by_trial) - len(ended)


def _check_measured(ended: Sequence[Run], records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> None:
    """Say which finished trials lack an objective. Raises UserError when all do: then it is the name that is wrong."""
    finished = [(run, record) for run, record in zip(ended, records, strict=True) if _status(run) == "finished"]
    lacking = [record for _, record in finished if record.status != "finished"]
    if lacking and len(lacking) == len(finished):
        names = ", ".join(objective.name for objective in objectives)
        has = ", ".join(sorted({name for record in lacking for name in record.scores})) or "no score"
        raise UserError(f"no finished trial has a number for each of {names}; they have {has}")
    if lacking:
        titles = ", ".join(f"{record.configuration.title} seed {record.seed}" for record in lacking)
        logger.warning("counted as invalid, because an objective could not be measured: %s", titles)


def _one_of(same: Sequence[Run]) -> Run:
    """The run that counts of several of one trial: the finished one, else the newest. Raises UserError."""
    finished = [run for run in same if run.data.tags["selgen.status"] == "finished"]
    newest = max(finished or same, key=lambda run: (run.info.start_time, run.info.run_id))
    for run in finished:
        if _scores(run) != _scores(newest):
            raise UserError(
                f"trial {run.data.tags['selgen.trial']} finished twice with different scores: runs"
                f" {run.info.run_id} and {newest.info.run_id}; delete the wrong one"
            )
    return newest


def _record(run: Run, objectives: Sequence[Objective]) -> TrialRecord:
    scores = _scores(run)
    status = _status(run)
    if status == "finished" and not all(objective.name in scores for objective in objectives):
        status = "invalid"
    configuration = Configuration(
        id=_tag(run, "selgen.configuration"),
        method=_tag(run, "selgen.method"),
        label=run.data.tags.get("selgen.label", ""),
        coefficients=_json(run, "selgen.coefficients", dict),
    )
    seed = _tag(run, "selgen.seed")
    if not seed.lstrip("-").isdecimal():
        raise UserError(f"run {run.info.run_id}: tag selgen.seed is not an integer: {seed!r}")
    cost = {name: run.data.metrics.get(name, math.nan) for name in ("tokens", "seconds")}
    counts = _json(run, "selgen.counts", dict) if "selgen.counts" in run.data.tags else {}
    return TrialRecord(
        configuration,
        int(seed),
        status,
        scores,
        **cost,
        reason=run.data.tags.get("selgen.reason", ""),
        counts={name: int(graded[0]) for name, graded in counts.items()},
    )


def _scores(run: Run) -> dict[str, float]:
    """Latest finite values of `eval/<score>`. MLflow keeps an infinity as the largest float."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in run.data.metrics.items()
        if name.startswith(PREFIX) and abs(value) < sys.float_info.max
    }


def _objectives(parent: Run, names: Sequence[str] | None) -> tuple[Objective, ...]:
    """The sweep's own objectives, or its scores of these names. Raises UserError."""
    own = tuple(_objective(item, parent) for item in _json(parent, "selgen.objectives", list))
    if names is None:
        return own
    known = {objective.name: objective for objective in own}
    scores: dict[str, Any] = _json(parent, "selgen.scores", dict) if "selgen.scores" in parent.data.tags else {}
    known |= {name: Objective(name, *facts) for name, facts in scores.items() if name not in known}
    for name in names:
        if name not in known:
            raise UserError(f"the sweep has no score {name!r}; it has {', '.join(sorted(known))}")
    return tuple(known[name] for name in names)


def _objective(item: Any, parent: Run) -> Objective:
    try:
        return Objective(item["name"], item["kind"], item["higher_is_better"], item.get("description", ""))
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"run {parent.info.run_id}: tag selgen.objectives has an entry without {error}") from error


def _base_scores(parent: Run, setting: str | None) -> dict[str, float]:
    """The base model's scores; in a sweep of several settings the tag holds one such table for each."""
    if "selgen.base_scores" not in parent.data.tags:
        return {}
    scores: dict[str, Any] = _json(parent, "selgen.base_scores", dict)
    if setting is not None and isinstance(scores.get(setting), dict):
        scores = scores[setting]
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}


def _status(run: Run) -> Status:
    status: Any = _tag(run, "selgen.status")
    return status


def _tag(run: Run, key: str) -> str:
    if key not in run.data.tags:
        raise UserError(f"run {run.info.run_id} has no tag {key}; was it written by another version of selgen?")
    return run.data.tags[key]


def _json(run: Run, key: str, kind: type) -> Any:
    """A tag's JSON value. Raises UserError when it is not of that kind."""
    try:
        value = json.loads(_tag(run, key))
    except json.JSONDecodeError as error:
        raise UserError(f"run {run.info.run_id}: tag {key} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"run {run.info.run_id}: tag {key} must hold a {kind.__name__}")
    return value
