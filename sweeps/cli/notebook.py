"""`selgen notebook`: a notebook that reads a sweep's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from settings.common.errors import UserError
from settings.common.files import write_text
from sweeps.results.readers import open_sweep

CELLS = (
    "# {name}\n\nThe results of a sweep, read from `{output}`. While it runs, run the cells again to update them.",
    "%matplotlib inline\nimport pandas as pd\n\nfrom sweeps import status\n\n"
    'pd.set_option("display.max_columns", None)\n'
    "sweep = status({name!r}, {output!r})\nsweep",
    "## Configurations\n\nMeans over seeds with 95 % intervals; `on_front` marks those that no other one dominates.",
    "results = sweep.results({setting!r})\nresults.configurations",
    "## Seeds",
    "results.trials",
    "## The frontier",
    "results.figure()",
    "## What beats both controls\n\nEmpty with fewer than three seeds.",
    "results.verdicts",
)


READ_FROM_MLFLOW = (
    "%matplotlib inline\nimport pandas as pd\n\nfrom analysis import load\n\n"
    'pd.set_option("display.max_columns", None)\n'
    "results = load({name!r}, tracking_uri={output!r}, setting={setting!r})\nresults"
)


def write_notebook(
    sweep: str, output: Path, tracking_uri: str | None, setting: str | None, path: Path | None
) -> tuple[Path, ...]:
    """Write a notebook for each setting of a sweep; return the files. Raise UserError, also if a file exists.

    Args:
        setting: label of one of them; None is all.
        path: the file; None is the sweep's name (and setting) in the current folder.
    """
    reader = open_sweep(sweep, output, tracking_uri)
    cells = CELLS
    if tracking_uri is not None:
        cells = (CELLS[0], READ_FROM_MLFLOW, CELLS[2], "results.configurations", *CELLS[4:])
    labels: list[str | None] = [reader.load(setting).setting] if setting else [*reader.labels] or [None]
    if path is not None and len(labels) > 1:
        raise UserError(f"sweep {sweep!r} has several settings; name one with --setting: {', '.join(map(str, labels))}")
    several = [Path(f"{sweep}_{number}.ipynb") for number in range(1, len(labels) + 1)]
    files = several if len(labels) > 1 else [path or Path(f"{sweep}.ipynb")]
    for file in files:
        if file.exists():
            raise UserError(f"{file} already exists; give another file, or delete it")
    for number, label in enumerate(labels):
        facts: dict[str, Any] = {"name": sweep, "output": tracking_uri or str(output.resolve())}
        facts["setting"] = label if len(labels) > 1 else None
        write_text(files[number], json.dumps(_notebook([cell.format(**facts) for cell in cells]), indent=1) + "\n")
    return tuple(files)


def _notebook(cells: list[str]) -> dict[str, Any]:
    """Return the cells as a Jupyter notebook (nbformat 4.5)."""
    return {
        "cells": [_cell(number, text) for number, text in enumerate(cells)],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cell(number: int, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    if text.startswith("#"):
        return cell | {"cell_type": "markdown"}
    return cell | {"cell_type": "code", "execution_count": None, "outputs": []}
