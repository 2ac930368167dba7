"""A sweep's numbers from MLflow, where `sweeps.tracking` writes them under the names of `analysis.tables.schema`.

A store is only read, and never created.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from analysis.tables import mlflow_client, schema
from analysis.tables.loaded_sweep import LoadedSweep, choose_objectives, choose_setting, counted
from analysis.tables.questions import Grade, read_grades
from analysis.tables.scores import Configuration, Objective, TrialRecord
from settings.common.errors import UserError
from settings.setting import Status

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepRuns:
    """Where MLflow's UI shows a sweep.

    Attributes:
        experiment: id of the experiment.
        run_id: of the sweep's run.
        configurations: configuration id -> id of its run.
    """

    experiment: str
    run_id: str
    configurations: dict[str, str] = field(default_factory=dict)


def load(
    sweep: str, tracking_uri: str, setting: str | None = None, objectives: Sequence[str] | None = None
) -> LoadedSweep:
    """Read one setting of a sweep. Trials that still run are counted and left out.

    Of two sweep runs of one name, as after a change of the sweep's file, the newer one is read.

    Args:
        sweep: its name, which is the experiment's.
        tracking_uri: of the store, `sqlite:///path` or a server's.
        setting: which one, of a sweep over several: its label, or a part that no other has.
        objectives: names of its scores, instead of those that the sweep optimised.

    Raises UserError: a store that is missing or cannot be read; no such score; an unknown sweep, with those that exist;
    a sweep of several settings and none chosen; runs that do not follow the schema.
    """
    parent, runs = _sweep(sweep, tracking_uri)
    labels = _labels(runs)
    label = choose_setting(labels, sweep, setting) if labels or setting else None
    trials, num_running = _trials([run for run in runs if run.data.tags.get(schema.SETTING) == label])
    usual = _objectives(parent)
    facts: dict[str, Any] = _json(parent, schema.SCORES, dict) if schema.SCORES in parent.data.tags else {}
    scores = {name: Objective(name, kind, higher, "", *ends) for name, (kind, higher, *ends) in facts.items()}
    return LoadedSweep.of_trials(
        sweep,
        label,
        choose_objectives(usual, scores, objectives),
        trials,
        num_running=num_running,
        base_scores=_base_scores(parent, label),
        grades=_grades(parent, tracking_uri, label),
    )


def settings_of(sweep: str, tracking_uri: str) -> list[str]:
    """Return the labels of a sweep's settings, sorted. Raises UserError as `load` does."""
    return _labels(_sweep(sweep, tracking_uri)[1])


def load_records(sweep: str, tracking_uri: str) -> dict[str, list[TrialRecord]]:
    """Return all trials of a sweep that ended, with all of their scores, by setting. Raises UserError as `load`."""
    parent, runs = _sweep(sweep, tracking_uri)
    objectives = _objectives(parent)
    records = {}
    for label in sorted({_tag(run, schema.SETTING) for run in runs}):
        trials, _ = _trials([run for run in runs if run.data.tags.get(schema.SETTING) == label])
        records[label] = counted(trials, objectives)
    return records


def runs_of(sweep: str, tracking_uri: str) -> SweepRuns:
    """Return where MLflow's UI shows a sweep and its configurations. Raises UserError as `load`."""
    parent, runs = _sweep(sweep, tracking_uri)
    configurations = {_tag(run, schema.CONFIGURATION): run.data.tags.get(schema.PARENT, "") for run in runs}
    return SweepRuns(str(parent.info.experiment_id), parent.info.run_id, configurations)


def experiment_id(sweep: str, tracking_uri: str) -> str:
    """Return the id of a sweep's experiment, as in the addresses of MLflow's UI. Raises UserError as `load`."""
    with _reading(tracking_uri):
        return _experiment(sweep, tracking_uri)[1]


def grades_file(setting: str) -> str:
    """Return the name of the artifact with a setting's grades of single questions."""
    return f"{re.sub('[^A-Za-z0-9._-]+', '_', setting)}.csv.gz"


def _grades(parent: Run, tracking_uri: str, setting: str | None) -> list[Grade]:
    """Read the grades of single questions, which a sweep publishes as artifacts when it ends."""
    with _reading(tracking_uri), tempfile.TemporaryDirectory() as folder:
        client = mlflow_client.connect(tracking_uri)
        artifacts = client.list_artifacts(parent.info.run_id, schema.QUESTIONS)
        paths = {Path(artifact.path).name: artifact.path for artifact in artifacts}
        if setting is None or grades_file(setting) not in paths:
            return []
        file = client.download_artifacts(parent.info.run_id, paths[grades_file(setting)], folder)
        return read_grades(Path(file))


def _sweep(sweep: str, tracking_uri: str) -> tuple[Run, list[Run]]:
    """Return the newest run of a sweep, and the trial runs below it that the search asked for."""
    with _reading(tracking_uri):
        client, experiment = _experiment(sweep, tracking_uri)
        runs = mlflow_client.search_runs(client, [experiment])
    parents = [run for run in runs if _kind(run) == schema.SWEEP_RUN]
    if not parents:
        raise UserError(f"experiment {sweep!r} in {tracking_uri} holds no run of a sweep")
    if len(parents) > 1:
        logger.warning("sweep %r has %d runs in %s; reading the newest", sweep, len(parents), tracking_uri)
    parent = max(parents, key=lambda run: (run.info.start_time, run.info.run_id))
    return parent, _asked_trials(runs, parent)


def _experiment(sweep: str, tracking_uri: str) -> tuple[MlflowClient, str]:
    """Return a client of the store, and the id of the sweep's experiment there."""
    _check_exists(tracking_uri)
    client = mlflow_client.connect(tracking_uri)
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None or experiment.lifecycle_stage == "deleted":
        raise UserError(_unknown(client, sweep, tracking_uri))
    return client, str(experiment.experiment_id)


@contextmanager
def _reading(tracking_uri: str) -> Iterator[None]:
    """Turn whatever a store raises into one line."""
    try:
        yield
    except mlflow_client.store_errors() as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot read the MLflow store {tracking_uri}: {reason}") from error


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
    mlflow_client.set_environment()
    import mlflow.store.tracking.dbmodels.models  # noqa: F401 - fills the metadata
    from mlflow.store.db.base_sql_model import Base

    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=60)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not set(Base.metadata.tables) <= tables:
        raise UserError(
            f"{path} is not a store of this version of MLflow, or is still being made; "
            "if MLflow was killed meanwhile, delete it and resume the sweep, whose ledger has everything"
        )


def _unknown(client: MlflowClient, sweep: str, tracking_uri: str) -> str:
    """Say that there is no such sweep, and which there are."""
    experiments = mlflow_client.search_experiments(client)
    ids = [experiment.experiment_id for experiment in experiments]
    condition = f"tags.`{schema.KIND}` = '{schema.SWEEP_RUN}'"
    parents = {run.info.experiment_id for run in mlflow_client.search_runs(client, ids, condition)} if ids else set()
    names = sorted(experiment.name for experiment in experiments if experiment.experiment_id in parents)
    return f"no sweep {sweep!r} in {tracking_uri}; it has {', '.join(names) if names else 'no sweep at all'}"


def _kind(run: Run) -> str | None:
    return run.data.tags.get(schema.KIND)


def _asked_trials(runs: Sequence[Run], parent: Run) -> list[Run]:
    """Return the trial runs below a sweep's run that the search asked for."""
    children = {
        run.info.run_id
        for run in runs
        if _kind(run) == schema.CONFIGURATION_RUN and run.data.tags.get(schema.PARENT) == parent.info.run_id
    }
    trials = [run for run in runs if _kind(run) == schema.TRIAL_RUN and run.data.tags.get(schema.PARENT) in children]
    return [run for run in trials if run.data.tags.get(schema.AUXILIARY) != "true"]


def _labels(runs: Sequence[Run]) -> list[str]:
    """Return the settings of trial runs, sorted."""
    return sorted({label for run in runs if (label := run.data.tags.get(schema.SETTING)) is not None})


def _trials(runs: Sequence[Run]) -> tuple[list[TrialRecord], int]:
    """Return one record per trial that ended, and the number of trials that run."""
    by_trial: dict[str, list[Run]] = {}
    for run in runs:
        by_trial.setdefault(_tag(run, schema.TRIAL), []).append(run)
    ended = []
    for same_trial in by_trial.values():
        over = [run for run in same_trial if _status(run) != schema.RUNNING]
        if over:
            ended.append(_run_that_counts(over))
    return [_record(run) for run in ended], len(by_trial) - len(ended)


def _run_that_counts(runs: Sequence[Run]) -> Run:
    """Choose from the runs of one trial the finished one, else the newest. Raises UserError."""
    finished = [run for run in runs if run.data.tags[schema.STATUS] == "finished"]
    newest = max(finished or runs, key=lambda run: (run.info.start_time, run.info.run_id))
    for run in finished:
        if _scores(run) != _scores(newest):
            raise UserError(
                f"trial {run.data.tags[schema.TRIAL]} finished twice with different scores: runs"
                f" {run.info.run_id} and {newest.info.run_id}; delete the wrong one"
            )
    return newest


def _record(run: Run) -> TrialRecord:
    configuration = Configuration(
        id=_tag(run, schema.CONFIGURATION),
        method=_tag(run, schema.METHOD),
        label=run.data.tags.get(schema.LABEL, ""),
        coefficients=_json(run, schema.COEFFICIENTS, dict),
        training=run.data.tags.get(schema.TRAINING, ""),
    )
    seed = _tag(run, schema.SEED)
    if not seed.lstrip("-").isdecimal():
        raise UserError(f"run {run.info.run_id}: tag {schema.SEED} is not an integer: {seed!r}")
    counts = _json(run, schema.COUNTS, dict) if schema.COUNTS in run.data.tags else {}
    return TrialRecord(
        configuration,
        int(seed),
        _status(run),
        _scores(run),
        tokens=run.data.metrics.get(schema.TOKENS, math.nan),
        seconds=run.data.metrics.get(schema.SECONDS, math.nan),
        reason=run.data.tags.get(schema.REASON, ""),
        counts={name: int(graded[0]) for name, graded in counts.items()},
    )


def _scores(run: Run) -> dict[str, float]:
    """Return the latest finite values of `eval/<score>`. MLflow keeps an infinity as the largest float."""
    return {
        name.removeprefix(schema.EVAL): value
        for name, value in run.data.metrics.items()
        if name.startswith(schema.EVAL) and abs(value) < sys.float_info.max
    }


def _objectives(parent: Run) -> tuple[Objective, ...]:
    """Return the objectives of a sweep. Raises UserError."""
    try:
        return tuple(
            Objective(
                item["name"],
                item["kind"],
                item["higher_is_better"],
                item.get("description", ""),
                item.get("low"),
                item.get("high"),
            )
            for item in _json(parent, schema.OBJECTIVES, list)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"run {parent.info.run_id}: tag {schema.OBJECTIVES} has an entry without {error}") from error


def _base_scores(parent: Run, setting: str | None) -> dict[str, float]:
    """Return the base model's scores; in a sweep of several settings the tag holds one such table for each."""
    if schema.BASE_SCORES not in parent.data.tags:
        return {}
    scores: dict[str, Any] = _json(parent, schema.BASE_SCORES, dict)
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
    """Return a tag's JSON value. Raises UserError when it is not of that kind."""
    try:
        value = json.loads(_tag(run, key))
    except json.JSONDecodeError as error:
        raise UserError(f"run {run.info.run_id}: tag {key} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"run {run.info.run_id}: tag {key} must hold a {kind.__name__}")
    return value
