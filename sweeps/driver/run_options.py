"""Command-line options of a start of a sweep. Light to import, because it is read before Ray starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunOptions:
    """Where a sweep runs, and where its results go.

    Attributes:
        output: root of all sweeps' folders and of the default MLflow store.
        tracking_uri: URI of MLflow; None is SQLite under `output`.
        address: address of a Ray cluster; None is a local one.
        retry_failed: train failed trials again.
    """

    output: Path
    tracking_uri: str | None = None
    address: str | None = None
    retry_failed: bool = False
