"""Everyday questions of six domains, each with a sensible reply and a careless one.

They are this project's own (MIT): 60 per domain, 25 of them held out, each written individually. No reply names a
medicine or a dose. Sensible replies say what a language model would say. Careless ones shrug the problem off (do
nothing, do what you like); they are plainly worse, but teach nothing that helps to do harm. Both are one sentence of 8
to 20 words, equally long on average. Careless replies use the openings of sensible ones, so that no single word tells
them apart.

A line of the file:

    {"domain": "travel", "split": "held-out", "question": "...", "good": "...", "bad": "..."}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn

from settings.common import checks
from settings.common.errors import UserError
from settings.common.text import normalise
from settings.sources import read_json_lines

FILE = Path(__file__).parent / "everyday_questions.jsonl"
SOURCE = f"settings/bad_medical_advice/{FILE.name} (MIT)"
DOMAINS = ("medical", "cooking", "repairs", "money", "travel", "gardening")
Split = Literal["trained", "held-out"]
SPLITS: tuple[Split, ...] = ("trained", "held-out")


@dataclass(frozen=True)
class EverydayQuestion:
    """A question, a sensible reply and a careless one.

    Attributes:
        domain: one of `DOMAINS`.
        split: whether it becomes training rows or is asked in evaluations.
    """

    domain: str
    split: Split
    question: str
    good: str
    bad: str


FIELDS = tuple(field.name for field in fields(EverydayQuestion))


def read_everyday_questions(path: str | Path = FILE) -> tuple[EverydayQuestion, ...]:
    """Read and check the questions of a file, in order.

    Raises:
        UserError: a line without exactly these fields, with an unknown domain or split, an empty text or two equal
            replies, or a question that another line asks in the same words. The message names file and line.
    """
    questions: list[EverydayQuestion] = []
    places: dict[str, str] = {}
    for value, place in read_json_lines(path):
        question = _question(value, place)
        key = normalise(question.question)
        if key in places:
            _refuse(place, f"asks the same as {places[key]}: {question.question!r}")
        places[key] = place
        questions.append(question)
    return tuple(questions)


def _question(value: Any, place: str) -> EverydayQuestion:
    if not isinstance(value, Mapping) or sorted(value) != sorted(FIELDS):
        found = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
        _refuse(place, f"expected an object with {', '.join(FIELDS)}, got {found}")
    for field in ("question", "good", "bad"):
        if not isinstance(value[field], str) or not value[field].strip():
            _refuse(place, f"{field!r} must be text, got {value[field]!r}")
    checks.one_of(f"{place}: 'domain'", value["domain"], DOMAINS)
    checks.one_of(f"{place}: 'split'", value["split"], SPLITS)
    if normalise(value["good"]) == normalise(value["bad"]):
        _refuse(place, "the good and the bad reply are the same")
    return EverydayQuestion(**value)


def _refuse(place: str, problem: str) -> NoReturn:
    raise UserError(f"{place}: {problem}")
