"""Read a sweep's numbers from MLflow, where `sweeps.tracking` writes them under the names of `analysis.tables.schema`.

A store is only read, never created.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.tables import long_tags, mlflow_client, schema
from analysis.tables.loaded_sweep import LoadedSweep, choose_objectives, choose_setting, counted
from analysis.tables.mlflow_checks import check_readable, reading
from analysis.tables.questions import Grade, read_grades
from analysis.tables.scores import Configuration, Objective, TrialRecord
from settings.common.addresses import without_password
from settings.common.errors import UserError, did_you_mean
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
    """Read one setting of a sweep. Trials that are still running are counted but left out.

    If several sweep runs have one name, as after a change of the sweep's file, the newest is read. A warning says how
    many of its trials are deleted, and which tags are broken.

    Args:
        sweep: its name, which is the experiment's.
        tracking_uri: of the store, `sqlite:///path` or a server's.
        setting: which one, if the sweep has several: its label, or a part that no other label has.
        objectives: names of its scores, instead of those that the sweep optimised.

    Raises UserError: a store that is missing or cannot be read; no such score; an unknown sweep (the message lists
    those that exist); a sweep of several settings with none chosen; runs that do not follow the schema.
    """
    parent, runs = _sweep(sweep, tracking_uri)
    labels = _labels(runs)
    label = choose_setting(labels, sweep, setting) if labels or setting else None
    trials, num_running = _trials([run for run in runs if _setting(run) == label])
    if deleted := _num_deleted(tracking_uri, parent, runs, label):
        logger.warning(
            "%d trials of sweep %r are deleted in %s and left out; %s",
            deleted,
            sweep,
            without_password(tracking_uri),
            _written_again(sweep),
        )
    usual = _objectives(parent)
    facts = _optional_json(parent, schema.SCORES, "only the sweep's own objectives are known")
    scores = {name: Objective(name, kind, higher, "", *ends) for name, (kind, higher, *ends) in facts.items()}
    return LoadedSweep.of_trials(
        sweep,
        label,
        choose_objectives(usual, scores, objectives),
        trials,
        num_running=num_running,
        base_scores=_base_scores(parent, label),
        grades=_grades(parent, tracking_uri, label),
        scores=scores,
        methods={_tag(run, schema.METHOD) for run in runs},
    )


def settings_of(sweep: str, tracking_uri: str) -> list[str]:
    """Return the labels of a sweep's settings, sorted. Raises UserError as `load` does."""
    return _labels(_sweep(sweep, tracking_uri)[1])


def load_records(sweep: str, tracking_uri: str) -> dict[str, list[TrialRecord]]:
    """Return all ended trials of a sweep, with all of their scores, by setting. Raises UserError as `load` does."""
    parent, runs = _sweep(sweep, tracking_uri)
    objectives = _objectives(parent)
    records = {}
    for label in sorted({_tag(run, schema.SETTING) for run in runs}):
        trials, _ = _trials([run for run in runs if _setting(run) == label])
        records[label] = counted(trials, objectives)
    return records


def runs_of(sweep: str, tracking_uri: str) -> SweepRuns:
    """Return where MLflow's UI shows a sweep and its configurations. Raises UserError as `load` does."""
    parent, runs = _sweep(sweep, tracking_uri)
    configurations = {_tag(run, schema.CONFIGURATION): run.data.tags.get(schema.PARENT, "") for run in runs}
    return SweepRuns(str(parent.info.experiment_id), parent.info.run_id, configurations)


def figure_of(runs: SweepRuns, tracking_uri: str) -> str:
    """Return the path of a sweep's first figure among its artifacts; "" before there is one. Raises UserError."""
    with reading(tracking_uri):
        artifacts = mlflow_client.connect(tracking_uri).list_artifacts(runs.run_id, schema.PREVIEWS)
    return min((artifact.path for artifact in artifacts), default="")


def grades_file(setting: str) -> str:
    """Return the name of the artifact with a setting's grades of single questions."""
    return f"{re.sub('[^A-Za-z0-9._-]+', '_', setting)}.csv.gz"


def _grades(parent: Run, tracking_uri: str, setting: str | None) -> list[Grade]:
    """Read the grades of single questions, which a sweep publishes as artifacts when it ends."""
    with reading(tracking_uri), tempfile.TemporaryDirectory() as folder:
        client = mlflow_client.connect(tracking_uri)
        artifacts = client.list_artifacts(parent.info.run_id, schema.QUESTIONS)
        paths = {Path(artifact.path).name: artifact.path for artifact in artifacts}
        if setting is None or grades_file(setting) not in paths:
            return []
        file = client.download_artifacts(parent.info.run_id, paths[grades_file(setting)], folder)
        return read_grades(Path(file))


def _sweep(sweep: str, tracking_uri: str) -> tuple[Run, list[Run]]:
    """Return the newest run of a sweep, and the trial runs below it that the search asked for."""
    with reading(tracking_uri):
        client, experiment = _experiment(sweep, tracking_uri)
        runs = mlflow_client.search_runs(client, [experiment])
    parents = [run for run in runs if _kind(run) == schema.SWEEP_RUN]
    if not parents:
        raise UserError(
            f"experiment {sweep!r} in {without_password(tracking_uri)} holds no run of a sweep;"
            f" if the sweep was deleted there, {_written_again(sweep)}"
        )
    if len(parents) > 1:
        where = without_password(tracking_uri)
        logger.warning("sweep %r has %d runs in %s; reading the newest", sweep, len(parents), where)
    parent = max(parents, key=lambda run: (run.info.start_time, run.info.run_id))
    return parent, _asked_trials(runs, parent)


def _experiment(sweep: str, tracking_uri: str) -> tuple[MlflowClient, str]:
    """Return a client of the store, and the id of the sweep's experiment there."""
    check_readable(tracking_uri)
    client = mlflow_client.connect(tracking_uri)
    experiment = client.get_experiment_by_name(sweep)
    if experiment is None:
        raise UserError(_unknown(client, sweep, tracking_uri))
    if experiment.lifecycle_stage == "deleted":
        where = without_password(tracking_uri)
        raise UserError(f"no sweep {sweep!r} in {where}: its experiment is deleted there; {_written_again(sweep)}")
    return client, str(experiment.experiment_id)


def _written_again(sweep: str) -> str:
    """Say how to restore what was deleted or truncated in MLflow."""
    return f"the next start, selgen sweep run {shlex.quote(sweep)}, writes it again from the sweep's ledger"


def _unknown(client: MlflowClient, sweep: str, tracking_uri: str) -> str:
    """Say that there is no such sweep, and list those that exist."""
    experiments = mlflow_client.search_experiments(client)
    ids = [experiment.experiment_id for experiment in experiments]
    condition = f"tags.`{schema.KIND}` = '{schema.SWEEP_RUN}'"
    parents = {run.info.experiment_id for run in mlflow_client.search_runs(client, ids, condition)} if ids else set()
    names = sorted(experiment.name for experiment in experiments if experiment.experiment_id in parents)
    listing = ", ".join(names) if names else "no sweep at all"
    return f"no sweep {sweep!r} in {without_password(tracking_uri)}{did_you_mean(sweep, names)}; it has {listing}"


def _num_deleted(tracking_uri: str, parent: Run, asked: Sequence[Run], setting: str | None) -> int:
    """Return how many trials of a setting are gone: they or their configuration's run were deleted."""
    identity = parent.data.tags.get(schema.IDENTITY)
    condition = f"tags.`{schema.KIND}` = '{schema.TRIAL_RUN}' and tags.`{schema.IDENTITY}` = '{identity}'"
    with reading(tracking_uri):
        client = mlflow_client.connect(tracking_uri)
        runs = [
            run
            for deleted in (True, False)
            for run in mlflow_client.search_runs(client, [parent.info.experiment_id], condition, deleted)
        ]
    written = {
        run.data.tags.get(schema.TRIAL)
        for run in runs
        if _setting(run) == setting and run.data.tags.get(schema.AUXILIARY) != "true"
    }
    return len(written - {run.data.tags.get(schema.TRIAL) for run in asked})


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
    return sorted({label for run in runs if (label := _setting(run)) is not None})


def _trials(runs: Sequence[Run]) -> tuple[list[TrialRecord], int]:
    """Return one record per ended trial, and the number of running trials."""
    by_trial: dict[str, list[Run]] = {}
    for run in runs:
        by_trial.setdefault(_tag(run, schema.TRIAL), []).append(run)
    ended = []
    for same_trial in by_trial.values():
        over = [run for run in same_trial if _status(run) != schema.RUNNING]
        if over:
            ended.append(_run_that_counts(over))
    counts = [_counts(run) for run in ended]
    if broken := counts.count(None):
        logger.warning("tag %s is cut in %d trials: the number of graded replies is unknown", schema.COUNTS, broken)
    records = [_record(run, graded or {}) for run, graded in zip(ended, counts, strict=True)]
    return records, len(by_trial) - len(ended)


def _run_that_counts(runs: Sequence[Run]) -> Run:
    """Choose among the runs of one trial: the finished one, or else the newest. Raises UserError."""
    finished = [run for run in runs if run.data.tags[schema.STATUS] == "finished"]
    newest = max(finished or runs, key=lambda run: (run.info.start_time, run.info.run_id))
    for run in finished:
        if _scores(run) != _scores(newest):
            raise UserError(
                f"trial {run.data.tags[schema.TRIAL]} finished twice with different scores: runs"
                f" {run.info.run_id} and {newest.info.run_id}; delete the wrong one"
            )
    return newest


def _counts(run: Run) -> dict[str, int] | None:
    """Return how many replies of a trial were graded for each score; None if the tag is broken."""
    try:
        counts = json.loads(_whole(run, schema.COUNTS) or "{}")
        return {name: int(graded[0]) for name, graded in counts.items()}
    except ValueError:
        return None


def _record(run: Run, counts: dict[str, int]) -> TrialRecord:
    configuration = Configuration(
        id=_tag(run, schema.CONFIGURATION),
        method=_tag(run, schema.METHOD),
        label=_tag_or_none(run, schema.LABEL) or "",
        coefficients=_json(run, schema.COEFFICIENTS, dict),
        training=run.data.tags.get(schema.TRAINING, ""),
    )
    seed = _tag(run, schema.SEED)
    if not seed.lstrip("-").isdecimal():
        raise UserError(f"run {run.info.run_id}: tag {schema.SEED} is not an integer: {seed!r}")
    return TrialRecord(
        configuration,
        int(seed),
        _status(run),
        _scores(run),
        tokens=run.data.metrics.get(schema.TOKENS, math.nan),
        seconds=run.data.metrics.get(schema.SECONDS, math.nan),
        reason=_tag_or_none(run, schema.REASON) or "",
        counts=counts,
    )


def _scores(run: Run) -> dict[str, float]:
    """Return the latest finite values of `eval/<score>`. MLflow stores an infinity as the largest float."""
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
    """Return the base model's scores; in a sweep of several settings the tag holds one table for each setting."""
    scores = _optional_json(parent, schema.BASE_SCORES, "the base model's scores are left out")
    if setting is not None and isinstance(scores.get(setting), dict):
        scores = scores[setting]
    return {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}


def _status(run: Run) -> Status:
    status: Any = _tag(run, schema.STATUS)
    return status


def _setting(run: Run) -> str | None:
    """Return the label of what a trial learned."""
    return _tag_or_none(run, schema.SETTING)


def _tag(run: Run, key: str) -> str:
    value = _tag_or_none(run, key)
    if value is None:
        raise UserError(f"run {run.info.run_id} has no tag {key}; was it written by another version of selgen?")
    return value


def _tag_or_none(run: Run, key: str) -> str | None:
    try:
        return _whole(run, key)
    except long_tags.BrokenTagError as error:
        raise UserError(f"run {run.info.run_id}: {error}") from error


def _whole(run: Run, key: str) -> str | None:
    """Return the value of a tag, or else of the tag that earlier versions used for it."""
    value = long_tags.whole(run.data.tags, key)
    return long_tags.whole(run.data.tags, key.removeprefix("mlflow.")) if value is None else value


def _json(run: Run, key: str, kind: type) -> Any:
    """Return a tag's JSON value. Raises UserError if it is not of that kind."""
    try:
        value = json.loads(_tag(run, key))
    except json.JSONDecodeError as error:
        raise UserError(f"run {run.info.run_id}: tag {key} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise UserError(f"run {run.info.run_id}: tag {key} must hold a {kind.__name__}")
    return value


def _optional_json(parent: Run, key: str, without: str) -> dict[str, Any]:
    """Return the JSON object in a tag of a sweep; empty if it is missing, or broken, which logs a warning.

    Args:
        without: the consequence of a broken tag, in words.
    """
    if not {key, key.removeprefix("mlflow.")} & parent.data.tags.keys():
        return {}
    try:
        scores: dict[str, Any] = _json(parent, key, dict)
    except UserError as error:
        again = _written_again(parent.data.tags.get(schema.SWEEP, "NAME"))
        logger.warning("%s: %s; %s", without, error, again)
        return {}
    return scores
