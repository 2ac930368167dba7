"""Files that are either whole or absent, and where those are kept that can be made again."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from settings.common.errors import UserError

PARTIAL = ".partial"  # ends the name of what is being written; after a kill it stays, and is nothing
FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_root() -> Path:
    """Where things that can be made again are kept: $SELGEN_CACHE, or $XDG_CACHE_HOME/selgen, or ~/.cache/selgen."""
    if os.environ.get("SELGEN_CACHE"):
        return Path(os.environ["SELGEN_CACHE"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).expanduser() / "selgen"
    return Path.home() / ".cache" / "selgen"


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `directory` when the block ends well, and else vanishes.

    Its files are on the disk before it takes that place, so that a power cut leaves no empty ones. A kill between two
    renames can leave no folder at all, never a half one.
    """
    temporary = _beside(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _flush(path)
        _take_place(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, directory: Path) -> None:
    """Rename a folder to the name of another one, which is moved aside first: deleting it would take longer."""
    aside = temporary.with_name(f"{temporary.name.removesuffix(PARTIAL)}.old{PARTIAL}")
    with suppress(FileNotFoundError):
        directory.rename(aside)
    temporary.rename(directory)
    _flush(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replacing_file(path: Path, keep: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place, in one move, when the block ends well, and else vanishes.

    Of two writers of one file the later wins. At every moment, also after a power cut, one of both files is there.

    Args:
        keep: the file that is there meanwhile: the earlier writer wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        _flush(temporary)
        if not (keep and _linked(temporary, path)):
            temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file a second name unless something has it. False when it is free, but the file system has no links."""
    try:
        os.link(temporary, path)
    except OSError:
        return path.exists()
    return True


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Replace a file that the user asked for, as `replacing_file` does. Raise UserError, naming it, on failure."""
    try:
        with replacing_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file that the user asked for in one move. Raise UserError."""
    with output_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one move; of two threads that write one file, the later wins."""
    with replacing_file(path) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False))


def is_full(error: Exception) -> bool:
    """Whether an error of writing says that the disk, or one's share of it, is full; safetensors says so in words."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(int(number) in FULL for number in re.findall(r"\(os error (\d+)\)", str(error)))


def remove(path: Path) -> None:
    """Delete a folder or a file if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_partial(folder: Path, of: str = "") -> None:
    """Delete what writers left in a folder and its subfolders when they were killed. For when nobody writes there.

    Not deeper: a sweep's folder has a subfolder for each of its many adapters.

    Args:
        of: only what was to become the file or folder of this name.
    """
    name = f".{of}.*{PARTIAL}" if of else f"*{PARTIAL}"
    for path in [*folder.glob(name), *folder.glob(f"*/{name}")]:
        remove(path)


def _beside(path: Path) -> Path:
    """A name for what will replace `path`; of this thread alone, also when several machines share the disk."""
    writer = f"{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.name}.{writer}{PARTIAL}")


def _flush(path: Path) -> None:
    """Have the disk keep a file's content, or a folder's list of names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # some network file systems cannot do it with folders
            raise
    finally:
        os.close(number)
