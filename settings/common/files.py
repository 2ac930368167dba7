"""Atomic writing of files and folders, and the root of the caches."""

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

PARTIAL = ".partial"  # suffix while a file is being written; one left behind by a killed process can be ignored
FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_root() -> Path:
    """Return the root of all caches: $SELGEN_CACHE, or $XDG_CACHE_HOME/selgen, or ~/.cache/selgen. Raise UserError."""
    if os.environ.get("SELGEN_CACHE"):
        return Path(os.environ["SELGEN_CACHE"]).expanduser()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).expanduser() / "selgen"
    try:
        return Path.home() / ".cache" / "selgen"
    except RuntimeError as error:
        raise UserError("this user has no home directory for the cache; set SELGEN_CACHE to a folder") from error


def check_cache_root() -> None:
    """Create the root of the caches. Raise UserError if it is not writable: a worker would fail there later."""
    root, reason = cache_root(), "it is read-only"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    if not os.access(root, os.W_OK | os.X_OK):
        raise UserError(f"the cache {root} is not writable ({reason}); set SELGEN_CACHE to a folder that is")


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `directory` if the block succeeds, and is deleted if it raises.

    Its files are flushed to disk before the rename, so that a power cut leaves no empty files. A kill between the two
    renames can leave no folder at all, but never half of one.
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
    """Replace a folder by rename. The old one is moved aside first, because deleting it would take longer."""
    aside = temporary.with_name(f"{temporary.name.removesuffix(PARTIAL)}.old{PARTIAL}")
    with suppress(FileNotFoundError):
        directory.rename(aside)
    temporary.rename(directory)
    _flush(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def replacing_file(path: Path, keep: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary file that atomically replaces `path` if the block succeeds, and is deleted if it raises.

    The last writer wins. At every moment, even after a power cut, the old or the new file exists.

    Args:
        keep: the first writer wins instead: a file that appeared in the meantime stays.
        durable: flush to disk; use False for a file that is written often and may be lost in a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        if durable:
            _flush(temporary)
        if not (keep and _linked(temporary, path)):
            temporary.replace(path)
        if durable:
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _linked(temporary: Path, path: Path) -> bool:
    """Create `path` as a hard link unless it exists. False if it does not exist and the file system has no links."""
    try:
        os.link(temporary, path)
    except OSError:
        return path.exists()
    return True


@contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """Replace a file that the user asked for, as `replacing_file` does. On failure raise UserError, naming the file."""
    try:
        with replacing_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Atomically write a text file that the user asked for. Raise UserError on failure."""
    with output_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write JSON atomically; the last writer wins. See `replacing_file`."""
    with replacing_file(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def is_full(error: Exception) -> bool:
    """Return whether an error says that the disk or quota is full; safetensors gives the errno in its text."""
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
    """Delete the partial files that killed writers left in a folder and its subfolders. Nobody may be writing there.

    Deeper folders are skipped, because a sweep's folder has a subfolder for each of its many adapters.

    Args:
        of: delete only the partial files of this name.
    """
    name = f".{of}.*{PARTIAL}" if of else f"*{PARTIAL}"
    for path in [*folder.glob(name), *folder.glob(f"*/{name}")]:
        remove(path)


def _beside(path: Path) -> Path:
    """Return a temporary name next to `path`, unique to this thread even if machines share the disk."""
    writer = f"{platform.node()}-{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.name}.{writer}{PARTIAL}")


def _flush(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # some network file systems cannot flush folders
            raise
    finally:
        os.close(number)


def absolute_path(path: str | Path) -> Path:
    """Return an absolute path, valid from any working directory."""
    return Path(path).expanduser().resolve()
