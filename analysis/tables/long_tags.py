"""Tags of any length. MLflow silently truncates values after a few thousand characters, so long ones are split.

A long value of `key` is stored in the tags `key.1`, `key.2`, ...; `key` itself then says "3 parts of 0123456789ab": the
number of parts, and the content id of the whole. Parts left over from an earlier, longer value are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from settings.common.content import content_id

LONGEST = 4000  # characters in a tag; servers truncate at 5000 or 8000, depending on their version
_PARTS = re.compile(r"(\d+) parts of ([0-9a-f]{12})")


class BrokenTagError(ValueError):
    """A tag that was truncated, or whose parts do not belong together. The message names it."""


def split(tags: Mapping[str, str]) -> dict[str, str]:
    """Split tags so that none is truncated; `whole` joins them again. The parts of a value come before its own tag."""
    short: dict[str, str] = {}
    for key, value in tags.items():
        if len(value) > LONGEST:
            parts = [value[start : start + LONGEST] for start in range(0, len(value), LONGEST)]
            short |= {f"{key}.{number}": part for number, part in enumerate(parts, start=1)}
            value = f"{len(parts)} parts of {content_id(value)}"
        short[key] = value
    return short


def whole(tags: Mapping[str, str], key: str) -> str | None:
    """Return the whole value of a tag; None without one. Raise BrokenTagError if the parts do not belong together."""
    value = tags.get(key)
    described = _PARTS.fullmatch(value) if value is not None else None
    if described is None:
        return value
    joined = "".join(tags.get(f"{key}.{number}", "") for number in range(1, int(described[1]) + 1))
    if content_id(joined) != described[2]:
        raise BrokenTagError(f"tag {key}: its parts do not belong together")
    return joined
