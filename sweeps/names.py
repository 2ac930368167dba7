"""Names and places of a sweep, for commands that only read: importing this module costs nothing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from settings.common.addresses import sqlite_address

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")  # a sweep's name is the name of its folder
STORE = "mlflow.db"  # under the output root
OUTPUT = Path("runs")  # the output root, unless another is named


def folder_of(sweep: str, output: Path) -> Path:
    """Return the folder of a sweep under the output root."""
    return output / sweep


def default_uri(output: Path) -> str:
    """Return the URI of the SQLite store that all sweeps of an output folder share. Raise UserError."""
    return sqlite_address((output / STORE).resolve())


def resume_command(name_or_file: str, output: Path) -> str:
    """Return the command that continues a sweep, ready to paste; the default output root is left out."""
    elsewhere = [] if output.resolve() == OUTPUT.resolve() else ["--output", str(output)]
    return shlex.join(["selgen", "sweep", "resume", name_or_file, *elsewhere])
