"""Files that processes create once and share: one creates a file, the others wait, and unused files are deleted.

The files of a folder are named by their content, so that a deleted one can be created again. All locks end with the
process that holds them, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from settings.common.files import PARTIAL

LOOK_SECONDS = 0.1  # between two checks whether others have released a lock
FOLDER_BYTES = 20e9  # of a cache's folder; beyond that, the least recently used files are deleted
LOCK = ".lock"  # suffix of lock files


@contextmanager
def locked(path: Path, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file; processes wait for it in turn.

    Args:
        path: path of the lock file, which is not deleted.
        check: called repeatedly while others hold the lock; an exception from it ends the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while not lock.is_locked:
        check()
        with suppress(Timeout):
            lock.acquire(timeout=LOOK_SECONDS)
    try:
        yield
    finally:
        lock.release()


class SharedFiles:
    """A folder of shared files, bounded in size.

    Beyond the bound, the least recently used files are deleted, but none that a process has in use, so the folder may
    exceed the bound.

    Args:
        folder: the folder of the files.
        max_bytes: bound on their total size.
    """

    def __init__(self, folder: Path, max_bytes: float = FOLDER_BYTES) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        self._in_use: dict[Path, int] = {}  # open files, each with a shared lock
        weakref.finalize(self, _close_all, self._in_use)

    def use(self, path: Path) -> bool:
        """Keep a file from being deleted for as long as this object lives; False if there is no such file."""
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        with suppress(OSError):  # a file system without locks: nothing is deleted there
            fcntl.flock(file, fcntl.LOCK_SH)
        if not _is_at(file, path):  # deleted, or created again, before it was locked
            os.close(file)
            return False
        with suppress(PermissionError):  # another user's file
            os.utime(path, ns=(time.time_ns(), os.fstat(file).st_mtime_ns))
        if path in self._in_use:
            os.close(self._in_use[path])
        self._in_use[path] = file
        return True

    @contextmanager
    def making(self, path: Path) -> Iterator[None]:
        """Let one process at a time create a file. After waiting, check whether the file exists by now."""
        with locked(_lock_of(path)):
            yield

    def trim(self) -> None:
        """Delete the least recently used files until the rest is within the bound."""
        files = sorted(_files(self.folder), key=lambda each: each[1].st_atime_ns)
        total = sum(facts.st_size for _, facts in files)
        for path, facts in files:
            if total <= self._max_bytes:
                return
            if _deleted(path):
                total -= facts.st_size


def folder_bytes(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(facts.st_size for _, facts in _files(folder))


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the complete files of a folder. Files that another process deletes meanwhile are left out."""
    listed = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            if not path.name.endswith((PARTIAL, LOCK)) and path.is_file():
                listed.append((path, path.stat()))
    return listed


def _deleted(path: Path) -> bool:
    """Delete a file unless a process has it in use; False if one does, or if that cannot be determined."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        _lock_of(path).unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{LOCK}")


def _is_at(file: int, path: Path) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _close_all(files: dict[Path, int]) -> None:
    for file in files.values():
        os.close(file)
    files.clear()
