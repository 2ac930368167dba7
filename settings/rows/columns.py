"""Columns with names of their own: errors of rows name them as the file does, and propose a mapping where it helps."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from settings.common.errors import UserError, did_you_mean

PAGE = 'settings/README.md, "Your own rows", lists the forms'


class FormError(UserError):
    """Rows have none of the known forms, as their columns are named or mapped.

    The message ends with a mapping of columns as a sweep file writes it; `as_arguments` writes it for the command line.

    Attributes:
        problem: what is wrong, up to the mapping.
        columns: the proposed mapping, known field -> column; empty if no mapping would help.
        place: where a sweep file maps the columns, e.g. "option 'task', 'columns'"; "" if they are not to blame.
    """

    def __init__(self, problem: str, columns: Mapping[str, str], place: str = "") -> None:
        super().__init__(problem, columns, place)  # the arguments from which a copy is made in another process
        self.problem, self.columns, self.place = problem, dict(columns), place

    def __str__(self) -> str:
        return self._written(self.place, f'`"columns": {json.dumps(self.columns, ensure_ascii=False)}`')

    def as_arguments(self, option: str, more: str = "") -> UserError:
        """Return the error with its mapping as arguments, e.g. `--columns prompt=asked`, and more text at its end."""
        given = (f"{option} {shlex.quote(f'{name}={theirs}')}" for name, theirs in self.columns.items())
        return UserError(self._written(option, f"`{' '.join(given)}`") + more)

    def _written(self, place: str, mapping: str) -> str:
        problem = f"{place}: {self.problem}" if self.place else self.problem
        return f"{problem} {mapping}" if self.columns else problem


def unknown_form(
    where: str,
    row: Mapping[Any, Any],
    columns: Mapping[str, str],
    forms: Sequence[Sequence[str]],
    known: Collection[str],
) -> FormError:
    """Return the error of a row that cannot be read. It proposes columns for the fields that the closest form lacks.

    Args:
        row: known field or name of a column -> value; None if it is empty.
        columns: the mapping that renamed its columns, known field -> column.
        forms: the fields of each form; the first counts as the closest to a row that has none of them.
        known: the fields that can be mapped. Without another field there is nothing to map.
    """
    filled = [str(name) for name, value in row.items() if value is not None]
    closest = max(forms, key=lambda form: len(set(form) & set(filled)))
    lacking = [name for name in closest if name not in filled]
    empty = next((columns.get(name, name) for name in lacking if name in row), None)
    if empty is not None:
        return FormError(f"{where}: the column {empty!r} is empty", {})
    has = f"{where} has the columns {', '.join(columns.get(str(name), str(name)) for name in row) or 'none'}"
    free = dict(zip(lacking, (name for name in filled if name not in known), strict=False))
    if not free:
        return FormError(f"{has}, and not {' and '.join(map(repr, lacking))}; {PAGE}", {})
    return FormError(f"{has}; say which is which, e.g.", {n: columns[n] for n in closest if n in columns} | free)


def place_of(option: str) -> str:
    """Say where a sweep file maps the columns of an option."""
    return f"option {option!r}, 'columns'"


def check_columns(place: str, columns: Any, known: Sequence[str], file: str) -> Mapping[str, str]:
    """Check a mapping of columns, known field -> column. Raise UserError, or FormError for an unknown field.

    Args:
        place: where it is, e.g. "option 'task', 'columns'".
        file: whose columns are mapped.
    """
    if not isinstance(columns, Mapping) or not all(isinstance(text, str) for pair in columns.items() for text in pair):
        raise UserError(f'{place} must be like {{"prompt": "question"}}, got {columns!r}')
    for name, theirs in columns.items():
        if name not in known and theirs in known:
            problem = f"unknown field {name!r}; if {name!r} is a column of {file}, write"
            raise FormError(problem, {theirs: name}, place)
        if name not in known:
            listed = f"{did_you_mean(name, known)}; a column of {file} can be {', '.join(known)}"
            raise FormError(f"unknown field {name!r}{listed}", {}, place)
    return columns


def check_used(
    option: str, where: str, columns: Mapping[str, str], tags: Iterable[str], forms: Sequence[Sequence[str]]
) -> None:
    """Raise FormError if a mapped field has become a tag of a row, because the form of the row has no use for it.

    Args:
        forms: the fields of each form.
    """
    unused = next((name for name in tags if name in columns), None)
    if unused is None:
        return
    partners = dict.fromkeys(other for form in forms if unused in form for other in form if other not in columns)
    remedy = f"it goes with {' or '.join(map(repr, partners))}" if partners else "leave it out"
    others = " and ".join(repr(name) for name in columns if name != unused)
    raise FormError(f"{where}: {unused!r} is not used beside {others}; {remedy}", {}, place_of(option))


@contextmanager
def as_the_file_names_them(columns: Mapping[str, str]) -> Iterator[None]:
    """Let errors of rows say which columns of the file the fields are that they name."""
    try:
        yield
    except FormError:  # names them already
        raise
    except UserError as error:
        named = [f"{name!r} is {theirs!r}" for name, theirs in columns.items() if repr(name) in str(error)]
        if not named:
            raise
        raise UserError(f"{error} (in the file {' and '.join(named)})") from error
