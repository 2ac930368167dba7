"""Replies as plain text: lower case, no mark-up, no contractions, numbers in digits. Pure functions of text.

A reply is read in several ways in turn; the steps that these share are cached for a while (`lru_cache`).
"""

from __future__ import annotations

import re
from functools import lru_cache

# ruff: noqa: RUF001  (the patterns look for multiplication and minus signs)

_CONTRACTIONS = (
    (r"\bcan't|\bcannot\b", "can not"),
    (r"\bwon't", "will not"),
    (r"\bain't", "is not"),
    (r"n't\b", " not"),
    (r"\b(let)'s\b", r"\1 us"),
)
_EXPANSIONS = ((r"'re\b", " are"), (r"\bi'm\b", "i am"), (r"'ve\b", " have"), (r"'ll\b", " will"), (r"'d\b", " would"))
_IS = (r"\b(it|that|this|there|he|she|what|here|answer|who|remainder|sum|gcd|total|result|capital)'s\b", r"\1 is")


@lru_cache(maxsize=16)
def plain(text: str) -> str:
    """Return a text in lower case, without mark-up and contractions."""
    text = strip_markup(text).casefold().replace("’", "'")
    for pattern, expanded in (*_CONTRACTIONS, *_EXPANSIONS, _IS):
        text = re.sub(pattern, expanded, text)
    return text


def strip_markup(text: str) -> str:
    """Remove Markdown's and LaTeX's formatting signs. A star between digits becomes a product sign."""
    text = re.sub(r"(?<=\d)\s*\*\s*(?=\d)", " × ", text)
    text = re.sub(r"\\[()\[\]]", " ", text)
    return re.sub(r"\*+|_{2,}|`+|#+|\$+|^>\s", "", text, flags=re.MULTILINE)


# --- numbers ---------------------------------------------------------------------------------------------------------

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SIZES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_VALUES = {name: index for index, name in enumerate(_SMALL.split())} | {
    name: 10 * n for n, name in enumerate(_TENS.split(), start=2)
}
_WORD = "(?:" + "|".join([*_VALUES, *_SIZES]) + ")"
# Not read as values: a number word before a noun, which counts things ("two numbers"), and most uses of "one".
_NUMBER_WORDS = re.compile(
    rf"\b(?!(?:hundred|thousand|million)\b){_WORD}(?:(?:[\s-]+and)?[\s-]+{_WORD})*\b"
    r"(?=\s*(?:[.,;:!?()\n…]|$|and\b|or\b|not\b|is\b|as\b|because\b|since\b|but\b|it is\b|rather\b|instead\b))"
)
_BEFORE_ONE = re.compile(r"(?:^|\b(?:is|be|equals?|remainder|of|get|leaves|leaving)|=)\s*$")


def with_digits(text: str, *, words: bool = True) -> str:
    """Return plain text with numbers in digits: "one hundred and five" is 105, "1,200" and "1 200" are 1200.

    Args:
        words: whether to convert numbers in words; digits are normalised in any case.
    """
    text = text.replace("−", "-").replace("\u2009", " ").replace("\u202f", " ").replace("\xa0", " ")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![\d.])(\d{1,3}) (?=\d{3}(?!\d|\s\d))", r"\1", text)
    if words:
        text = _NUMBER_WORDS.sub(_in_digits, text)
    return re.sub(r"(?<![\d)\]}])(^|\s)(?:minus|negative)\s+(?=\d)", r"\1-", text)


def _in_digits(match: re.Match[str]) -> str:
    if match.group() == "one" and not _BEFORE_ONE.search(match.string[: match.start()]):
        return "one"
    total = group = 0
    for word in re.findall(rf"\b{_WORD}\b", match.group()):
        if word == "hundred":
            group = max(group, 1) * 100
        elif word in _SIZES:
            total, group = total + max(group, 1) * _SIZES[word], 0
        else:
            group += _VALUES[word]
    return str(total + group)
