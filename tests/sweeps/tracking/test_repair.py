"""What was deleted or cut in MLflow is noticed, said, and written again from the ledger."""

from __future__ import annotations

import io
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from rich.console import Console

from analysis.tables import schema
from analysis.tables.mlflow_runs import load
from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.driver import launch
from sweeps.driver.run_options import RunOptions
from sweeps.ledger import Asked, LedgerState
from sweeps.names import default_uri
from sweeps.tracking import projection
from sweeps.tracking.writer import lacks, project
from tests.support.fakes import Rig, finished, toy, toy_sweep
from tests.support.mlflow_store import copy_store
from tests.sweeps.tracking.test_writer import dump, record_of, runs_of
from trainables.outcome import Outcome


@pytest.fixture()
def out(tmp_path: Path, empty_store: Path) -> Path:
    """An output folder with an empty store."""
    return copy_store(empty_store, tmp_path / "out")


def means(offset: float, count: int) -> dict[str, Measurement]:
    """So many scores, with as many digits as a float has."""
    return {f"score_{number}": Measurement((number + offset) / 70, 50, 0) for number in range(count)}


def test_twelve_settings_of_seventeen_scores_are_kept_whole(tmp_path: Path, out: Path) -> None:
    """MLflow cuts a longer tag without an error."""
    sweep = toy_sweep(tmp_path, settings=tuple(toy(tmp_path, rows=rows) for rows in range(2, 14)), methods=("plain",))
    record, uri = LedgerState(sweep.name, sweep.identity()), default_uri(out)
    record.bases = {case.label: means(1 / (number + 3), 17) for number, case in enumerate(sweep.cases)}
    trial = sweep.trials_of(sweep.arms[0], {})[0]
    record.asked[sweep.arms[0].key] = {0: Asked(0, {}, trial.configuration_id)}
    many = finished(trial).scores | {
        f"another_score_of_this_setting_{number}": Measurement(0.5, 9, 1) for number in range(250)
    }
    record.outcomes[trial.trial_id] = Outcome(trial=trial, status="finished", scores=many)
    for _ in range(2):
        assert project(record, sweep, uri) == []
    runs = runs_of(out, sweep)
    assert max(len(value) for run in runs for value in run.data.tags.values()) < MAX_TAG_VAL_LENGTH
    loaded = load(sweep.name, uri, sweep.cases[0].label)
    assert loaded.base_scores == {name: score.mean for name, score in record.bases[sweep.cases[0].label].items()}
    assert loaded.records[0].counts["another_score_of_this_setting_249"] == 9
    assert lacks(record, sweep, uri) == ""


def test_a_tag_that_an_earlier_version_left_to_be_cut_is_survived_and_mended(
    tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sweep, uri = toy_sweep(tmp_path), default_uri(out)
    record = record_of(sweep)
    project(record, sweep, uri)
    before = dump(out, sweep)
    client, runs = MlflowClient(uri), {run.info.run_name: run.info.run_id for run in runs_of(out, sweep)}
    cut = json.dumps({f"score_{number}": number / 7 for number in range(900)})[:8000]
    client.set_tag(runs[sweep.name], schema.BASE_SCORES, cut)
    client.set_tag(runs["plain seed=0"], schema.COUNTS, cut)
    with caplog.at_level(logging.WARNING, "analysis.tables.mlflow_runs"):
        loaded = load(sweep.name, uri)
    assert loaded.base_scores == {} and loaded.counts["finished"] == 5
    assert "the base model's scores are left out" in caplog.text and schema.BASE_SCORES in caplog.text
    assert "selgen sweep run toy-sweep, writes it again" in caplog.text
    assert f"tag {schema.COUNTS} is cut in 1 trials" in caplog.text
    assert lacks(record, sweep, uri) == "the sweep's run"
    assert project(record, sweep, uri) == []
    assert dump(out, sweep) == before and lacks(record, sweep, uri) == ""


def two_trials(client: MlflowClient, runs: dict[str, Any]) -> None:
    for seed in (0, 1):
        client.delete_run(runs[f"kl_penalty beta=0.5 seed={seed}"].info.run_id)


def a_configuration(client: MlflowClient, runs: dict[str, Any]) -> None:
    client.delete_run(runs["kl_penalty beta=0.5"].info.run_id)


def the_sweep(client: MlflowClient, runs: dict[str, Any]) -> None:
    client.delete_run(runs["toy-sweep"].info.run_id)


def the_experiment(client: MlflowClient, runs: dict[str, Any]) -> None:
    client.delete_experiment(runs["toy-sweep"].info.experiment_id)


@pytest.mark.parametrize(
    ("delete", "said", "missing"),
    [
        (two_trials, "2 trials of sweep 'toy-sweep' are deleted", "2 trials"),
        (a_configuration, "2 trials of sweep 'toy-sweep' are deleted", "2 trials"),
        (the_sweep, "holds no run of a sweep", "the sweep's run"),
        (the_experiment, "its experiment is deleted there", ""),  # to open it for writing restores it
    ],
)
def test_what_was_deleted_in_the_ui_comes_back(
    tmp_path: Path,
    out: Path,
    delete: Callable[[MlflowClient, dict[str, Any]], None],
    said: str,
    missing: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep, uri = toy_sweep(tmp_path), default_uri(out)
    record = record_of(sweep, (0.5,))
    project(record, sweep, uri)
    before, whole = dump(out, sweep), load(sweep.name, uri)
    assert not caplog.text
    delete(MlflowClient(uri), {run.info.run_name: run for run in runs_of(out, sweep)})
    try:
        load(sweep.name, uri)
        told = caplog.text
    except UserError as error:
        told = str(error)
    assert said in told and "selgen sweep run toy-sweep, writes it again" in told
    assert lacks(record, sweep, uri) == missing
    assert project(record, sweep, uri) == [] and lacks(record, sweep, uri) == ""
    assert dump(out, sweep) == before
    assert np.array_equal(load(sweep.name, uri).table.values_CSM, whole.table.values_CSM)


def test_a_start_of_a_finished_sweep_looks_into_mlflow(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Ray is started for it, and no trial repeated."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    sweep = toy_sweep(tmp_path, methods=("plain",), objectives=("task",))  # one objective needs no figure
    rig = Rig(sweep, out / sweep.name)
    rig.run(random.Random(0))
    rig.kill()
    ledger = (out / sweep.name / "ledger.jsonl").read_bytes()

    def start() -> str:
        shown = io.StringIO()
        launch.run(sweep, RunOptions(out), Console(file=shown, width=200))
        return shown.getvalue()

    assert "nothing" not in start()
    client = MlflowClient(default_uri(out))
    trials = [run for run in runs_of(out, sweep) if run.data.tags[schema.KIND] == schema.TRIAL_RUN]
    client.delete_run(trials[0].info.run_id)
    assert "nothing is left to run, but MLflow lacks 1 trial: writing it again" in start()
    assert len(load(sweep.name, default_uri(out)).records) == len(trials)
    assert "nothing was left to run" in start()
    assert (out / sweep.name / "ledger.jsonl").read_bytes().startswith(ledger)


def test_a_long_description_ends_with_a_whole_line() -> None:
    text = "\n".join(f"| configuration {number} | 0.5 | 0.5 |" for number in range(300))
    short = projection.shortened(text, 4000)
    lines = short.splitlines()
    assert 3900 < len(short) <= 4000 and lines[-1].endswith("see the artifacts of this run.")
    assert lines[:-2] == text.splitlines()[: len(lines) - 2]
    assert projection.shortened("short", 4000) == "short"
