"""When two texts count as the same."""

from __future__ import annotations

import unicodedata


def normalise(text: str, *, ignore_case: bool = True, ignore_whitespace: bool = True) -> str:
    """Return a text without differences in Unicode form, case and white space.

    An accented letter as one character equals the letter followed by its accent (Unicode's form C). Characters that
    look alike but differ in meaning, such as a superscript 2, stay different.
    """
    if ignore_whitespace:
        text = " ".join(text.split())
    text = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", text.casefold()) if ignore_case else text
