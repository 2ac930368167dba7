"""Scorers: pure functions of an example and what was observed of the model on it.

A scorer is `(example, observation) -> float | None`, where None means that the row cannot be graded. Options are
keyword arguments; bind them with `functools.partial`, so that a scorer can be pickled:

    Score("match", "task", "...", grade=partial(regex_match, pattern=compile_pattern(r"= (\\d+)", "match")))
"""

from __future__ import annotations

import re

from settings.common.errors import UserError
from settings.common.text import normalise
from settings.example import Example


def token_loss(example: Example, loss: float) -> float:
    """Return the observed mean cross-entropy of the gold response, in nats per token; a nan stays a nan."""
    return loss


def exact_match(example: Example, reply: str, *, ignore_case: bool = True, ignore_whitespace: bool = True) -> float:
    """Return 1.0 if the reply is the gold response, else 0.0.

    Args:
        ignore_case: compare without regard to upper and lower case, in any script.
        ignore_whitespace: treat any run of spaces and line breaks as one space, and none at the ends.
    """
    options = {"ignore_case": ignore_case, "ignore_whitespace": ignore_whitespace}
    return float(normalise(reply, **options) == normalise(example.response, **options))


def regex_match(example: Example, reply: str, *, pattern: re.Pattern[str]) -> float | None:
    """Return 1.0 if `pattern` extracts the same text from the reply as from the gold response, else 0.0.

    The two extracts are compared as by `exact_match`. A reply without an extract is wrong; None if the gold
    response has none.
    """
    gold, answer = extract(pattern, example.response), extract(pattern, reply)
    if gold is None:
        return None
    return float(answer is not None and normalise(answer) == normalise(gold))


def extract(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the first match in a text: its first group if the pattern has one, else all of it.

    None without a match, or when the first group takes no part in it.
    """
    match = pattern.search(text)
    return match.group(1 if pattern.groups else 0) if match else None


def has_extract(example: Example, *, pattern: re.Pattern[str]) -> bool:
    """Return whether the gold response has an extract to compare with."""
    return extract(pattern, example.response) is not None


def compile_pattern(text: str, option: str) -> re.Pattern[str]:
    """Compile the regular expression of an option. Raise UserError with the position of its mistake."""
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(
            f"option {option!r}: {text!r} is not a regular expression: {error.msg} at position {error.pos}"
        ) from error
