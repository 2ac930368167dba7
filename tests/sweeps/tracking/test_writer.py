"""MLflow as a projection: complete, without duplicates, after any crash, and never in the way of the sweep."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.tables import mlflow_client
from analysis.tables.mlflow_runs import load
from settings.setting import Measurement
from sweeps.ledger import Asked, Ledger, LedgerState
from sweeps.names import default_uri
from sweeps.sweep import Budget, Execution, Sweep
from sweeps.tracking import projection, sweep_runs, writer
from sweeps.tracking.run_writers import ClientWriter
from sweeps.tracking.writer import Tracker, add_problem, project
from tests.support.fakes import finished, toy, toy_sweep
from tests.support.mlflow_server import MlflowServer
from tests.support.mlflow_store import copy_store
from trainables.outcome import Cost, Outcome
from trainables.trial import TrialConfig

pytestmark = pytest.mark.slow


@pytest.fixture()
def out(tmp_path: Path, empty_store: Path) -> Path:
    """An output folder with an empty store."""
    return copy_store(empty_store, tmp_path / "out")


def record_of(sweep: Sweep, betas: tuple[float, ...] = (0.5, 2.0)) -> LedgerState:
    """A ledger of plain and of some KL penalties, one seed of which diverged."""
    record = LedgerState(sweep.name, sweep.identity())
    record.bases["toy"] = {"task": Measurement(0.25, 4, 0), "other": Measurement(math.nan, 0, 4)}
    trials = [*sweep.trials_of(sweep.arms[0], {})]
    for beta in betas:
        trials += sweep.trials_of(sweep.arms[1], {"beta": beta})
    for trial in trials:
        bad = trial.coefficients.get("beta") == 2.0 and trial.seed == 1
        record.outcomes[trial.trial_id] = finished(trial, "invalid" if bad else "finished")
    asked = dict.fromkeys(trial.configuration_id for trial in trials)
    record.asked["arm"] = {number: Asked(number, {}, configuration) for number, configuration in enumerate(asked)}
    return record


def runs_of(out: Path, sweep: Sweep) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(out))
    experiment = client.get_experiment_by_name(sweep.name)
    if experiment is None:
        return []
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def dump(out: Path, sweep: Sweep) -> list[Any]:
    """All that the store says, without MLflow's ids and times."""
    from mlflow import MlflowClient

    client, runs = MlflowClient(default_uri(out)), runs_of(out, sweep)
    keys = {run.info.run_id: run.info.run_name for run in runs}
    rows = []
    for run in runs:
        histories = [client.get_metric_history(run.info.run_id, name) for name in sorted(run.data.metrics)]
        points = [(metric.key, metric.step, metric.value) for history in histories for metric in history]
        tags = dict(run.data.tags)
        tags["mlflow.parentRunId"] = keys.get(tags.get("mlflow.parentRunId", ""), "")
        tags |= {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
        rows.append((run.info.run_name, run.info.status, sorted(tags.items()), sorted(run.data.params.items()), points))
    return sorted(rows)


def test_raised_seeds_and_configurations_are_those_of_the_sweeps_run(tmp_path: Path, out: Path) -> None:
    for seeds, shown, configurations in ((2, "0, 1", 6), (3, "0, 1, 2", 8)):
        sweep = toy_sweep(tmp_path, seeds=seeds, configurations=configurations)
        assert project(record_of(sweep), sweep, default_uri(out), out / "artifacts") == []
        (run,) = (run for run in runs_of(out, sweep) if run.info.run_name == sweep.name)
        assert run.data.tags["seeds"] == shown and "seeds" not in run.data.params
        assert run.data.tags["configurations"] == str(1 + configurations), "plain has nothing to search"
        assert "configurations" not in run.data.params


def test_hierarchy_tags_params_and_metrics(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path)
    assert project(record_of(sweep), sweep, default_uri(out), out / "artifacts") == []
    runs = {run.info.run_name: run for run in runs_of(out, sweep)}
    assert len(runs) == 1 + 3 + 6
    parent, configuration = runs["toy-sweep"], runs["kl_penalty beta=0.5"]
    trial, bad = runs["kl_penalty beta=0.5 seed=1"], runs["kl_penalty beta=2 seed=1"]
    assert {"plain", "plain seed=0"} <= set(runs)
    assert configuration.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.tags["mlflow.parentRunId"] == configuration.info.run_id

    tags = parent.data.tags
    assert (tags["selgen.kind"], tags["selgen.sweep"]) == ("sweep", "toy-sweep")
    assert [
        (item["name"], item["kind"], item["higher_is_better"]) for item in json.loads(tags["mlflow.selgen.objectives"])
    ] == [
        ("task", "task", True),
        ("alignment", "alignment", True),
    ]
    assert json.loads(tags["mlflow.selgen.base_scores"]) == {"task": 0.25, "other": None}
    assert tags["seeds"] == "0, 1" and parent.data.params["steps"] == "5"
    assert str(tmp_path) not in json.dumps([run.data.tags | run.data.params for run in runs.values()])

    expected = finished(sweep.trials_of(sweep.arms[1], {"beta": 0.5})[1])
    tags = trial.data.tags
    assert tags["selgen.trial"] == expected.trial.trial_id
    assert (
        tags["selgen.configuration"]
        == expected.trial.configuration_id
        == configuration.data.tags["selgen.configuration"]
    )
    assert json.loads(tags["mlflow.selgen.coefficients"])["beta"] == 0.5
    names = ("kind", "method", "label", "seed", "setting", "status")
    assert [tags[f"selgen.{name}"] for name in names] == ["trial", "kl_penalty", "beta=0.5", "1", "toy", "finished"]
    assert json.loads(tags["mlflow.selgen.counts"])["other"] == [3, 1, 0]
    assert trial.data.metrics["eval/task"] == expected.scores["task"].mean
    assert trial.data.metrics["train/loss"] == expected.curves["loss"][-1][1]
    assert (trial.data.metrics["tokens"], trial.data.metrics["seconds"]) == (100, 0.5)
    assert trial.data.metrics["core_hours"] == pytest.approx(0.5 / 3600) and "dollars" not in trial.data.metrics
    assert (trial.data.params["beta"], trial.data.params["seed"], trial.info.status) == ("0.5", "1", "FINISHED")

    assert (bad.data.tags["selgen.status"], bad.info.status) == ("invalid", "FAILED")
    assert bad.data.tags["selgen.reason"] == "a test wants it" and "eval/task" not in bad.data.metrics
    pair = [runs[f"kl_penalty beta=0.5 seed={seed}"].data.metrics["eval/task"] for seed in (0, 1)]
    assert configuration.data.metrics["task"] == pytest.approx(sum(pair) / 2)
    assert configuration.data.metrics["seeds"] == 2 and configuration.data.params["beta"] == "0.5"
    assert runs["kl_penalty beta=2"].data.metrics["seeds"] == 1, "only valid seeds are averaged"


def test_a_ledger_without_outcomes_is_a_sweep_alone(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path)
    assert project(LedgerState(sweep.name, sweep.identity()), sweep, default_uri(out)) == []
    assert [run.info.run_name for run in runs_of(out, sweep)] == [sweep.name]


def test_what_others_build_on_is_marked_until_the_search_asks_for_it(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    plain = sweep.trials_of(sweep.arms[0], {})[0].configuration_id
    record.asked["arm"] = {item.number: item for item in record.asked["arm"].values() if item.configuration != plain}
    for asked, expected in ((False, 2), (True, 3)):
        if asked:
            record.asked["arm"][99] = Asked(99, {}, plain)
        assert project(record, sweep, default_uri(out)) == []
        marks = {run.info.run_name: run.data.tags.get("selgen.auxiliary") for run in runs_of(out, sweep)}
        assert (marks["plain seed=0"], marks["plain"]) == (("false",) * 2 if asked else ("true",) * 2)
        assert len(load(sweep.name, default_uri(out)).table.configurations) == expected


def test_projecting_again_changes_nothing(tmp_path: Path, out: Path, monkeypatch: Any) -> None:
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    project(record, sweep, default_uri(out))
    before = dump(out, sweep)
    monkeypatch.setattr(mlflow_client, "PAGE", 4)  # ten runs: three pages
    assert project(record, sweep, default_uri(out)) == []
    assert dump(out, sweep) == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Sweep, list[Any]]:
    """A sweep and what its undisturbed projection leaves in the store."""
    folder = copy_store(empty_store, tmp_path_factory.mktemp("whole"))
    sweep = toy_sweep(folder)
    assert project(record_of(sweep), sweep, default_uri(folder)) == []
    return sweep, dump(folder, sweep)


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 6, 9, 15, 24])
def test_killed_while_writing_the_next_start_completes(whole: Any, out: Path, calls: int) -> None:
    sweep, expected = whole
    record = record_of(sweep)
    child = os.fork()
    if child == 0:
        sweep_runs.writer_of = lambda client, is_file: ClientWriter(client)  # as for a server
        _die_at_call(calls)
        project(record, sweep, default_uri(out))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert project(record, sweep, default_uri(out)) == []
    assert dump(out, sweep) == expected


def _die_at_call(calls: int) -> None:
    """In this process, MLflow kills the process after so many writes."""
    from mlflow import MlflowClient

    count = [0]

    def wrapped(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            count[0] += 1
            if count[0] == calls:
                os._exit(9)
            return result

        return call

    for name in ("create_experiment", "create_run", "log_batch", "set_terminated", "update_run"):
        setattr(MlflowClient, name, wrapped(getattr(MlflowClient, name)))


def test_an_interrupted_trial_is_taken_up_again(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    trial = sweep.trials_of(sweep.arms[1], {"beta": 0.5})[0]
    outcome = record.outcomes.pop(trial.trial_id)
    first = Tracker(default_uri(out), sweep)
    first.start("first", record)
    first.pack_started([trial])
    first.progress(trial.trial_id, 0, {"loss": 2.0})
    first.progress(trial.trial_id, 2, {"loss": 1.5})
    first.close("KILLED")
    runs = {run.info.run_name: run for run in runs_of(out, sweep)}
    half = runs["kl_penalty beta=0.5 seed=0"]
    assert (half.info.status, half.data.tags["selgen.status"]) == ("KILLED", "running")
    assert half.data.metrics == {"train/loss": 1.5} and runs["toy-sweep"].info.status == "KILLED"
    assert "task" not in runs["kl_penalty beta=0.5"].data.metrics, "one seed is missing"

    second = Tracker(default_uri(out), sweep)
    second.start("second", record)
    second.pack_started([trial])
    second.progress(trial.trial_id, 2, {"loss": 1.5})
    awake = ["kl_penalty beta=0.5", "kl_penalty beta=0.5 seed=0", "toy-sweep"]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        running = sorted(run.info.run_name for run in runs_of(out, sweep) if run.info.status == "RUNNING")
        if running == awake:
            break
    assert running == awake
    second.progress(trial.trial_id, 3, {"loss": math.inf})
    second.trial_ended(outcome)
    second.close()
    assert first.problems == second.problems == []
    points = next(row for row in dump(out, sweep) if row[0] == "kl_penalty beta=0.5 seed=0")[4]
    losses = [(step, value) for name, step, value in points if name == "train/loss"]
    assert [step for step, _ in sorted(losses)] == [0, 2, 3, 4], "no step twice"
    assert math.isnan(dict(losses)[3])
    runs = {run.info.run_name: run for run in runs_of(out, sweep)}
    assert len(runs) == 10 and all(run.info.status != "RUNNING" for run in runs.values())
    assert runs["kl_penalty beta=0.5"].data.metrics["seeds"] == 2
    assert runs["toy-sweep"].data.tags["mlflow.note.content"] == "second"
    assert runs["toy-sweep"].info.status == "FINISHED"


@pytest.mark.parametrize("news", [True, False])
def test_the_store_is_opened_with_the_first_news(news: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing MLflow and making its database would hold up the start of Ray and of the workers."""
    monkeypatch.setattr(writer, "QUIET_SECONDS", 60.0 if news else 1.0)
    sweep, store = toy_sweep(tmp_path), tmp_path / "mlflow.db"
    trial = sweep.trials_of(sweep.arms[0], {})[0]
    tracker = Tracker(default_uri(tmp_path), sweep)
    tracker.start()
    tracker.pack_started([trial])
    time.sleep(0.5)
    assert not store.exists()
    if news:
        tracker.progress(trial.trial_id, 0, {"loss": 1.0})
    deadline = time.monotonic() + 20
    while not store.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.exists()
    tracker.close()
    assert not tracker.problems
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("reached", [True, False])
def test_a_trial_that_is_trained_or_judged_again_ends_anew(tmp_path: Path, out: Path, reached: bool) -> None:
    """In a run of its own, whether or not the store was there when it began: curve and cost are the new ones."""
    from mlflow import MlflowClient

    sweep = toy_sweep(tmp_path)
    first, second = sweep.trials_of(sweep.arms[0], {})
    record = LedgerState(sweep.name, sweep.identity())
    record.asked["arm"] = {0: Asked(0, {}, first.configuration_id)}
    failed = Outcome(trial=first, status="failed", reason="broken")
    record.outcomes = {first.trial_id: failed, second.trial_id: replace(failed, trial=second, status="invalid")}
    broken = Tracker(default_uri(out), sweep)
    broken.start()
    broken.pack_started([first])
    broken.progress(first.trial_id, 1, {"loss": 9.0})
    for outcome in record.outcomes.values():
        broken.trial_ended(outcome)
    broken.close()
    before = [run for run in runs_of(out, sweep) if "selgen.trial" in run.data.tags]
    assert {(run.info.status, run.data.tags["selgen.reason"]) for run in before} == {("FAILED", "broken")}
    assert project(record, sweep, default_uri(out)) == []
    assert {run.info.run_id for run in runs_of(out, sweep)} > {run.info.run_id for run in before}

    record.outcomes = {one.trial_id: finished(one) for one in (first, second)}
    tracker = Tracker(default_uri(out), sweep)
    tracker.start()
    if reached:
        tracker.pack_started([first, second])
    for outcome in record.outcomes.values():
        tracker.trial_ended(outcome)
    tracker.close()
    assert tracker.problems == []
    after = [run for run in runs_of(out, sweep) if "selgen.trial" in run.data.tags]
    assert len(after) == 2
    assert {(run.info.status, run.data.tags.get("selgen.reason")) for run in after} == {("FINISHED", None)}
    found = load(sweep.name, default_uri(out))
    assert found.counts["finished"] == 2 and found.counts["failed"] == 0
    assert [(one.reason, one.tokens, one.seconds) for one in found.records] == [("", 100, 0.5)] * 2
    client = MlflowClient(default_uri(out))
    losses = [metric.value for run in after for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert len(losses) == 4 and 9.0 not in losses
    configuration = next(run for run in runs_of(out, sweep) if run.data.tags["selgen.kind"] == "configuration")
    assert (configuration.info.status, configuration.data.metrics["seeds"]) == ("FINISHED", 2)


def test_progress_is_visible_while_the_trial_runs(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path)
    trial = sweep.trials_of(sweep.arms[0], {})[0]
    tracker = Tracker(default_uri(out), sweep, flush_seconds=0.2)
    tracker.start()
    tracker.pack_started([trial])
    deadline = time.monotonic() + 20
    step = 0
    while time.monotonic() < deadline:  # without a pause: a busy queue must be flushed, too
        tracker.progress(trial.trial_id, step, {"loss": 1.0})
        step += 1
        time.sleep(0.05)
        runs = [run for run in runs_of(out, sweep) if run.info.run_name == "plain seed=0"] if step > 20 else []
        if runs and runs[0].data.metrics:
            break
    assert runs[0].data.metrics == {"train/loss": 1.0} and runs[0].info.status == "RUNNING"
    tracker.close()


def ledger_of(record: LedgerState, folder: Path) -> Path:
    """A ledger on disk that says the same as a record."""
    with Ledger(folder, record.sweep, record.identity) as ledger:
        for arm, asked in record.asked.items():
            for item in asked.values():
                ledger.record_configuration(arm, item.number, item.values, item.configuration)
        for label, scores in record.bases.items():
            ledger.record_base_scores(label, scores)
        for outcome in record.outcomes.values():
            ledger.record_outcome(outcome)
    return folder


def test_a_server_that_is_killed_and_comes_back_has_everything(
    tmp_path: Path, out: Path, whole: Any, monkeypatch: Any
) -> None:
    """Killed between two updates and away for longer than memory holds: the ledger is the buffer on disk."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(writer, "BUFFER", 8)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sweep, expected = whole
    record = record_of(sweep)
    outcomes = list(record.outcomes.values())
    with MlflowServer(out) as server:
        tracker = Tracker(server.uri, sweep, ledger=ledger_of(record, tmp_path / "sweep"), flush_seconds=0.1)
        tracker.start()
        tracker.base_scored("toy", record.bases["toy"])
        tracker.pack_started([outcome.trial for outcome in outcomes[:2]])
        tracker.trial_ended(outcomes[0])
        wait_until(lambda: any(run.data.tags.get("selgen.status") == "finished" for run in runs_of(out, sweep)))
        server.kill()
        for outcome in outcomes[1:]:
            tracker.pack_started([outcome.trial])
            for step in range(100, 200):  # where no outcome has a point: what is written first stays
                tracker.progress(outcome.trial.trial_id, step, {"loss": 9.0})
                assert tracker.num_waiting <= 9
            tracker.trial_ended(outcome)
        time.sleep(0.5)
        server.start()
        names = len(expected)
        wait_until(lambda: len(runs_of(out, sweep)) == names and not tracker.is_behind and not tracker.num_waiting)
        tracker.close()
    assert any("Connection" in problem or "HTTP" in problem for problem in tracker.problems)
    assert not any("what is missing" in problem for problem in tracker.problems)
    assert without_progress(dump(out, sweep)) == expected


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def without_progress(rows: list[Any]) -> list[Any]:
    """A dump without the losses of 9 that the running trials had reported."""
    return [(*row[:-1], [point for point in row[-1] if point[2] != 9.0]) for row in rows]


def test_an_outage_is_a_few_lines_whatever_its_length() -> None:
    """MLflow's messages name objects by their address, which is another one each time."""
    problems: list[str] = []
    for number in range(100):
        add_problem(problems, OSError(f"<connection at {hex(number)}> refused"))
    assert problems == ["OSError: <connection at 0x...> refused"]
    for number in range(100):
        add_problem(problems, OSError(f"answer {number}"))
    assert len(problems) == writer.PROBLEMS


@pytest.mark.parametrize("is_open", [False, True])
def test_who_cannot_wait_leaves_the_rest_to_the_next_start(
    tmp_path: Path, out: Path, is_open: bool, monkeypatch: Any
) -> None:
    """A store that is not open stays closed; one that is open gets no more than the end of the sweep's run."""
    monkeypatch.setattr(writer, "QUIET_SECONDS", 0.0 if is_open else 60.0)
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    tracker = Tracker(default_uri(out), sweep)
    tracker.start()
    if is_open:
        assert tracker.wait(timeout=60)
    for outcome in record.outcomes.values():
        tracker._put_unless_full(lambda ended=outcome: tracker._store.outcome(ended))
    began = time.monotonic()
    tracker.close("KILLED", at_once=True)
    assert time.monotonic() - began < 5 and tracker.problems == []
    assert all(run.info.status != "RUNNING" for run in runs_of(out, sweep))
    assert len(runs_of(out, sweep)) < 10 and (is_open or not runs_of(out, sweep))
    assert project(record, sweep, default_uri(out)) == [] and len(runs_of(out, sweep)) == 10


def test_artifacts_and_description(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "frontier.svg").write_text("<svg/>")
    tracker = Tracker(default_uri(out), sweep, out / "artifacts")
    tracker.start("# before")
    tracker.artifact(tmp_path / "figures" / "frontier.svg")
    tracker.artifact(tmp_path / "figures", "all")
    tracker.artifact(tmp_path / "missing.svg")
    tracker.describe("# after")
    tracker.close()
    assert len(tracker.problems) == 1 and "missing.svg" in tracker.problems[0]
    found = sorted(path.relative_to(out / "artifacts").as_posix() for path in (out / "artifacts").rglob("*.svg"))
    run = runs_of(out, sweep)[0]
    folder = f"toy-sweep/{run.info.run_id}/artifacts"
    assert found == [f"{folder}/all/frontier.svg", f"{folder}/frontier.svg"]
    assert run.data.tags["mlflow.note.content"] == "# after"


def test_two_settings_and_more_seeds(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path, settings=(toy(tmp_path, rows=2), toy(tmp_path, rows=3)), methods=("plain",))
    record = LedgerState(sweep.name, sweep.identity())
    for arm in sweep.arms:
        record.outcomes |= {trial.trial_id: finished(trial) for trial in sweep.trials_of(arm, {})}
    record.bases = {"toy rows=2": {"task": Measurement(0.1, 1, 0)}, "toy rows=3": {"task": Measurement(0.2, 1, 0)}}
    project(record, sweep, default_uri(out))
    more = replace(sweep, seeds=3)
    record.outcomes |= {trial.trial_id: finished(trial) for arm in more.arms for trial in more.trials_of(arm, {})}
    assert project(record, more, default_uri(out)) == []
    runs = runs_of(out, sweep)
    assert len(runs) == 1 + 2 + 6
    parent = next(run for run in runs if run.info.run_name == "toy-sweep")
    assert json.loads(parent.data.tags["mlflow.selgen.base_scores"]) == {
        "toy rows=2": {"task": 0.1},
        "toy rows=3": {"task": 0.2},
    }
    assert [run.data.metrics["seeds"] for run in runs if run.info.run_name == "plain"] == [3, 3]


@pytest.mark.parametrize("store", ["not a folder", "garbage", "no server", "no scheme"])
def test_a_broken_store_does_not_reach_the_caller(tmp_path: Path, store: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.1)
    monkeypatch.setitem(mlflow_client.ENVIRONMENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "file").write_text("no database" * 1000)
    uris = {
        "not a folder": f"sqlite:///{tmp_path}/file/mlflow.db",
        "garbage": f"sqlite:///{tmp_path}/file",
        "no server": "http://127.0.0.1:9",
        "no scheme": "ftp://nowhere",
    }
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    tracker = Tracker(uris[store], sweep)
    began = time.monotonic()
    tracker.start(record=record)
    tracker.pack_started([outcome.trial for outcome in record.outcomes.values()])
    assert time.monotonic() - began < 0.5, "the caller does not wait"
    tracker.close()
    assert time.monotonic() - began < 20
    assert any("next start of the sweep writes what is missing" in problem for problem in tracker.problems)
    assert all("\n" not in problem for problem in tracker.problems)


def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow itself refuses a file in which it was killed while it made its tables. The next store is a copy."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    uri = default_uri(tmp_path / "out")
    making = [sys.executable, "-c", f"from sweeps.tracking.sweep_runs import open_client; open_client({uri!r})"]
    maker = subprocess.Popen(making, env=os.environ | {"TMPDIR": str(tmp_path)})
    wait_until(lambda: any("registered_models" in tables_of(file) for file in tmp_path.rglob("mlflow.db")))
    maker.kill()
    assert maker.wait() == -signal.SIGKILL
    sweep = toy_sweep(tmp_path)
    assert project(record_of(sweep), sweep, uri) == []
    assert len(runs_of(tmp_path / "out", sweep)) == 10
    monkeypatch.setattr(mlflow_client, "connect", lambda uri: pytest.fail("MLflow makes its tables again"))
    sweep_runs._create(tmp_path / "other.db")
    assert tables_of(tmp_path / "other.db") == tables_of(tmp_path / "out" / "mlflow.db")


def tables_of(database: Path) -> set[str]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as opened:
        return {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}


def test_two_sweeps_may_make_the_store_at_once(tmp_path: Path) -> None:
    sweeps = [replace(toy_sweep(tmp_path), name=name) for name in ("one", "other")]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda sweep: project(record_of(sweep), sweep, default_uri(tmp_path / "out")), sweeps))
    assert found == [[], []]
    assert [len(runs_of(tmp_path / "out", sweep)) for sweep in sweeps] == [10, 10]


def test_a_store_that_comes_back_gets_everything(tmp_path: Path, out: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(writer, "QUIET_SECONDS", 0.0)
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    (out / "mlflow.db").rename(out / "away.db")
    (out / "mlflow.db").mkdir()
    tracker = Tracker(default_uri(out), sweep)
    tracker.start(record=record)
    assert not tracker.wait(timeout=0.3)
    (out / "mlflow.db").rmdir()
    (out / "away.db").rename(out / "mlflow.db")
    assert tracker.wait(timeout=20)
    tracker.close()
    assert len(tracker.problems) == 1 and "unable to open database file" in tracker.problems[0]
    assert len(runs_of(out, sweep)) == 10


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated"])
def test_an_answer_that_was_lost_repeats_nothing(
    tmp_path: Path, out: Path, whole: Any, call: str, monkeypatch: Any
) -> None:
    """The store did what it was asked, but said otherwise: every third time."""
    from mlflow import MlflowClient

    sweep, expected = whole
    count, original = [0], getattr(MlflowClient, call)

    def lossy(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        count[0] += 1
        if count[0] % 3 == 0:
            raise OSError("connection reset")
        return result

    monkeypatch.setattr(MlflowClient, call, lossy)
    monkeypatch.setattr(sweep_runs, "writer_of", lambda client, is_file: ClientWriter(client))  # as for a server
    assert project(record_of(sweep), sweep, default_uri(out)) == ["OSError: connection reset"]
    assert dump(out, sweep) == expected


def test_an_update_that_fails_is_given_up_alone(tmp_path: Path, out: Path, monkeypatch: Any) -> None:
    sweep = toy_sweep(tmp_path)
    record = record_of(sweep)
    cursed = next(iter(record.outcomes))
    original = projection.outcome_points

    def points(outcome: Outcome) -> Any:
        return [("bad\nname", 1.0, 0, 0)] if outcome.trial.trial_id == cursed else original(outcome)

    monkeypatch.setattr(projection, "outcome_points", points)
    problems = project(record, sweep, default_uri(out))
    assert len(problems) == 1 and "bad" in problems[0]
    statuses = [
        run.data.tags.get("selgen.status") for run in runs_of(out, sweep) if run.data.tags["selgen.kind"] == "trial"
    ]
    assert sorted(statuses) == ["finished"] * 4 + ["invalid"]


def test_what_a_trial_costs_is_the_hours_of_its_pack_and_their_price(tmp_path: Path) -> None:
    """An hour and a half, with what it builds on, on two GPUs at 3 dollars."""
    execution = Execution(gpus_per_pack=2, cpus_per_pack=0)
    sweep = toy_sweep(tmp_path, execution=execution, budget=Budget(hours=9, dollars_per_gpu_hour=3))
    outcome = replace(finished(sweep.trials_of(sweep.arms[0], {})[0]), cost=Cost(seconds=3600, inherited_seconds=1800))
    costs = {name: value for name, value, _, _ in projection.cost_points(outcome, sweep)}
    assert costs == {"gpu_hours": pytest.approx(3), "dollars": pytest.approx(9)}


def test_long_curves_are_split_into_batches(tmp_path: Path, out: Path) -> None:
    sweep = toy_sweep(tmp_path, methods=("plain",), seeds=1)
    trial: TrialConfig = sweep.trials_of(sweep.arms[0], {})[0]
    outcome = replace(finished(trial), curves={"loss": [(step, 1.0 / (step + 1)) for step in range(2500)]})
    record = LedgerState(sweep.name, sweep.identity(), outcomes={trial.trial_id: outcome})
    assert project(record, sweep, default_uri(out)) == []
    points = next(row for row in dump(out, sweep) if row[0] == "plain seed=0")[4]
    assert sum(name == "train/loss" for name, _, _ in points) == 2500
