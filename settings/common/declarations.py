"""Classes that a user fills by keyword: an unknown field raises a one-line error that says where it belongs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Self

from settings.common.errors import UserError, did_you_mean


class Declaration:
    """A dataclass that refuses fields it does not have.

    A subclass names the field of the outermost declaration that holds it: `class Search(Declaration, within="search")`.
    The outermost declaration itself names none.
    """

    _declared: ClassVar[dict[str, type[Declaration]]] = {}  # by the field that holds it

    def __init_subclass__(cls, *, within: str = "") -> None:
        Declaration._declared[within] = cls

    def __new__(cls, *_: Any, **values: Any) -> Self:
        for name in values:
            if name not in _field_names(cls):
                raise UserError(_misplaced(cls, name))
        return super().__new__(cls)


def _field_names(declaration: type) -> list[str]:
    return [item.name for item in fields(declaration)]


def place_of(name: str) -> str:
    """Return how a declaration gives a field, e.g. "execution=Execution(pack_size=...)"; "" if none has it."""
    for within, owner in sorted(Declaration._declared.items()):
        if name in _field_names(owner):
            place = f"{owner.__name__}({name}=...)"
            return f"{within}={place}" if within else place
    return ""


def _misplaced(declaration: type, name: str) -> str:
    """Say in one line where a field belongs, if `declaration` does not have it."""
    names = _field_names(declaration)
    hint = did_you_mean(name, names)
    if place := place_of(name):
        return f"{name} belongs to {place}{hint}"
    return f"{declaration.__name__} has no field {name!r}{hint}; it has {', '.join(names)}"
