"""What a user did wrong, in one line, and the nearest word that would have been right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The message is one line that names the file, row, field or option.

    The command line prints the message alone and exits with code 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean WORD?)" with the closest of the known words; "" where none is close."""
    close = difflib.get_close_matches(word, [*known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
