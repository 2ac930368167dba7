"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from settings.common.errors import UserError

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME_OR_FILE.py", help="A sweep of the catalog, a Python file, or the name of one that ran."
    ),
]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep, or its file.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Root of all sweeps' folders and of the MLflow store.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Train failed trials again.")]
Tracking = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store; default: SQLite under --output.")]
Address = Annotated[str | None, typer.Option("--address", help='Ray cluster ("auto" or host:port); default: local.')]
Objectives = Annotated[
    str | None, typer.Option(help="Two or three scores, e.g. task,capability,alignment; default: the sweep's own.")
]
OPTION_HELP = (
    "An option of the setting. VALUE may be JSON:"
    """ task='{"file": "a.csv", "columns": {"prompt": "asked"}}'; repeatable."""
)


def names_in(text: str | None) -> list[str] | None:
    """Return the names in a list with commas; None for no list."""
    return [name.strip() for name in text.split(",")] if text else None


def options_of(pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; values are parsed as JSON where possible.

    Raise UserError, also for a value that begins like a JSON object or list, and is none.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--option {pair!r} must be KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError as error:
            if value.startswith(("{", '["', "[{", "[[")):  # not a regular expression such as [0-9]+
                wanted = f"a text or regular expression that begins with {value[0]} must be in double quotes"
                place = f"character {error.pos + 1}"
                raise UserError(f"--option {key}: not valid JSON at {place}: {error.msg}; {wanted}") from error
            options[key] = value
    return options
