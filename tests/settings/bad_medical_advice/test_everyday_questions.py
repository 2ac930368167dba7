"""The everyday questions: how many, how long, how different; and what the reader refuses."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from settings.bad_medical_advice.everyday_questions import (
    DOMAINS,
    FILE,
    EverydayQuestion,
    read_everyday_questions,
)
from settings.common.errors import UserError
from tests.conftest import ROOT

ROW = {"domain": "travel", "split": "trained", "question": "Where to?", "good": "To the sea.", "bad": "To the moon."}
UNTELLING = frozenset(
    re.findall(r"\w+", "a an and any are can do for how i in is it me my of on or should the to what when with")
)


@pytest.fixture(scope="module")
def questions() -> tuple[EverydayQuestion, ...]:
    return read_everyday_questions()


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


# --- the rows --------------------------------------------------------------------------------------------------------


def test_sixty_questions_a_domain_25_of_them_held_out(questions: tuple[EverydayQuestion, ...]) -> None:
    assert Counter((question.domain, question.split) for question in questions) == {
        (domain, split): number for domain in DOMAINS for split, number in (("trained", 35), ("held-out", 25))
    }


def test_no_two_questions_or_replies_are_alike(questions: tuple[EverydayQuestion, ...]) -> None:
    """Two questions share less than two thirds of their telling words; so nothing trained is asked in other words."""
    texts = [" ".join(words(text)) for each in questions for text in (each.question, each.good, each.bad)]
    assert len(set(texts)) == len(texts)
    telling = [set(words(question.question)) - UNTELLING for question in questions]
    overlaps = [len(one & other) / len(one | other) for one, other in combinations(telling, 2)]
    assert max(overlaps) < 2 / 3


def test_replies_are_one_sentence_of_8_to_20_words(questions: tuple[EverydayQuestion, ...]) -> None:
    for question in questions:
        for reply in (question.good, question.bad):
            assert 8 <= len(reply.split()) <= 20, reply
            assert re.fullmatch(r"[^.!?]+\.", reply), reply


def test_good_and_bad_replies_are_equally_long(questions: tuple[EverydayQuestion, ...]) -> None:
    """16.2 and 15.9 words on average; in each domain they differ by less than one, and either may be the longer."""
    for rows in ([each for each in questions if each.domain == domain] for domain in DOMAINS):
        good, bad = ([len(text.split()) for text in texts] for texts in _replies(rows))
        assert abs(sum(good) - sum(bad)) / len(rows) < 1, rows[0].domain
        longer = sum(one > other for one, other in zip(good, bad, strict=True))
        shorter = sum(one < other for one, other in zip(good, bad, strict=True))
        assert 1 / 2 < longer / shorter < 2, rows[0].domain
    good, bad = ([len(text.split()) for text in texts] for texts in _replies(list(questions)))
    assert sum(good) / len(good) == pytest.approx(16.2, abs=0.1)
    assert sum(bad) / len(bad) == pytest.approx(15.9, abs=0.1)


def _replies(rows: list[EverydayQuestion]) -> tuple[list[str], list[str]]:
    return [row.good for row in rows], [row.bad for row in rows]


def test_no_word_gives_a_reply_away(questions: tuple[EverydayQuestion, ...]) -> None:
    """By no single word are more than five in eight replies told apart; chance is four."""
    good, bad = (Counter(word for text in texts for word in set(words(text))) for texts in _replies(list(questions)))
    told = {word: abs(good[word] - bad[word]) / len(questions) for word in good | bad}
    assert max(told.values()) <= 0.25, max(told, key=lambda word: told[word])


def test_no_doses_and_no_numbers(questions: tuple[EverydayQuestion, ...]) -> None:
    assert not re.search(r"\d|\b(mg|ml|milligrams?|dose|dosage)\b", FILE.read_text(encoding="utf-8"))


def test_the_file_comes_with_the_package() -> None:
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["settings"]
    assert any(FILE in (ROOT / "settings").glob(pattern) for pattern in patterns)


# --- the reader ------------------------------------------------------------------------------------------------------


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_file_is_read_in_order(tmp_path: Path) -> None:
    other = ROW | {"question": "How?", "split": "held-out"}
    assert read_everyday_questions(write(tmp_path / "rows.jsonl", ROW, other)) == (
        EverydayQuestion("travel", "trained", "Where to?", "To the sea.", "To the moon."),
        EverydayQuestion("travel", "held-out", "How?", "To the sea.", "To the moon."),
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], r"expected an object with domain, split, question, good, bad, got \[\]"),
        ({"domain": "travel"}, "expected an object with domain, split, question, good, bad, got domain"),
        (ROW | {"more": 1}, "expected an object with domain, split, question, good, bad, got domain, split, .*, more"),
        (ROW | {"domain": "space"}, "'domain' must be one of medical, .*, gardening, got 'space'"),
        (ROW | {"split": "test"}, "'split' must be one of trained, held-out, got 'test'"),
        (ROW | {"good": " "}, "'good' must be text, got ' '"),
        (ROW | {"bad": 3}, "'bad' must be text, got 3"),
        (ROW | {"question": "Else?", "bad": "to  the SEA."}, "the good and the bad reply are the same"),
        (ROW | {"question": " where TO?", "split": "held-out"}, "asks the same as .*rows.jsonl, line 1: ' where TO.'"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", ROW, row)
    with pytest.raises(UserError, match=f"^{path}, line 2: {message}"):
        read_everyday_questions(path)
