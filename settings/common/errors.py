"""The error for mistakes of a user, and spelling suggestions for its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can correct. The message is one line that names the file, row, field or option.

    The command line prints only the message and exits with code 2.
    """


class MissingFileError(UserError):
    """A file that the user has named does not exist."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)  # the arguments from which a copy is made in another process
        self.path = Path(path).expanduser().resolve()
        self.option = ""  # that names the file, once that is known

    def __str__(self) -> str:
        return f"{self.args[0]}: no such file{f' (option {self.option!r})' if self.option else ''}"

    def beside(self, file: Path | None, what: str) -> UserError:
        """Return an error that says where the file is, if it lies beside `file`, which names it; else this error.

        Args:
            what: what `file` is, e.g. "sweep file".
        """
        here = Path.cwd()
        if file is None or not self.path.is_relative_to(here):
            return self
        there = file.resolve().parent / self.path.relative_to(here)
        if not there.is_file():
            return self
        return UserError(f"{self}; it is beside the {what}: {there} (paths count from the current folder)")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return " (did you mean WORD?)" with the closest of the choices; "" if none is close."""
    close = difflib.get_close_matches(word, [*choices], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
