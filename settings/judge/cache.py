"""Verdicts of a judge by content id, in an SQLite file that several processes may share. It contains no text."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from settings.openai_client.answers_file import open_answers
from settings.setting import Verdict


class VerdictCache:
    """Verdicts in a file, each written as soon as it arrives. Usable from several threads.

    Raises:
        UserError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._database = open_answers(
            path,
            "verdicts",
            "id TEXT PRIMARY KEY, value REAL, kind TEXT NOT NULL, mode TEXT NOT NULL, model TEXT NOT NULL,"
            " input_tokens INTEGER, output_tokens INTEGER",
        )

    def get(self, ids: Iterable[str]) -> dict[str, Verdict]:
        """Return the known verdicts, by id."""
        verdicts = {}
        with self._lock:
            for identity in ids:
                row = self._database.execute("SELECT value, kind FROM verdicts WHERE id = ?", (identity,)).fetchone()
                if row:
                    verdicts[identity] = Verdict(*row)
        return verdicts

    def put(self, identity: str, verdict: Verdict, *, mode: str, model: str, tokens: tuple[int, int]) -> None:
        """Write a verdict, unless one with this id is there already.

        Args:
            mode: how it was read: "logprobs" or "text".
            model: the model's name as the endpoint gave it.
            tokens: number of tokens of the request and of the answer.
        """
        values = (identity, verdict.value, verdict.kind, mode, model, *tokens)
        with self._lock:
            self._database.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
