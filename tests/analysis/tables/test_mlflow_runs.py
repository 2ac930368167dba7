"""Reading a real SQLite store, written here after the schema in `sweeps/tracking/writer.py`."""

from __future__ import annotations

import json
import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from analysis.tables import mlflow_client
from analysis.tables.mlflow_runs import load, runs_of
from settings.common.errors import UserError

OBJECTIVES = [
    {"name": "task", "kind": "task", "higher_is_better": True, "description": "share solved"},
    {"name": "alignment", "kind": "alignment", "higher_is_better": False, "description": "harmful share"},
]
BASE = {"task": 0.1, "alignment": 0.02, "coherence": None}


class Store:
    """Writes sweeps to a store; each under a name of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = f"sqlite:///{path}"
        self.client = MlflowClient(self.uri, self.uri)
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA journal_mode=WAL")

    def sweep(self, name: str, **tags: Any) -> str:
        """Make an experiment, unless there is one, and a sweep run."""
        known = self.client.get_experiment_by_name(name)
        self.experiment = known.experiment_id if known else self.client.create_experiment(name, str(self.path.parent))
        shared = {"selgen.kind": "sweep", "selgen.sweep": name, "selgen.objectives": json.dumps(OBJECTIVES)}
        return self._run(shared | {"selgen.base_scores": json.dumps(BASE)} | tags)

    def configuration(self, sweep: str, which: str) -> str:
        return self._run({"selgen.kind": "configuration", "selgen.configuration": which, "mlflow.parentRunId": sweep})

    def trial(self, parent: str, which: str, seed: int, scores: Mapping[str, float], /, **tags: Any) -> str:
        """A trial of kl_penalty; `tags` replace the usual ones, and None removes one."""
        usual = {
            "selgen.kind": "trial",
            "mlflow.parentRunId": parent,
            "selgen.trial": f"{which}-{seed}",
            "selgen.configuration": which,
            "selgen.method": "kl_penalty",
            "selgen.label": f"beta={which}",
            "selgen.coefficients": json.dumps({"beta": float(which)}),
            "selgen.seed": str(seed),
            "selgen.status": "finished",
        }
        replaced = usual | {f"selgen.{key}": value for key, value in tags.items()}
        metrics = {f"eval/{name}": value for name, value in scores.items()} | {"train/loss": 1.0, "seconds": 2.0}
        return self._run({key: value for key, value in replaced.items() if value is not None}, metrics)

    def _run(self, tags: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> str:
        run = self.client.create_run(self.experiment, tags=dict(tags)).info.run_id
        self.client.log_batch(run, [Metric(key, value, 0, 9) for key, value in (metrics or {}).items()])
        return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield Store(tmp_path_factory.mktemp("a store") / "mlflow.db")


def scores(task: float, alignment: float = 0.5) -> dict[str, float]:
    return {"task": task, "alignment": alignment, "coherence": 1.0}


@pytest.fixture(scope="module")
def demo(store: Store) -> str:
    """Two configurations of three seeds: one invalid, one running trial."""
    parent = store.sweep("demo")
    one, ten = store.configuration(parent, "1"), store.configuration(parent, "10")
    store.trial(ten, "10", 0, scores(0.4, 0.1))
    store.trial(one, "1", 1, scores(0.7, 0.3))
    store.trial(one, "1", 0, scores(0.6, 0.2))
    store.trial(ten, "10", 1, {}, status="invalid")
    store.trial(one, "1", 2, {}, status="running")
    return parent


def test_load(store: Store, demo: str) -> None:
    loaded = load("demo", store.uri)
    assert (loaded.name, runs_of("demo", store.uri).run_id, loaded.setting) == ("demo", demo, None)
    assert [(one.name, one.kind, one.higher_is_better) for one in loaded.objectives] == [
        ("task", "task", True),
        ("alignment", "alignment", False),
    ]
    assert loaded.objectives == loaded.table.objectives
    assert loaded.base_scores == {"task": 0.1, "alignment": 0.02}
    assert loaded.counts == {"finished": 3, "invalid": 1, "failed": 0, "stopped": 0, "running": 1}
    table = loaded.table
    assert [row.coefficients for row in table.configurations] == [{"beta": 1.0}, {"beta": 10.0}]
    assert [(row.id, row.method, row.label) for row in table.configurations] == [
        ("1", "kl_penalty", "beta=1"),
        ("10", "kl_penalty", "beta=10"),
    ]
    assert table.seeds == (0, 1)
    assert table.values_CSM[0].tolist() == [[0.6, 0.2], [0.7, 0.3]]
    assert table.values_CSM[1, 0].tolist() == [0.4, 0.1]
    assert table.num_seeds_C.tolist() == [2, 1]
    assert [counts["invalid"] for counts in table.excluded] == [0, 1]


def test_pages(store: Store, demo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight runs, two to a page."""
    whole = load("demo", store.uri)
    monkeypatch.setattr(mlflow_client, "PAGE", 2)
    assert load("demo", store.uri).table.values_CSM.tobytes() == whole.table.values_CSM.tobytes()


def test_the_latest_value_counts(store: Store) -> None:
    parent = store.sweep("latest")
    run = store.trial(store.configuration(parent, "1"), "1", 0, scores(0.2))
    store.client.log_batch(run, [Metric("eval/task", 0.9, 1, 20)])
    assert load("latest", store.uri).table.values_CSM[0, 0, 0] == 0.9


def test_unknown_sweep_lists_those_that_exist(store: Store, demo: str) -> None:
    store.client.create_experiment("someone else's", str(store.path.parent))
    with pytest.raises(UserError, match=r"no sweep 'dmo' in .* \(did you mean 'demo'\?\); it has .*demo") as caught:
        load("dmo", store.uri)
    assert "someone else's" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="holds no run of a sweep"):
        load("someone else's", store.uri)


def test_a_deleted_sweep_is_unknown(store: Store) -> None:
    store.sweep("gone")
    store.client.delete_experiment(store.experiment)
    with pytest.raises(UserError, match="no sweep 'gone'"):
        load("gone", store.uri)


def test_a_store_that_is_missing_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "mlflow.db"
    with pytest.raises(UserError, match=r"there is no MLflow store .*mlflow\.db"):
        load("demo", f"sqlite:///{path}")
    assert not path.parent.exists()


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE studies (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(UserError, match="not a store of this version"):
        load("demo", f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_unreadable_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.db"
    text.write_text("this is not a database, but it is long enough to look at its header" * 20)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    for uri in (f"sqlite:///{text}", "http://127.0.0.1:9", "nonsense://x", "mlruns", "", f"file://{tmp_path}"):
        with pytest.raises(UserError) as caught:
            load("demo", uri)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.db"]


def test_duplicates(store: Store) -> None:
    """The finished run of a trial counts; two that finished must agree."""
    parent = store.sweep("twice")
    one = store.configuration(parent, "1")
    store.trial(one, "1", 0, {}, status="failed")
    store.trial(one, "1", 0, scores(0.6))
    store.trial(one, "1", 0, {}, status="running")
    store.trial(one, "1", 0, scores(0.6))
    time.sleep(0.005)
    store.trial(one, "1", 0, {}, status="stopped")
    loaded = load("twice", store.uri)
    assert loaded.table.values_CSM[0].tolist() == [[0.6, 0.5]]
    assert loaded.counts == {"finished": 1, "invalid": 0, "failed": 0, "stopped": 0, "running": 0}
    store.trial(one, "1", 0, scores(0.7))
    with pytest.raises(UserError, match="trial 1-0 finished twice with different scores"):
        load("twice", store.uri)


def test_a_trial_that_could_not_be_graded_is_invalid(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """No metric, nan or infinity: what the search does not count, the table does not count either."""
    parent = store.sweep("ungraded")
    one = store.configuration(parent, "1")
    store.trial(one, "1", 0, scores(0.6))
    store.trial(one, "1", 1, {"task": 0.5})
    store.trial(one, "1", 2, scores(float("nan")))
    store.trial(one, "1", 3, scores(float("inf")))
    with caplog.at_level(logging.WARNING, "analysis.tables.loaded_sweep"):
        loaded = load("ungraded", store.uri)
    assert loaded.counts["finished"] == 1
    assert loaded.counts["invalid"] == 3
    assert "beta=1 seed 1" in caplog.text


def test_objectives_that_no_trial_has(store: Store) -> None:
    parent = store.sweep("renamed")
    store.trial(store.configuration(parent, "1"), "1", 0, {"task": 0.5, "aligned": 0.5})
    with pytest.raises(UserError, match="a number for each of task, alignment; they have aligned"):
        load("renamed", store.uri)


def test_the_newest_sweep_run_counts(store: Store) -> None:
    """A changed sweep file makes a second sweep run; the trials of the first are not mixed in."""
    old = store.sweep("changed")
    store.trial(store.configuration(old, "1"), "1", 0, scores(0.1))
    time.sleep(0.005)
    new = store.sweep("changed")
    store.trial(store.configuration(new, "10"), "10", 0, scores(0.9))
    loaded = load("changed", store.uri)
    assert runs_of("changed", store.uri).run_id == new
    assert [row.id for row in loaded.table.configurations] == ["10"]


def test_several_settings(store: Store) -> None:
    """They are never mixed; the base scores are those of the chosen one."""
    parent = store.sweep("two", **{"selgen.base_scores": json.dumps({"a x": {"task": 0.1}, "b x": {"task": 0.2}})})
    for which, setting in (("1", "a x"), ("10", "b x")):
        store.trial(store.configuration(parent, which), which, 0, scores(0.5), setting=setting)
    with pytest.raises(UserError, match="several settings; choose one with --setting, or a part of it: a x, b x"):
        load("two", store.uri)
    with pytest.raises(UserError, match="no setting 'c'; it has a x, b x"):
        load("two", store.uri, setting="c")
    with pytest.raises(UserError, match="several settings contain 'x': a x, b x"):
        load("two", store.uri, setting="x")
    assert load("two", store.uri, setting="b x").setting == "b x"
    loaded = load("two", store.uri, setting="b")
    assert [row.id for row in loaded.table.configurations] == ["10"]
    assert loaded.base_scores == {"task": 0.2}
    assert loaded.setting == "b x"


def test_nothing_yet(store: Store) -> None:
    store.sweep("new", **{"selgen.base_scores": json.dumps({"a": {"task": 0.1}, "b": {"task": 0.2}})})
    loaded = load("new", store.uri)
    assert loaded.base_scores == {}
    assert loaded.table.configurations == ()
    assert sum(loaded.counts.values()) == 0


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"seed": "x"}, "selgen.seed is not an integer"),
        ({"seed": None}, "no tag selgen.seed"),
        ({"coefficients": "{"}, "selgen.coefficients is not JSON"),
        ({"coefficients": "[]"}, "selgen.coefficients must hold a dict"),
        ({"status": "odd"}, "unknown status 'odd'"),
    ],
)
def test_runs_off_the_schema_are_named(store: Store, tags: dict[str, Any], message: str) -> None:
    name = f"off {message}"
    store.trial(store.configuration(store.sweep(name), "1"), "1", 0, scores(0.5), **tags)
    with pytest.raises(UserError, match=message):
        load(name, store.uri)


def test_objectives_off_the_schema(store: Store) -> None:
    store.sweep("off objectives", **{"selgen.objectives": '[{"name": "task"}]'})
    with pytest.raises(UserError, match=r"selgen\.objectives has an entry without 'kind'"):
        load("off objectives", store.uri)


def test_importing_analysis_does_not_import_mlflow() -> None:
    """It takes seconds, and most of the command line does not need it."""
    code = "import analysis.tables.mlflow_runs, sys; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
