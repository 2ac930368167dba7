"""When two texts count as the same, and names as in a sentence."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def normalise(text: str, *, ignore_case: bool = True, ignore_whitespace: bool = True) -> str:
    """Return a text without differences in Unicode form, case and white space.

    An accented letter as one character equals the letter followed by its accent (Unicode's form C). Characters that
    look alike but differ in meaning, such as a superscript 2, stay different.
    """
    if ignore_whitespace:
        text = " ".join(text.split())
    text = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", text.casefold()) if ignore_case else text


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Join names as in a sentence, e.g. "a, b and c"; beyond `most` of them, e.g. "a, b and 3 more"."""
    shown = list(names[:most])
    if more := len(names) - len(shown):
        shown.append(f"{more} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))
