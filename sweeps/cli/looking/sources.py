"""Read the files that `selgen data` is given. Errors name its arguments, not those of a sweep file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from settings import preferences
from settings.common.errors import UserError
from settings.preferences import read_preferences
from settings.rows import shapes
from settings.rows.columns import FormError
from settings.rows.source import SourceRows, read_source

AGAINST = "--against-columns"
ONLY_QUESTIONS = {*preferences.FIELDS} - {*shapes.FIELDS}  # fields that rows to train on do not have
QUESTIONS = "for questions with several replies add --questions"


def read_file(file: str, split: str | None, columns: Sequence[str], questions: bool) -> SourceRows:
    """Read the file to show, or with `split` a data set on the Hub. Raise UserError."""
    source = _source({"dataset": file, "split": split} if split else {"file": file}, "--columns", columns)
    if questions:
        try:
            return read_preferences(source, "FILE")
        except FormError as error:
            raise error.as_arguments("--columns") from error
    try:
        return read_source("FILE", source)
    except UserError as error:
        meant = bool(source.get("columns", {}).keys() & ONLY_QUESTIONS) or _reads_as_questions(source)
        more = f"; {QUESTIONS}" if meant else ""
        if isinstance(error, FormError):
            raise error.as_arguments("--columns", more) from error
        raise UserError(f"{error}{more}") from error


def read_against(file: str, columns: Sequence[str]) -> SourceRows:
    """Read a file to compare with: rows, questions with several replies, or only prompts. Raise UserError."""
    source = _source({"file": file}, AGAINST, columns)
    try:
        return read_source("--against", source)
    except UserError as error:
        try:
            return read_preferences(source, "--against")
        except FormError:
            if not isinstance(error, FormError):
                raise error from None
    try:
        return read_source("--against", source, only_prompts=True)
    except FormError as error:
        raise error.as_arguments(AGAINST) from error


def _source(source: Mapping[str, str], option: str, columns: Sequence[str]) -> dict[str, Any]:
    mapping = {"columns": dict(_column(option, pair) for pair in columns)} if columns else {}
    return {**source, **mapping}


def _column(option: str, pair: str) -> tuple[str, str]:
    name, equals, theirs = pair.partition("=")
    if not (name and equals and theirs):
        raise UserError(f"{option} must be like prompt=question, got {pair!r}")
    return name, theirs


def _reads_as_questions(source: Mapping[str, Any]) -> bool:
    try:
        read_preferences(source)
    except UserError:
        return False
    return True
