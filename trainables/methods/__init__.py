"""One method, one file. A new file here appears in `selgen methods`, in sweeps and in the test battery by itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from settings.setting import UserError
from trainables.method import Method, coefficients


def names() -> list[str]:
    """The methods of this package, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Method]:
    """The method class of that name. Raises UserError listing the methods that exist."""
    if name not in names():
        raise UserError(f"unknown method {name!r}; available: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [value for value in vars(module).values() if _is_method(value, module.__name__)]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define exactly one Method, found {len(found)}")
    return found[0]


def make(name: str, values: Mapping[str, Any] | None = None) -> Method:
    """A method with its coefficients. Raises UserError for an unknown method, coefficient or value."""
    method, values = get(name), dict(values or {})
    allowed = [coefficient.name for coefficient in coefficients(method)]
    for key in values:
        if key not in allowed:
            raise UserError(
                f"method {name!r} has no coefficient {key!r}; its coefficients: {', '.join(allowed) or 'none'}"
            )
    return method(**values)


def _is_method(value: Any, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and value.__module__ == module
