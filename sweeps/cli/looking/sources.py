"""Read the files that `selgen data` is given. Errors name its arguments, not those of a sweep file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from settings.common.errors import UserError
from settings.preferences import read_preferences
from settings.rows.columns import FormError
from settings.rows.source import SourceRows, read_source

AGAINST = "--against-columns"
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
    except FormError as error:
        raise error.as_arguments("--columns", f"; {QUESTIONS}") from error
    except UserError as error:
        if _reads_as_questions(source):
            raise UserError(f"{error}; {QUESTIONS}") from error
        raise


def read_against(file: str, columns: Sequence[str]) -> SourceRows:
    """Read a file to compare with: rows or, if it cannot be read as rows, questions with several replies.

    Raise UserError: of the form that the file is closer to.
    """
    source = _source({"file": file}, AGAINST, columns)
    try:
        return read_source("--against", source)
    except UserError as error:
        try:
            return read_preferences(source, "--against")
        except FormError as other:
            if not isinstance(error, FormError):
                raise error from None
            more = f"; or, for questions with several replies, {other.arguments(AGAINST)}" if other.columns else ""
            raise error.as_arguments(AGAINST, more) from error


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
