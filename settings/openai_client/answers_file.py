"""An SQLite file of an endpoint's answers by content id; several threads and processes may share it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from settings.common.errors import UserError


def open_answers(path: Path, table: str, columns: str) -> sqlite3.Connection:
    """Open a file with one table, creating it if necessary. Each statement is committed at once.

    Raise UserError if the file cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"{path}: the cache of {table} cannot be opened: {error}") from error
    return database
