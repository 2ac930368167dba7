"""An SQLite file of an endpoint's answers by content id, which several threads and processes may share."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from settings.common.errors import UserError


def open_answers(path: Path, table: str, columns: str) -> sqlite3.Connection:
    """Open a file with one table, which is made if it is not there. Each statement is written at once.

    Raise UserError where the file cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{path}: the cache of {table} cannot be opened: {error}") from error
    return database
