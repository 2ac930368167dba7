"""The error for mistakes of a user, and spelling suggestions for its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct. The message is one line that names the file, row, field or option.

    The command line prints only the message and exits with code 2.
    """


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return " (did you mean WORD?)" with the closest of the choices; "" if none is close."""
    close = difflib.get_close_matches(word, [*choices], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
