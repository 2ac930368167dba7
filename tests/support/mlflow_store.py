"""An MLflow store with nothing in it: MLflow needs seconds to make its tables, a copy of them needs none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sweeps.names import default_uri
from sweeps.tracking.sweep_runs import open_client


def make_store(folder: Path) -> Path:
    """Make the store of an output folder, as a sweep's first start does, and return its file."""
    open_client(default_uri(folder))
    return folder / "mlflow.db"


def copy_store(store: Path, output: Path) -> Path:
    """Copy a store to where sweeps with this output folder have theirs; return the output folder."""
    output.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(store)) as source, closing(sqlite3.connect(output / "mlflow.db")) as target:
        source.backup(target)
    return output
