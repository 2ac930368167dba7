"""One method, one file. `selgen methods`, sweeps and the tests of all methods discover a new file here."""

from __future__ import annotations

import importlib
import pkgutil
import re
import traceback
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from settings import catalog
from settings.common.errors import UserError, did_you_mean
from settings.common.text import listed
from settings.setting import Stream
from trainables.coefficients import SPACE, ChoiceSpec, OpenSpec, Spec, coefficients
from trainables.interface.preparation import Pass
from trainables.method import Kind, Method

MENTIONED = 5  # methods named to one who asks for a word of their descriptions
SHORTEST_WORD = 4  # letters of such a word


def names() -> list[str]:
    """Return the names of this package's methods, sorted."""
    return sorted(_listed())


def _listed() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


@lru_cache(maxsize=8)
def _listed_at(changes: tuple[tuple[str, int], ...]) -> set[str]:
    """List the methods once per state of the folders, because every trial of every message asks for its method."""
    return _listed()


def _exists(name: str) -> bool:
    changes = tuple((place, Path(place).stat().st_mtime_ns) for place in __path__ if Path(place).is_dir())
    return name in _listed_at(changes) or name in _listed()  # two changes may share a tick of the clock


def get(name: str) -> type[Method]:
    """Return the method class of a name.

    Raise UserError for an unknown method, listing those that exist; for a file that cannot be imported, with the line;
    for a file that does not define exactly one method; for a coefficient without a range.
    """
    if not _exists(name):
        if name.endswith(".py") or "/" in name:
            raise UserError(f"a method is the name of its file in trainables/methods/, without .py; got {name!r}")
        described = listed(described_with(name), MENTIONED)
        hint = f"; described with this word: {described}" if described else did_you_mean(name, names())
        raise UserError(f"unknown method {name!r}{hint}; available: {', '.join(names())}")
    module = _module(name)
    classes = [value for value in vars(module).values() if _is_method(value, module.__name__)]
    if len(classes) != 1:
        raise UserError(f"{module.__file__} must define exactly one Method, found {len(classes)}")
    _check(classes[0], str(module.__file__))
    return classes[0]


@lru_cache
def _check(method: type[Method], file: str) -> None:
    """Refuse a class that is not declared as a method must be. Raise UserError."""
    if "__dataclass_params__" not in vars(method):
        raise UserError(f"{file}: put @dataclass(frozen=True, kw_only=True) before {method.__name__}")
    try:
        coefficients(method)
    except TypeError as error:
        raise UserError(f"{file}: {error}") from error
    if method.kind not in (kinds := get_args(Kind)):
        raise UserError(f"{file}: {method.__name__}.kind must be one of {', '.join(kinds)}, got {method.kind!r}")
    if not isinstance(method.passes, tuple) or not all(isinstance(each, Pass) for each in method.passes):
        raise UserError(f"{file}: {method.__name__}.passes must be a tuple of Pass(...), got {method.passes!r}")
    for attribute in ("streams", "reference", "layers", "must_stay_active"):
        declared, streams = getattr(method, attribute), get_args(Stream)
        free = attribute == "must_stay_active"
        is_tuple = isinstance(declared, tuple)
        if not is_tuple or not all(isinstance(name, str) and (free or name in streams) for name in declared):
            of = "names that it records" if free else ", ".join(streams)
            raise UserError(f"{file}: {method.__name__}.{attribute} must be a tuple of {of}, got {declared!r}")


def _module(name: str) -> ModuleType:
    """Import the module of a method. If that fails, raise UserError, one line with file and line number."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}") from error
    except Exception as error:
        path = next((str(Path(place, f"{name}.py")) for place in __path__ if Path(place, f"{name}.py").is_file()), name)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f"{path}:{lines[-1]}" if lines else path
        raise UserError(f"{where}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def described_with(word: str) -> list[str]:
    """Return the methods whose file has a word, e.g. the name that a paper gives to one, in any case."""
    if len(word.strip()) < SHORTEST_WORD:
        return []
    pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    places = [(name, Path(place, f"{name}.py")) for name in names() for place in __path__]
    files = {name: file for name, file in places if file.is_file()}
    return [name for name, file in files.items() if pattern.search(file.read_text("utf-8"))]


def source_id(name: str) -> str:
    """Return the content id of a method's code; see `settings.catalog.source_id`."""
    return catalog.source_id(Path(str(_module(name).__file__)))


def make(name: str, values: Mapping[str, Any] | None = None) -> Method:
    """Build a method with its coefficients. Raise UserError for an unknown method, coefficient or value."""
    method, values = get(name), dict(values or {})
    allowed = [coefficient.name for coefficient in coefficients(method)]
    for key in values:
        if key not in allowed:
            raise UserError(
                f"method {name!r} has no coefficient {key!r}{did_you_mean(key, allowed)}; its coefficients:"
                f" {', '.join(allowed) or 'none'}"
            )
    return method(**values)


def streams_read(method: Method) -> set[Stream]:
    """Return the streams that a method and those that it builds on train on, refer to or prepare with."""
    built_on = {*method.priors, method.trained_as} - {method}
    own = {*method.streams, *method.reference, *(each.stream for each in method.passes)}
    return own.union(*map(streams_read, built_on))


def from_text(text: str, definition: str = "principled") -> Method:
    """Build a method from one text with its name and coefficients, e.g. "kl_penalty beta=10"; see `Configured.text`.

    Raise UserError for an unknown method, coefficient or value, and for malformed text.
    """
    parts = text.replace(",", " ").split() if isinstance(text, str) else []
    if not parts or any(part.count("=") != 1 or not all(part.split("=")) for part in parts[1:]):
        raise UserError("a method with its coefficients is written as in 'kl_penalty beta=10'")
    name, pairs = parts[0], [tuple(part.split("=")) for part in parts[1:]]
    specs = {item.name: item.metadata[SPACE] for item in coefficients(get(name)) if item.name != "definition"}
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values or key not in specs:
            wrong = "is there twice" if key in values else f"is none of {', '.join(specs) or 'none'}"
            raise UserError(f"coefficient {key!r} of method {name!r}: {wrong}")
        values[key] = _read(specs[key], value)
    return make(name, {"definition": definition, **values})


def canonical(text: str) -> str:
    """Return the canonical text of a method with its coefficients. Raise UserError as `from_text` does."""
    return from_text(text).text


def _read(spec: Spec | OpenSpec, text: str) -> Any:
    """Return the value that a text stands for; if it stands for none, the text itself, which fails every check."""
    if isinstance(spec, ChoiceSpec):
        return {str(option): option for option in spec.options}.get(text, text)
    if isinstance(spec, OpenSpec):
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if spec.integer and number.is_integer() else number


def _is_method(value: Any, module: str) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and value.__module__ == module
