"""Coefficients of a method: each dataclass field carries both its default and its range.

`beta: float = Range(1.0, low=1e-2, high=1e2, log=True)`; `sweeps.space` reads the ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from settings.common import checks
from settings.common.errors import UserError

SPACE = "space"  # key of a coefficient's range in its field's metadata


@dataclass(frozen=True)
class RangeSpec:
    """The values of a number: searched in [low, high], allowed in [at_least, at_most]."""

    low: float
    high: float
    log: bool
    at_least: float
    at_most: float
    neutral: float | None = None
    searched: bool = True
    integer: bool = False

    def check(self, value: Any) -> str | None:
        """Return what is wrong with `value`; None if nothing is."""
        fits, what = (checks.is_integer, "an integer") if self.integer else (checks.is_number, "a number")
        if fits(value) and math.isfinite(value) and self.at_least <= value <= self.at_most:
            return None
        return f"must be {what} in [{self.at_least:g}, {self.at_most:g}]"


@dataclass(frozen=True)
class ChoiceSpec:
    """The values of a categorical coefficient; `searched`: whether a sweep varies it by default."""

    options: tuple[Any, ...]
    searched: bool

    def check(self, value: Any) -> str | None:
        """Return what is wrong with `value`; None if nothing is."""
        return None if value in self.options else f"must be one of {', '.join(map(repr, self.options))}"


@dataclass(frozen=True)
class OpenSpec:
    """The values of an unordered knob that depend on the model: none is proposed, all that `read` takes are allowed.

    Attributes:
        read: returns the unique text that stands for a value in tables; raises UserError for an invalid value.
        what: describes the possible values in words.
    """

    read: Callable[[Any], str]
    searched: bool = False
    what: str = ""

    def check(self, value: Any) -> str | None:
        """Return what is wrong with `value`; None if nothing is."""
        try:
            self.read(value)
        except UserError as error:
            return f"is refused: {error}"
        return None


Spec = RangeSpec | ChoiceSpec


def Range(
    default: float,
    *,
    low: float,
    high: float,
    log: bool = False,
    at_least: float = 0.0,
    at_most: float = math.inf,
    neutral: float | None = None,
    searched: bool = True,
    integer: bool = False,
) -> Any:
    """Declare a numeric coefficient.

    Args:
        default: the value if none is given.
        low, high: the interval that a sweep searches.
        log: search it on a logarithmic scale.
        at_least, at_most: the interval of allowed values.
        neutral: the value at which the method equals plain fine-tuning, if there is one.
        searched: whether a sweep varies it by default.
        integer: whether it takes only integers.
    """
    spec = RangeSpec(low, high, log, at_least, at_most, neutral, searched, integer)
    return field(default=default, metadata={SPACE: spec})


def Choice(default: Any, *options: Any, searched: bool = False) -> Any:
    """Declare a categorical coefficient; `options` lists its values, including the default."""
    return field(default=default, metadata={SPACE: ChoiceSpec(options, searched)})


def Open(default: str, read: Callable[[Any], str], what: str) -> Any:
    """Declare a coefficient whose value is text; see `OpenSpec`."""
    return field(default=default, metadata={SPACE: OpenSpec(read, what=what)})


def value_text(value: Any) -> str:
    """Return a coefficient's value as short text that can be read back."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)


def label_of(values: Mapping[str, Any]) -> str:
    """Return names and values as short text, e.g. "beta=0.3, tokens=text"."""
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )


def coefficients(method: type[Any]) -> list[Field[Any]]:
    """Return the coefficient fields of a method, inherited ones last. Raise TypeError if one has no range."""
    for item in fields(method):
        if SPACE not in item.metadata or item.default is MISSING:
            raise TypeError(f"{method.__name__}.{item.name} must be declared with Range(...), Choice(...) or Open(...)")
    kinds = list(enumerate(method.__mro__))
    depth = {name: number for number, kind in reversed(kinds) for name in vars(kind).get("__annotations__", ())}
    return sorted(fields(method), key=lambda item: depth[item.name])
