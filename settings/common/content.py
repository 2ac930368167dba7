"""Identity by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def content_id(value: Any, length: int = 12) -> str:
    """Return the SHA-256 of the canonical JSON of `value` (sorted keys, no spaces): `length` hexadecimal digits."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:length]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes: 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
