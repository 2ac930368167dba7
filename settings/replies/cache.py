"""Replies by content id, in an SQLite file that several processes may share."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from settings.openai_client.answers_file import open_answers


class ReplyCache:
    """Replies in a file, each written as soon as it arrives. Usable from several threads.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = open_answers(path, "replies", "id TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL")

    def get(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the known replies, by id."""
        replies = {}
        with self._lock:
            for identity in ids:
                row = self._database.execute("SELECT text FROM replies WHERE id = ?", (identity,)).fetchone()
                if row:
                    replies[identity] = row[0]
        return replies

    def put(self, identity: str, text: str, model: str) -> None:
        """Write a reply, unless one with this id is there already. `model` is the server's name of the model."""
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (identity, text, model))

    def close(self) -> None:
        """Close the file."""
        self._database.close()
