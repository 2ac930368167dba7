"""When two texts are the same."""

from __future__ import annotations

import unicodedata


def normalise(text: str, *, ignore_case: bool = True, ignore_whitespace: bool = True) -> str:
    """Return a text without differences that do not count: those of Unicode forms, of case, and of white space.

    An accented letter that is one character equals the letter with its accent behind it (Unicode's form C). What looks
    alike and means another thing stays apart, such as a raised 2.
    """
    if ignore_whitespace:
        text = " ".join(text.split())
    text = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", text.casefold()) if ignore_case else text
