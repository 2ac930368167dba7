"""One method, one file. A new file here appears in `selgen methods`, in sweeps and in the test battery by itself."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from settings import catalog
from settings.setting import Stream, UserError, did_you_mean
from trainables.method import Method, coefficients


def names() -> list[str]:
    """The methods of this package, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> type[Method]:
    """The method class of that name.

    Raises UserError: no such method, with those that exist; a file that cannot be imported, with the line; a file that
    is not one method; a coefficient without a range.
    """
    if name not in names():
        raise UserError(f"unknown method {name!r}{did_you_mean(name, names())}; available: {', '.join(names())}")
    module = _module(name)
    found = [value for value in vars(module).values() if _is_method(value, module.__name__)]
    if len(found) != 1:
        raise UserError(f"{module.__file__} must define exactly one Method, found {len(found)}")
    if "__dataclass_params__" not in vars(found[0]):
        raise UserError(f"{module.__file__}: put @dataclass(frozen=True, kw_only=True) before {found[0].__name__}")
    try:
        coefficients(found[0])
    except TypeError as error:
        raise UserError(f"{module.__file__}: {error}") from error
    for attribute in ("streams", "reference", "layers", "alive"):
        given, known = getattr(found[0], attribute), None if attribute == "alive" else get_args(Stream)
        if not isinstance(given, tuple) or not all(
            isinstance(name, str) and name in (known or given) for name in given
        ):
            of = f" of {', '.join(known)}" if known else " of names that it records"
            raise UserError(f"{module.__file__}: {found[0].__name__}.{attribute} must be a tuple{of}, got {given!r}")
    return found[0]


def _module(name: str) -> ModuleType:
    """The module of a method. What it raises when it is imported is one line that names the file and its line."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}") from error
    except Exception as error:
        path = next((str(Path(place, f"{name}.py")) for place in __path__ if Path(place, f"{name}.py").is_file()), name)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f"{path}:{lines[-1]}" if lines else path
        raise UserError(f"{where}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def source_id(name: str) -> str:
    """Content id of a method's code; see `settings.catalog.source_id`."""
    return catalog.source_id(Path(str(_module(name).__file__)))


def make(name: str, values: Mapping[str, Any] | None = None) -> Method:
    """A method with its coefficients. Raises UserError for an unknown method, coefficient or value."""
    method, values = get(name), dict(values or {})
    allowed = [coefficient.name for coefficient in coefficients(method)]
    for key in values:
        if key not in allowed:
            raise UserError(
                f"method {name!r} has no coefficient {key!r}{did_you_mean(key, allowed)}; its coefficients:"
                f" {', '.join(allowed) or 'none'}"
            )
    return method(**values)


def _is_method(value: Any, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and value.__module__ == module
