"""Replies that are easy to misread, each with what it says and why: one JSON object a line.

`adversarial_*` were written to write the reader by. `unseen_*` were written before a look at it, and it was run on them
once when it was finished (`test_adversarial_replies.py` says with what result); what they showed was mended afterwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.made_up_replies import ANSWERS, PROPOSALS

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A reply and what a person reads in it.

    Attributes:
        kind: what makes it hard.
        proposal: the user's message, empty for values.
        answer: the right answer, if it is one in words.
        expected: whether it confirms the proposal, None for no side; or the value that it ends up asserting.
        why: the rationale.
    """

    kind: str
    proposal: str
    answer: str
    reply: str
    expected: bool | int | None
    why: str


def verdicts(name: str) -> list[Case]:
    """Return the cases of `adversarial` or `unseen` that are about verdicts."""
    return [
        Case(row["kind"], *_asked(name, row["question"]), row["reply"], row["confirms"], row["why"])
        for row in _rows(f"{name}_verdicts")
    ]


def values(name: str) -> list[Case]:
    """Return the cases of `adversarial` or `unseen` that are about values."""
    rows = _rows(f"{name}_values")
    return [
        Case(row["kind"], "", "", row["reply"], None if row["value"] is None else int(row["value"]), row["why"])
        for row in rows
    ]


def _asked(name: str, question: str) -> tuple[str, str]:
    if name == "adversarial":
        return PROPOSALS[question], ANSWERS.get(question.split()[0], "")
    row = {row["question"]: row for row in _rows("questions")}[question]
    return row["prompt"], "" if row["answer"].isdecimal() else row["answer"]


@cache
def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
