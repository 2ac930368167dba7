"""The error of rows that have none of the known forms, with the mapping of columns that would give them one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from settings.common.errors import UserError, did_you_mean

COLUMN = "COLUMN"  # stands for a column of the user's in a proposal


class FormError(UserError):
    """Rows have none of the known forms, as their columns are named or mapped.

    The message ends with a mapping of columns as a sweep file writes it; `as_arguments` writes it for the command line.

    Attributes:
        problem: what is wrong, up to the mapping.
        columns: the proposed mapping, known field -> column; empty if no mapping would help.
        rest: what follows the mapping.
    """

    def __init__(self, problem: str, columns: Mapping[str, str], rest: str = "") -> None:
        super().__init__(problem, columns, rest)  # the arguments from which a copy is made in another process
        self.problem, self.columns, self.rest = problem, dict(columns), rest

    def __str__(self) -> str:
        mapping = f'`"columns": {json.dumps(self.columns, ensure_ascii=False)}`'
        return f"{self.problem} {mapping}{self.rest}" if self.columns else self.problem

    def as_arguments(self, option: str, more: str = "") -> UserError:
        """Return the error with its mapping as arguments, and more text at its end."""
        mapping = self.arguments(option)
        return UserError((f"{self.problem} {mapping}{self.rest}" if self.columns else self.problem) + more)

    def arguments(self, option: str) -> str:
        """Return the mapping as arguments, e.g. "`--columns prompt=COLUMN`"."""
        given = (f"{option} {shlex.quote(f'{name}={theirs}')}" for name, theirs in self.columns.items())
        return f"`{' '.join(given)}`"


def unknown_form(
    where: str, fields: Sequence[str], described: str, forms: Sequence[Sequence[str]], known: Collection[str]
) -> FormError:
    """Return the error of a row that cannot be read. It proposes names for the fields that the closest form lacks.

    Args:
        fields: the fields of the row.
        described: the known forms, in words.
        forms: the fields of each form; the first counts as the closest to a row that has none of them.
        known: the fields that can be mapped. Without another field there is nothing to map.
    """
    problem = f"{where}: found the fields {', '.join(fields) or 'none'}; {described}; columns with other names can be"
    problem += " mapped to these"
    if all(name in known for name in fields):
        return FormError(problem, {})
    closest = max(forms, key=lambda form: len(set(form) & set(fields)))
    lacking = {name: COLUMN for name in closest if name not in fields}
    return FormError(f"{problem}, e.g.", lacking, f", where each {COLUMN} is one of those found")


def check_columns(option: str, columns: Any, known: Sequence[str]) -> Mapping[str, str]:
    """Check a mapping of columns, known field -> column. Raise UserError, or FormError for an unknown field."""
    if not isinstance(columns, Mapping) or not all(isinstance(text, str) for pair in columns.items() for text in pair):
        raise UserError(f'option {option!r}: \'columns\' must be like {{"prompt": "question"}}, got {columns!r}')
    for name, theirs in columns.items():
        if name not in known and theirs in known:
            problem = f"'columns': unknown field {name!r}; if {name!r} is a column of yours, write"
            raise FormError(problem, {theirs: name})
        if name not in known:
            listed = f"{did_you_mean(name, known)}; fields that can be mapped: {', '.join(known)}"
            raise FormError(f"'columns': unknown field {name!r}{listed}", {})
    return columns
