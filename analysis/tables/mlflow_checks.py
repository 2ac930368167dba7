"""Check that an address leads to a store that this version of MLflow can use; if not, say why and what to do.

MLflow itself may wait for minutes, create a database that does not exist, or advise an upgrade that would not help.
SQLite files are checked without importing MLflow, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from analysis.tables import mlflow_client
from settings.common.addresses import redacted, sqlite_file, without_password
from settings.common.errors import UserError

MIGRATIONS = "store/db_migrations/versions"  # in MLflow's package: a file for each revision of its tables
_REVISION = re.compile(r"""^(down_)?revision\b.*?=\s*["'](\w+)["']""", re.MULTILINE)
_FOUND_REVISION = re.compile(r"found version (\w+), but expected")
_REFUSED = re.compile(r"\[Errno -?\d+\] ([\w ]+)")


def check_usable(uri: str) -> None:
    """Raise UserError unless a sweep can be written to a store. A missing SQLite file is fine: it is created later."""
    check_address(uri)
    file = sqlite_file(uri)
    with reading(uri):
        if file is None:
            mlflow_client.connect(uri).search_experiments(max_results=1)
        elif file.exists():
            check_file(file)
            if not os.access(file, os.W_OK):
                raise UserError(f"the MLflow store {file} is not writable; give another one with --tracking-uri")


def check_readable(uri: str) -> None:
    """Raise UserError for an invalid address, and for an SQLite file that is missing or not a usable MLflow store."""
    check_address(uri)
    file = sqlite_file(uri)
    if file is None:
        return
    if not file.is_file():
        raise UserError(f"there is no MLflow store {file}; run a sweep first, or give the address of another store")
    check_file(file)


def check_address(uri: str) -> None:
    """Raise UserError unless this is the address of a database or server; MLflow's former file stores are not."""
    scheme, _, rest = uri.partition(":")
    if not rest or scheme == "file":
        raise UserError(
            f"{without_password(uri)!r} is not the address of a usable MLflow store, e.g."
            " sqlite:///runs/mlflow.db or http://host:5000; MLflow no longer writes folders of files such as ./mlruns"
            " (mlflow migrate-filestore converts one to a database)"
        )


def check_file(file: Path) -> None:
    """Raise UserError for an SQLite file without MLflow's tables, or with another version's. Raises sqlite3.Error."""
    if not file.is_file():
        raise UserError(f"the MLflow store {file} is a folder; give the file of a database, e.g. {file / 'mlflow.db'}")
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=60)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "experiments", "runs"} <= tables:
            raise UserError(
                f"{file} is not a store of this version of MLflow, or is still being created; "
                "if MLflow was killed while creating it, delete it and resume the sweep, whose ledger has everything"
            )
        revisions = [revision for (revision,) in database.execute("SELECT version_num FROM alembic_version")]
    known, newest = known_revisions()
    if known and revisions != [newest]:
        revision = revisions[0] if revisions else "none"
        raise UserError(f"the MLflow store {file} {_other_version(revision, f'sqlite:///{file}')}")


def kept_runs(uri: str, experiment: str) -> list[str] | None:
    """Return the ids of an experiment's runs that are not deleted, sorted; None if only MLflow can tell."""
    file = sqlite_file(uri)
    if file is None or not file.is_file():
        return None
    query = (
        "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?"
        " AND runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active' ORDER BY run_uuid"
    )
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=60)) as database:
        return [run for (run,) in database.execute(query, (experiment,))]


def known_revisions() -> tuple[set[str], str]:
    """Return the database revisions that the installed MLflow knows, and its own; both empty if it hides them."""
    package = importlib.util.find_spec("mlflow")
    folders = package.submodule_search_locations if package else None
    found = [
        match
        for file in (Path(folders[0], MIGRATIONS).glob("*.py") if folders else ())
        for match in _REVISION.findall(file.read_text(encoding="utf-8"))
    ]
    known, passed = ({name for down, name in found if bool(down) == before} for before in (False, True))
    heads = known - passed
    return (known, heads.pop()) if len(heads) == 1 else (set(), "")


def _other_version(revision: str, uri: str) -> str:
    """Say whether an older or a newer MLflow wrote a store, judging by the revision of its tables."""
    if revision not in known_revisions()[0]:
        return f"was written by a newer MLflow (tables {revision}); upgrade the package: pip install --upgrade mlflow"
    upgrade = f"mlflow db upgrade {shlex.quote(without_password(uri))}"
    return f"was written by an older MLflow (tables {revision}); make a copy of it, then run: {upgrade}"


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn whatever a store raises into a UserError."""
    try:
        yield
    except UserError:  # handled first, because the next clause imports MLflow only to know its errors
        raise
    except mlflow_client.store_errors() as error:
        raise UserError(f"cannot use the MLflow store {without_password(uri)}: {reason_of(error, uri)}") from error


def reason_of(error: Exception, uri: str) -> str:
    """Return why a store cannot be used: one line, without a password."""
    text = str(error).strip()
    if other := _FOUND_REVISION.search(text):
        return f"it {_other_version(other[1], uri)}"
    if isinstance(error, ModuleNotFoundError):
        return f"such an address needs the package {error.name!r}, which is not installed"
    if uri.startswith("http") and (refused := _REFUSED.search(text)):
        return f"the server does not answer ({refused[1].strip()}); is it running, and is the address right?"
    return redacted(text.partition("\n")[0], uri)
