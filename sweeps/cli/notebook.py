"""`selgen notebook`: a notebook that reads a sweep's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from settings.common.errors import UserError
from settings.common.files import write_text
from sweeps.results.readers import open_sweep

CELLS = (
    "# {name}\n\nThe results of a sweep, read from `{output}`. Run the cells again while it runs.",
    "%matplotlib inline\nimport pandas as pd\n\nfrom sweeps import status\n\n"
    'pd.set_option("display.max_columns", None)\n'
    "sweep = status({name!r}, {output!r})\nsweep",
    "## Configurations\n\nMeans over seeds with 95 % intervals; `on_front` marks those that no other dominates.",
    "results = sweep.results({setting!r})\nresults.configurations",
    "## Seeds",
    "results.trials",
    "## The frontier",
    "results.figure()",
    "## What beats both controls\n\nEmpty with fewer than three seeds.",
    "results.verdicts",
)


def write_notebook(
    sweep: str, output: Path, tracking_uri: str | None, setting: str | None, path: Path | None
) -> tuple[Path, ...]:
    """Write a notebook for each setting of a sweep; return the files. Raise UserError, also where one is there already.

    Args:
        setting: one of them; None is all.
        path: the file; None is the sweep's name (and setting) in this folder.
    """
    reader = open_sweep(sweep, output, tracking_uri)
    labels: list[str | None] = [reader.load(setting).setting] if setting else [*reader.labels] or [None]
    if path is not None and len(labels) > 1:
        raise UserError(f"sweep {sweep!r} has several settings; name one with --setting: {', '.join(map(str, labels))}")
    files = []
    for number, label in enumerate(labels):
        file = path or Path(f"{sweep}.ipynb" if len(labels) == 1 else f"{sweep}_{number + 1}.ipynb")
        if file.exists():
            raise UserError(f"{file} is there already; give another file, or delete it")
        facts = {"name": sweep, "output": str(output.resolve()), "setting": label if len(labels) > 1 else None}
        write_text(file, json.dumps(_notebook([cell.format(**facts) for cell in CELLS]), indent=1) + "\n")
        files.append(file)
    return tuple(files)


def _notebook(cells: list[str]) -> dict[str, Any]:
    """Return cells, text and code by turns where they begin like text, in the form of Jupyter (nbformat 4.5)."""
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
