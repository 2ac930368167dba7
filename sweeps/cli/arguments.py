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
OUTPUT = Path("runs")


def names_in(text: str | None) -> list[str] | None:
    """Return the names in a list with commas; None for no list."""
    return [name.strip() for name in text.split(",")] if text else None


def options_of(pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; values are parsed as JSON where possible. Raise UserError."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--option {pair!r} must be KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options
