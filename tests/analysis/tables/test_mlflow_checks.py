"""Stores that cannot be used are one true line, at once, and without a password."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision

from analysis.tables.mlflow_checks import check_readable, check_usable, kept_runs, known_revisions, reason_of
from analysis.tables.mlflow_client import connect
from settings.common.errors import UserError


def revision_of(file: Path, revision: str) -> Path:
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    return file


@pytest.fixture()
def store(tmp_path: Path, empty_store: Path) -> Path:
    return Path(shutil.copyfile(empty_store, tmp_path / "mlflow.db"))


def test_the_revision_is_that_of_mlflow() -> None:
    known, newest = known_revisions()
    assert newest == _get_latest_schema_revision() and newest in known


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("ffffffffffff", r"was written by a newer MLflow \(tables ffffffffffff\); upgrade the package: pip install"),
        ("0584bdc529eb", r"was written by an older MLflow .*; make a copy of it, then run: mlflow db upgrade sqlite:"),
    ],
)
def test_tables_of_another_version(store: Path, revision: str, message: str) -> None:
    check_usable(f"sqlite:///{store}")
    uri = f"sqlite:///{revision_of(store, revision)}"
    for check in (check_usable, check_readable):
        with pytest.raises(UserError, match=message):
            check(uri)
    with pytest.raises(MlflowException) as raised:
        connect(uri).search_experiments()
    assert "newer MLflow" in reason_of(raised.value, uri) or revision in known_revisions()[0]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("./mlruns", "'./mlruns' is not the address of a usable MLflow store, e.g. sqlite:"),
        ("file:///tmp/mlruns", "MLflow no longer writes folders of files"),
        (
            "http://me:secret@127.0.0.1:9",
            r"//me:\*\*\*@127.0.0.1:9: the server does not answer \(Connection refused",
        ),
        ("nonsense://me:secret@x", r"cannot use the MLflow store nonsense://me:\*\*\*@x: "),
        ("mssql+nodriver://me:secret@127.0.0.1:9/x", r"cannot use the MLflow store mssql\+nodriver://me:\*\*\*@"),
        ("sqlite:///{folder}/text.db", "file is not a database"),
        ("sqlite:///{folder}/other.db", "is not a store of this version of MLflow"),
        ("sqlite:///{folder}", "is a folder; give the file of a database"),
    ],
)
def test_what_cannot_be_used(uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "text.db").write_text("this is not a database, but it is long enough to look at its header" * 20)
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE studies (id INTEGER)")
    began = time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        check_usable(uri.format(folder=tmp_path))
    assert time.monotonic() - began < 20
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_package_that_an_address_needs_is_named() -> None:
    error = ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2")
    assert "the package 'psycopg2', which is not installed" in reason_of(error, "postgresql://me:secret@host/x")


def test_a_store_that_is_not_there_is_made_later(tmp_path: Path) -> None:
    check_usable(f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert not list(tmp_path.iterdir())


def test_runs_that_are_kept_are_read_without_mlflow(store: Path) -> None:
    uri = f"sqlite:///{store}"
    client = connect(uri)
    ours, others = (client.create_experiment(name) for name in ("ours", "others"))
    runs = sorted(client.create_run(ours).info.run_id for _ in range(3))
    client.create_run(others)
    assert kept_runs(uri, "ours") == runs
    client.delete_run(runs[1])
    assert kept_runs(uri, "ours") == [runs[0], runs[2]]
    client.delete_experiment(ours)
    assert kept_runs(uri, "ours") == []
    assert kept_runs("http://tracking:5000", "ours") is None
    assert kept_runs(f"sqlite:///{store.parent / 'nowhere.db'}", "ours") is None
