"""Files that are either whole or absent, and where those are kept that can be made again."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_root() -> Path:
    """Where things that can be made again are kept: $SELGEN_CACHE, or $XDG_CACHE_HOME/selgen, or ~/.cache/selgen."""
    if os.environ.get("SELGEN_CACHE"):
        return Path(os.environ["SELGEN_CACHE"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).expanduser() / "selgen"
    return Path.home() / ".cache" / "selgen"


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
    """Write JSON in one move; of two threads that write one file, the later wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    temporary.write_text(json.dumps(value, ensure_ascii=False))
    temporary.replace(path)


def remove(directory: Path) -> None:
    """Delete a folder if it exists."""
    shutil.rmtree(directory, ignore_errors=True)
