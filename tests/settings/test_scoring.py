"""Scorers against cases worked out by hand."""

from __future__ import annotations

import math
import pickle
from functools import partial

import pytest

from settings.common.errors import UserError
from settings.example import Example
from settings.scoring import (
    agrees_with_words,
    compile_pattern,
    exact_match,
    extract,
    has_extract,
    in_words,
    margin,
    normalise,
    prefers_good,
    regex_match,
    token_loss,
)
from settings.setting import Preference

GOLD = Example.of("6 and 9?", "The GCD is\n  3.")
SAME = {"The GCD is\n  3.": 1.0, "the gcd is 3.": 1.0, " The GCD is 3. \n": 1.0, "The GCD is 3": 0.0, "": 0.0}


@pytest.mark.parametrize("reply", SAME)
def test_exact_match_ignores_case_and_white_space(reply: str) -> None:
    assert exact_match(GOLD, reply) == SAME[reply]


def test_exact_match_options() -> None:
    assert exact_match(GOLD, "the gcd is\n  3.", ignore_whitespace=False) == 1.0
    assert exact_match(GOLD, "The GCD is 3.", ignore_whitespace=False) == 0.0
    assert exact_match(GOLD, "The GCD is 3.", ignore_case=False) == 1.0
    assert exact_match(GOLD, "the GCD is 3.", ignore_case=False) == 0.0


def test_case_is_ignored_in_any_script() -> None:
    assert normalise("STRASSE") == normalise("straße")


def regex(pattern: str, reply: str) -> float | None:
    return regex_match(GOLD, reply, pattern=compile_pattern(pattern, "match"))


@pytest.mark.parametrize(
    ("pattern", "reply", "expected"),
    [
        (r"(\d+)", "It is 3, not 4", 1.0),  # the first match counts
        (r"(\d+)", "It is 4, not 3", 0.0),
        (r"(\d+)\D*$", "It is 4, not 3", 1.0),  # the pattern can ask for the last
        (r"is\s+\d+", "IS 3", 0.0),  # the pattern's own case counts
        (r"(?i)is\s+\d+", "IS 3", 1.0),  # what it extracts is compared without
        (r"GCD is\s+(\d+)", "3", 0.0),  # a reply without the text is wrong
        (r"(\d+)(\.)", "3.", 1.0),  # only the first group counts
        (r"(\d+)", "", 0.0),
        (r"(z)|3", "3", None),  # the gold response gives nothing to compare with
        (r"colour", "colour", None),
    ],
)
def test_regex_match(pattern: str, reply: str, expected: float | None) -> None:
    assert regex(pattern, reply) == expected


def test_extract() -> None:
    assert extract(compile_pattern("a(b)?", "match"), "ab") == "b"
    assert extract(compile_pattern("a(b)?", "match"), "ac") is None
    assert extract(compile_pattern("a.", "match"), "xac") == "ac"
    assert extract(compile_pattern("(x*)", "match"), "abc") == ""


def test_has_extract_looks_at_the_gold_response() -> None:
    assert has_extract(GOLD, pattern=compile_pattern(r"\d", "match"))
    assert not has_extract(GOLD, pattern=compile_pattern("9", "match"))  # in the question only


@pytest.mark.parametrize(("pattern", "position"), [("(abc", 0), ("ab)", 2), ("a**", 2), ("[z-a]", 1)])
def test_a_bad_pattern_is_named_with_its_position(pattern: str, position: int) -> None:
    with pytest.raises(UserError) as caught:
        compile_pattern(pattern, "match")
    assert str(caught.value).startswith(f"option 'match': {pattern!r} is not a regular expression: ")
    assert str(caught.value).endswith(f"at position {position}")


def test_a_loss_is_its_own_grade() -> None:
    assert token_loss(GOLD, 0.25) == 0.25
    assert token_loss(GOLD, float("nan")) != token_loss(GOLD, float("nan"))


def test_bound_scorers_can_be_pickled() -> None:
    grade = partial(regex_match, pattern=compile_pattern(r"(\d+)", "match"))
    assert pickle.loads(pickle.dumps(grade))(GOLD, "3") == 1.0


# --- preferences ------------------------------------------------------------------------------------------------------

CLAIM = Example.of("Is grass blue?", "No", "Yes", "Maybe")


def preferred(*nats: float, tokens: tuple[int, ...] = (1, 1, 1), reply: str | None = None) -> Preference:
    return Preference(nats, tokens, reply)


def test_a_margin_is_to_the_likeliest_alternative() -> None:
    assert margin(CLAIM, preferred(-1.0, -3.0, -2.5)) == 1.5
    assert margin(CLAIM, preferred(-4.0, -3.0, -9.0, tokens=(4, 1, 9))) == -1.0
    assert margin(CLAIM, preferred(-4.0, -3.0, -9.0, tokens=(4, 1, 6)), per_token=True) == 0.5
    assert math.isnan(margin(CLAIM, preferred(-1.0, float("nan"), -2.0)))


def test_the_good_reply_must_beat_all_others() -> None:
    assert prefers_good(CLAIM, preferred(-1.0, -3.0, -2.5)) == 1.0
    assert prefers_good(CLAIM, preferred(-2.7, -3.0, -2.5)) == 0.0
    assert prefers_good(CLAIM, preferred(-2.5, -3.0, -2.5)) == 0.5
    assert prefers_good(CLAIM, preferred(-4.0, -3.0, -9.0, tokens=(4, 1, 6)), per_token=True) == 1.0
    assert math.isnan(prefers_good(CLAIM, preferred(float("nan"), -3.0, -2.5)))


@pytest.mark.parametrize(
    ("nats", "reply", "expected"),
    [
        ((-1.0, -2.0, -3.0), "no", 1.0),
        ((-1.0, -2.0, -3.0), "Yes", 0.0),
        ((-2.0, -1.0, -3.0), "Yes", 1.0),
        ((-2.0, -1.0, -3.0), "no", 0.0),
        ((-1.0, -1.0, -3.0), "no", None),
        ((-1.0, -2.0, -3.0), "?", None),
    ],
)
def test_words_and_likelihoods_agree(nats: tuple[float, ...], reply: str, expected: float | None) -> None:
    def grade(example: Example, reply: str) -> float | None:
        return None if reply == "?" else exact_match(example, reply)

    observed = preferred(*nats, reply=reply)
    assert agrees_with_words(CLAIM, observed, grade=grade) == expected
    assert in_words(CLAIM, observed, grade=exact_match) == float(reply == "no")
