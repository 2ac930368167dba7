"""Checks of values given by the user.

Each check returns the value, or raises a one-line UserError that begins with `what`, e.g. "option 'steps'".
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from settings.common.errors import UserError


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer; a bool is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a number, nan and infinity included; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def integer(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Check an integer. Both bounds are allowed values; None means no bound. `most` requires `least`."""
    if is_integer(value) and (least is None or value >= least) and (most is None or value <= most):
        return value
    bounds = "" if least is None else f" of at least {least}" if most is None else f" in [{least}, {most}]"
    raise UserError(f"{what} must be an integer{bounds}, got {value!r}")


def number(what: str, value: Any, *, least: float | None = None, above: float | None = None) -> float:
    """Check a finite number. `least` is an allowed value, `above` is not; None means no bound."""
    fits = is_number(value) and math.isfinite(value)
    if fits and (least is None or value >= least) and (above is None or value > above):
        return value
    from_least = "" if least is None else f" of at least {least:g}"
    from_above = "" if above is None else f" above {above:g}"
    raise UserError(f"{what} must be a number{from_least}{from_above}, got {value!r}")


def share(what: str, value: Any) -> float:
    """Check a number between 0 and 1, both excluded."""
    if is_number(value) and 0 < value < 1:
        return value
    raise UserError(f"{what} must be a number between 0 and 1, got {value!r}")


def flag(what: str, value: Any) -> bool:
    """Check a bool."""
    if isinstance(value, bool):
        return value
    raise UserError(f"{what} must be true or false, got {value!r}")


def text(what: str, value: Any, form: str = "text") -> str:
    """Check that a text is not empty. `form` describes in the message what it should be."""
    if isinstance(value, str) and value:
        return value
    raise UserError(f"{what} must be {form}, got {value!r}")


def one_of(what: str, value: Any, choices: Collection[str]) -> str:
    """Check that a value is one of several texts."""
    if isinstance(value, str) and value in choices:
        return value
    raise UserError(f"{what} must be one of {', '.join(choices)}, got {value!r}")


def sizes(options: Mapping[str, Any]) -> None:
    """Raise UserError, naming the option, unless every option is an integer of at least 1."""
    for option, size in options.items():
        integer(f"option {option!r}", size, least=1)
