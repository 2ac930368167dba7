"""What a sweep keeps on disk."""

from __future__ import annotations

from pathlib import Path

from settings.common.files import PARTIAL, cache_root
from settings.common.shared_files import folder_bytes
from trainables.folder import SweepFolder

LEFTOVERS, RESULTS = "leftovers", "results"
CACHES = {"prefixes": "states below the adapters", "references": "the base models' outputs"}  # folders of the cache


def usage(folder: Path) -> dict[str, int]:
    """Return the bytes of a sweep's folder by kind: adapters, checkpoints, ... Empty kinds are left out."""
    files, sizes = SweepFolder(folder), dict[str, int]()
    kinds = {
        files.adapters: "adapters",
        files.checkpoints: "checkpoints",
        files.observed: "replies and grades",
        files.graded: "replies and grades",
        files.ledger: "ledger and study",
        files.lock: "ledger and study",
        files.study: "ledger and study",
    }
    for entry in folder.iterdir():
        kind = LEFTOVERS if is_leftover(entry) else kinds.get(entry, RESULTS)
        size = size_of(entry)
        if size:
            sizes[kind] = sizes.get(kind, 0) + size
    return sizes


def cache_usage() -> dict[str, int]:
    """Return the bytes of the bounded caches that all sweeps share, by their folder under the cache's root."""
    return {name: folder_bytes(cache_root() / name) for name in CACHES}


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder. What a running sweep deletes meanwhile is left out."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def is_leftover(path: Path) -> bool:
    """Return whether a file or folder was left half-written by a killed process, or holds a torn line."""
    return path.name.endswith(PARTIAL) or path == SweepFolder(path.parent).torn or path.name.endswith(".torn")
