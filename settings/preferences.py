"""Questions with several replies, where the model should find the good one likeliest: their files and scores.

A row, in a JSONL file or in a list in a .json file, has one of these forms: a chat row with other replies, a pair as in
HHH (Askell et al. 2021), or multiple choice as in TruthfulQA (Lin et al. 2022) and in MMLU (Hendrycks et al. 2021).
Further fields become tags. `answer` is the place of the good choice, from 0.

    {"messages": [..., {"role": "assistant", "content": "good"}], "alternatives": ["bad", ...]}
    {"input": "question", "targets": {"choices": ["good", "bad"], "labels": [1, 0]}}
    {"question": "...", "mc1_targets": {"choices": ["good", "bad", ...], "labels": [1, 0, ...]}}
    {"question": "...", "choices": ["bad", "good", ...], "answer": 1}
    {"prompt": "...", "chosen": "good", "rejected": "bad"}

Targets may also be written as {"good": 1, "bad": 0}. If several choices are good, each of them becomes a row that is
compared with all bad choices. `mc2_targets` are read if there are no `mc1_targets`; then the share preferred is
TruthfulQA's MC3. A .csv file has TruthfulQA's columns Question, Best Answer and Incorrect Answers, the last separated
by semicolons. Files with other names are given with `columns`, see `settings.rows.source`:

    preferences={"file": "quiz.jsonl", "columns": {"choices": "options", "answer": "key"}}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from settings.common import checks
from settings.common.errors import UserError
from settings.example import Example
from settings.rows.columns import PAGE, FormError, as_the_file_names_them, check_used, unknown_form
from settings.rows.shapes import chat_row
from settings.rows.source import SourceRows, columns_of, raw_rows
from settings.scoring import margin, prefers_good
from settings.setting import SHARE, Kind, Score
from settings.sources import example_of, read_chat_jsonl

COLUMNS = ("Question", "Best Answer", "Incorrect Answers")
READ_FROM = (  # each form's fields
    ("chosen", "rejected"),
    ("input", "targets"),
    ("question", "mc1_targets"),
    ("question", "mc2_targets"),
    ("question", "choices", "answer"),
    COLUMNS,
)
FIELDS = tuple(
    dict.fromkeys(("messages", "alternatives", "prompt", *(field for fields in READ_FROM for field in fields)))
)
PAIR = ("prompt", "chosen", "rejected")
CLOSEST = (("question", "choices", "answer"), ("messages", "alternatives"), PAIR, *READ_FROM)  # one may be meant


def read_preferences(source: Any, option: str = "preferences") -> SourceRows:
    """Read questions with several replies, in order, each with its place. The module docstring lists the forms.

    Args:
        source: a file, or a mapping that also names columns or a data set on the Hub, as for rows to train on.
        option: its name, for messages.

    Raises:
        UserError: a file that cannot be read, or a row of another form. The message names the file and the row.
    """
    rows, name = raw_rows(option, source, FIELDS)
    columns = columns_of(source)
    questions: list[Example] = []
    read_from = Counter[str]()
    with as_the_file_names_them(columns):
        for row, where in rows:
            read = preferences_of(_choices(row) if _is_table(row) else row, where, columns)
            check_used(option, where, columns, read[0].tags, READ_FROM)
            questions += read
            if form := _form_of(row):
                read_from[form] += len(read)
    return SourceRows(tuple(questions), name, dict(read_from))


def read_twins(good: str | Path, bad: str | Path) -> tuple[tuple[Example, Example], ...]:
    """Read two chat files with the same prompts, row by row. Raise UserError, naming both."""
    chosen, rejected = read_chat_jsonl(good), read_chat_jsonl(bad)
    for preferred, twin in zip(chosen, rejected, strict=False):
        if preferred.prompt != twin.prompt:
            raise UserError(f"{twin.place}: the prompt differs from that of its twin, {preferred.place}")
    if len(chosen) != len(rejected):
        raise UserError(
            f"{good} has {len(chosen)} rows and {bad} {len(rejected)}; row i of one must be the twin of row i of the"
            " other"
        )
    return tuple(zip(chosen, rejected, strict=True))


def pair(good: Example, bad: Example) -> Example:
    """Return the question for two rows with the same prompt: does a model find the first row's reply likelier?"""
    return replace(good, alternatives=(bad.response,))


def preference_scores(name: str, kind: Kind, rows: str) -> tuple[Score, ...]:
    """Return four scores: the share preferred and the mean margin, of whole replies and per token.

    Args:
        name: name of the first score; the names of the others begin with it.
        rows: what the questions are, e.g. "held-out pairs".
    """
    share = f"share of {rows} whose good reply is likelier than every other"
    ahead = f"mean over {rows} of the good reply's log-likelihood minus the likeliest other's, in nats"
    return (
        Score(name, kind, f"{share}, as a whole", prefers_good, ends=SHARE),
        Score(f"{name}_margin", kind, ahead, margin),
        Score(f"{name}_per_token", kind, f"{share}, per token", partial(prefers_good, per_token=True), ends=SHARE),
        Score(f"{name}_margin_per_token", kind, f"{ahead} per token", partial(margin, per_token=True)),
    )


def preferences_of(row: Any, where: str, columns: Mapping[str, str] = MappingProxyType({})) -> tuple[Example, ...]:
    """Check one row and return its questions, one for each good reply. Raise a UserError that names `where`.

    Args:
        row: known field, or name of a column -> value.
        columns: the mapping that renamed its columns, known field -> column.
    """
    if not isinstance(row, Mapping):
        _refuse(where, f"expected an object; {PAGE}")
    rest = {key: value for key, value in row.items() if value is not None}
    if "messages" in rest:
        if "alternatives" not in rest:
            raise _unknown(where, row, columns)
        others = rest.pop("alternatives")
        if not _are_texts(others):
            _refuse(where, f"'alternatives' must be a list of texts, the other replies, got {others!r}")
        return (_distinct(replace(example_of(rest, where), alternatives=tuple(others))),)
    if {"chosen", "rejected"} <= rest.keys():
        chat = chat_row(rest, where)
        return (_distinct(replace(example_of(chat.fields, where), alternatives=chat.alternatives)),)
    if not any(set(fields) <= rest.keys() for fields in READ_FROM):
        raise _unknown(where, row, columns)
    asked, good, bad = _question(rest, where)
    if not isinstance(asked, str):
        _refuse(where, f"the question must be text, got {asked!r}")
    if not good or not bad:
        _refuse(where, f"{len(good)} good and {len(bad)} other choices; a question needs at least one of each")
    rows = []
    for reply in dict.fromkeys(good):
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        rows.append(_distinct(replace(example_of({"messages": turns, **rest}, where), alternatives=bad)))
    return tuple(rows)


def _question(rest: dict[str, Any], where: str) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """Take the question out of a row, with its good and its other replies; the remaining fields are tags."""
    if {"input", "targets"} <= rest.keys():
        return rest.pop("input"), *_labelled(rest.pop("targets"), f"{where}, 'targets'")
    targets = {key: rest.pop(key) for key in ("mc1_targets", "mc2_targets") if key in rest}
    if "question" in rest and targets:
        key = next(iter(targets))
        return rest.pop("question"), *_labelled(targets[key], f"{where}, {key!r}")
    asked, choices, answer = (rest.pop(key) for key in ("question", "choices", "answer"))
    if not _are_texts(choices):
        _refuse(where, f"'choices' must be a list of texts, got {choices!r}")
    if not checks.is_integer(answer) or not 0 <= answer < len(choices):
        _refuse(where, f"'answer' must be the place of the good choice, 0 to {len(choices) - 1}, got {answer!r}")
    return asked, (choices[answer],), tuple(text for at, text in enumerate(choices) if at != answer)


def _unknown(where: str, row: Mapping[Any, Any], columns: Mapping[str, str]) -> FormError:
    """Return the error of a row without a known form; if all its values are texts, it may be a pair."""
    are_texts = all(isinstance(value, str) for value in row.values() if value is not None)
    return unknown_form(where, row, columns, (PAIR, *CLOSEST) if are_texts else CLOSEST, FIELDS)


def _labelled(targets: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the choices labelled 1 and those labelled 0."""
    if isinstance(targets, Mapping) and {"choices", "labels"} == targets.keys():
        choices, labels = targets["choices"], targets["labels"]
    elif isinstance(targets, Mapping):
        choices, labels = list(targets), list(targets.values())
    else:
        _refuse(where, f'expected {{"choices": [...], "labels": [...]}}, got {targets!r}')
    if not _are_texts(choices) or not isinstance(labels, list) or len(labels) != len(choices):
        _refuse(where, "expected choices that are texts, and one label for each")
    if not all(label in (0, 1) for label in labels):
        _refuse(where, f"labels are 1 for a good choice and 0 for another, got {labels!r}")
    good, bad = (
        tuple(text for text, label in zip(choices, labels, strict=True) if label == wanted) for wanted in (1, 0)
    )
    return good, bad


def _distinct(example: Example) -> Example:
    """Return a question without repeated alternatives, which change no score."""
    return replace(example, alternatives=tuple({text.strip(): text for text in example.alternatives}.values()))


def _is_table(row: Any) -> bool:
    return isinstance(row, Mapping) and set(COLUMNS) <= row.keys()


def _form_of(row: Mapping[str, Any]) -> str:
    """Name the fields that a question is read from; "" for a chat."""
    form = next((fields for fields in READ_FROM if set(fields) <= row.keys()), ())
    return " and ".join(map(repr, form))


def _choices(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row of TruthfulQA's table in MMLU's form."""
    asked, good, others = (row[column] or "" for column in COLUMNS)
    bad = [text.strip() for text in others.split(";") if text.strip()]
    return {"question": asked, "choices": [good, *bad], "answer": 0}


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) and text.strip() for text in value)


def _refuse(where: str, problem: str) -> NoReturn:
    raise UserError(f"{where}: {problem}")
