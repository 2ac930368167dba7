"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `directory` when the block ends well, and else vanishes."""
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(json.dumps(value, ensure_ascii=False))
    temporary.replace(path)


def remove(directory: Path) -> None:
    """Delete a folder if it exists."""
    shutil.rmtree(directory, ignore_errors=True)
