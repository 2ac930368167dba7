"""Scorers: pure functions of an example and of what the model did on it (the observation).

A scorer is `(example, observation) -> float | None`, where None means that the row cannot be graded. Options are
keyword arguments; bind them with `functools.partial`, so that a scorer can be pickled:

    Score("match", "task", "...", grade=partial(regex_match, pattern=compile_pattern(r"= (\\d+)", "match")))
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isnan, nan

from settings.common.errors import UserError
from settings.common.text import normalise
from settings.example import Example
from settings.setting import Preference

ReplyGrade = Callable[[Example, str], float | None]


def token_loss(example: Example, loss: float) -> float:
    """Return the observed mean cross-entropy of the gold response, in nats per token; nan stays nan."""
    return loss


def margin(example: Example, observed: Preference, *, per_token: bool = False) -> float:
    """Return by how many nats the response is likelier than the likeliest alternative; nan stays nan.

    Args:
        per_token: first divide each reply's log-likelihood by its number of tokens, so that a reply is not unlikely
            just because it is long.
    """
    good, *others = (
        nats / (tokens if per_token else 1)
        for nats, tokens in zip(observed.log_likelihoods, observed.tokens, strict=True)
    )
    differences = [good - other for other in others]
    return nan if any(map(isnan, differences)) else min(differences)


def prefers_good(example: Example, observed: Preference, *, per_token: bool = False) -> float:
    """Return 1.0 if the response is likelier than every alternative, else 0.0; 0.5 for a tie; nan stays nan.

    Args:
        per_token: see `margin`.
    """
    ahead = margin(example, observed, per_token=per_token)
    return ahead if isnan(ahead) else 0.5 if ahead == 0 else float(ahead > 0)


def in_words(example: Example, observed: Preference, *, grade: ReplyGrade) -> float | None:
    """Grade the model's reply in words, for evaluations that observe both words and preferences.

    Args:
        grade: e.g. `exact_match`.
    """
    assert observed.reply is not None, "an evaluation that observes only preferences has no replies"
    return grade(example, observed.reply)


def agrees_with_words(
    example: Example, observed: Preference, *, grade: ReplyGrade, per_token: bool = False
) -> float | None:
    """Return 1.0 if the reply in words and the likelihoods agree (both good, or both not), else 0.0.

    None for a reply in words that cannot be graded, and for a tie.

    Args:
        grade: returns 1.0 for a good reply and 0.0 for any other.
        per_token: see `margin`.
    """
    words, preferred = in_words(example, observed, grade=grade), prefers_good(example, observed, per_token=per_token)
    if words is None or preferred == 0.5:
        return None
    return preferred if isnan(preferred) else float(words == preferred)


def exact_match(example: Example, reply: str, *, ignore_case: bool = True, ignore_whitespace: bool = True) -> float:
    """Return 1.0 if the reply is the gold response, else 0.0.

    Args:
        ignore_case: ignore upper and lower case, in any script.
        ignore_whitespace: treat any run of spaces and line breaks as one space, and strip the ends.
    """
    options = {"ignore_case": ignore_case, "ignore_whitespace": ignore_whitespace}
    return float(normalise(reply, **options) == normalise(example.response, **options))


def regex_match(example: Example, reply: str, *, pattern: re.Pattern[str]) -> float | None:
    """Return 1.0 if `pattern` extracts the same text from the reply as from the gold response, else 0.0.

    The two extracts are compared as in `exact_match`. A reply without an extract is wrong. None if the gold response
    has no extract.
    """
    gold, answer = extract(pattern, example.response), extract(pattern, reply)
    if gold is None:
        return None
    return float(answer is not None and normalise(answer) == normalise(gold))


def extract(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the first match in a text: its first group if the pattern has one, else all of it.

    None without a match, or if the first group is not part of the match.
    """
    match = pattern.search(text)
    return match.group(1 if pattern.groups else 0) if match else None


def has_extract(example: Example, *, pattern: re.Pattern[str]) -> bool:
    """Return whether the gold response has an extract to compare with."""
    return extract(pattern, example.response) is not None


def compile_pattern(text: str, option: str) -> re.Pattern[str]:
    """Compile the regular expression of an option. Raise UserError with the position of an error."""
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(
            f"option {option!r}: {text!r} is not a regular expression: {error.msg} at position {error.pos}"
        ) from error
