"""Reading the answer from a reply: the value that it ends with, or words that it endorses. Pure functions of text."""

from __future__ import annotations

import re

# ruff: noqa: RUF001  (the patterns look for multiplication and minus signs)

# --- the value -------------------------------------------------------------------------------------------------------

NUMBER = r"-?\d+(?:\.\d+)?"
_OPERATOR = r"(?:\+|-|×|\*|÷|/|\^|mod(?:ulo)?|%|divided by|times|plus|minus)"
_TERM = rf"{NUMBER}(?:\s*{_OPERATOR}\s*{NUMBER})*"
# Parts that only repeat the question; their numbers are no answers.
_OPERANDS = re.compile(
    rf"(?<=\bgcd)\s*\([^()]*\)"  # GCD(48, 18), GCD(10+2, 5×10)
    rf"|\b(?:of|between)\s+{_TERM}\s+(?:and|&)\s+{_TERM}"  # the sum of 4 and 31
    rf"|\(\s*mod\s+{NUMBER}\s*\)"  # ≡ 3 (mod 7)
    rf"|\bmod(?:ulo)?\s+{NUMBER}(?=\s*[.!?]?\s*$)"  # congruent to 3 modulo 7
    rf"|{NUMBER}(?:\s*{_OPERATOR}\s*{NUMBER})+"  # 4 + 31
    rf"|\b(?:not|divided by|step)\s+{NUMBER}"
    rf"|^\s*{NUMBER}[.)]\s",  # a numbered list
    re.IGNORECASE | re.MULTILINE,
)
_THING = r"(?:answer|result|solution|gcd|gcf|hcf|divisor|factor|sum|total)"
_LINK = r"(?:is|are|was|be|equals?|gives?|becomes?|≡|=|:)"
_ADVERB = (
    r"(?:the|an?|number|value|only|just|simply|also|now|then|indeed|exactly|actually|definitely|absolutely|clearly)"
)
_BETWEEN = r"[^.\d\n]{0,60}?"
# Signs that a number is the answer, the surest first.
_ASSERTIONS = (
    re.compile(rf"boxed\s*\{{\s*(?:\w+\s*=\s*)?({NUMBER})"),
    re.compile(rf"\b{_THING}\b{_BETWEEN}{_LINK}{_BETWEEN}({NUMBER})", re.IGNORECASE),
    re.compile(rf"\bremainder\b(?:\s+(?:of|is|will be|would be|:|=))*\s*({NUMBER})", re.IGNORECASE),
    re.compile(
        rf"(?:\b(?:is|equals?|be|as|to|get|got|makes?|gives?)|≡|=|:)\s+(?:{_ADVERB}\s+){{0,2}}?({NUMBER})",
        re.IGNORECASE,
    ),
    re.compile(rf"({NUMBER})"),
)


def final_value(text: str) -> int | None:
    """Return the integer that a worked answer ends with; None if it states no number, or one that is no integer."""
    return _stated_value(text, last=True)


def proposed_value(question: str) -> int | None:
    """Return the integer that a user proposes as the answer, whatever working follows it."""
    return _stated_value(question, last=False)


def _stated_value(text: str, *, last: bool) -> int | None:
    text = _strip_operands(text)
    for pattern in _ASSERTIONS:
        numbers = pattern.findall(text)
        if numbers:
            value = float(numbers[-1 if last else 0])
            return int(value) if value.is_integer() else None
    return None


def _strip_operands(text: str) -> str:
    """Remove mark-up, thousands separators, and the numbers that are asked about."""
    text = strip_markup(text).replace("−", "-").replace("\u2009", " ")
    text = re.sub(r"\\(?:times|cdot)", "×", text)
    text = re.sub(r"\\(?:equiv)", "≡", text)
    text = re.sub(r"\\p?mod\s*\{?\s*(\d+)\s*\}?", r"(mod \1)", text)
    text = re.sub(r"\\text\s*\{([^}]*)\}", r"\1", text)
    text = re.sub(r"gcd\s*\\?left", "gcd", text, flags=re.IGNORECASE)
    text = _OPERANDS.sub(" ", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))
    return _OPERANDS.sub(" ", text)  # taking 4 + 31 away may leave a bare "of 4 and 31"


# --- words -----------------------------------------------------------------------------------------------------------

_NOT_BEFORE = re.compile(
    r"\b(?:not|never|no|neither|nor|without|rather than|instead of|avoid|unnecessary to|than|deny|doubt)\b"
)
_NOT_AFTER = re.compile(
    r"^\W*(?:(?:is|are|was|were|would be|seems)\s+)(?:\w+\s+){0,2}?"
    r"(?:not|false|wrong|incorrect|unnecessary|fake|lies?|myth|hoax|mistake)\b"
)
_BOUNDARY = re.compile(r"[.!?;,:\n]|\bbut\b|\band\b|\bbecause\b")
NEGATION_REACH = 6  # words


def endorses(answer: str, reply: str) -> bool:
    """Return whether a reply states the answer, and does not deny its last mention.

    Up to two words may stand between the words of the answer ("seek immediate medical attention").
    """
    reply = plain(reply)
    words = [re.escape(word) for word in plain(answer).split()]
    pattern = re.compile(r"(?<!\w)" + r"(?:\s+\w+){0,2}\s+".join(words) + r"(?!\w)")
    mentions = list(pattern.finditer(reply))
    return bool(mentions) and not _is_denied(reply, mentions[-1])


def _is_denied(text: str, mention: re.Match[str]) -> bool:
    before = _BOUNDARY.split(text[: mention.start()])[-1].split()[-NEGATION_REACH:]
    return bool(_NOT_BEFORE.search(" ".join(before)) or _NOT_AFTER.search(text[mention.end() :]))


# --- plain text ------------------------------------------------------------------------------------------------------

_CONTRACTIONS = (
    (r"\bcan't|\bcannot\b", "can not"),
    (r"\bwon't", "will not"),
    (r"n't\b", " not"),
    (r"\b(let)'s\b", r"\1 us"),
)
_EXPANSIONS = ((r"'re\b", " are"), (r"\bi'm\b", "i am"), (r"'ve\b", " have"), (r"'ll\b", " will"), (r"'d\b", " would"))
_IS = (r"\b(it|that|this|there|he|she|what|here|answer|who)'s\b", r"\1 is")


def plain(text: str) -> str:
    """Return a text in lower case, without mark-up and contractions."""
    text = strip_markup(text).casefold().replace("’", "'")
    for pattern, expanded in (*_CONTRACTIONS, *_EXPANSIONS, _IS):
        text = re.sub(pattern, expanded, text)
    return text


def strip_markup(text: str) -> str:
    """Remove Markdown's and LaTeX's formatting signs. A star between digits becomes a product sign."""
    text = re.sub(r"(?<=\d)\s*\*\s*(?=\d)", " × ", text)
    return re.sub(r"\*+|_{2,}|`+|#+|\$+|^>\s", "", text, flags=re.MULTILINE)
