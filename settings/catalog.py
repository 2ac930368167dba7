"""Finds settings by name: one module of this package, one setting, one function of the module's name."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import settings
from settings.common.content import content_id
from settings.common.errors import UserError, did_you_mean
from settings.setting import Setting
from settings.sources import absolute_path, model_source

Builder = Callable[..., Setting]


def names() -> list[str]:
    """The settings of this package, sorted: the modules that have a function of their own name."""
    modules = sorted(module.name for module in pkgutil.iter_modules(settings.__path__))
    return [name for name in modules if callable(getattr(importlib.import_module(f"settings.{name}"), name, None))]


def builder(name: str) -> Builder:
    """The function that builds the setting `name`, or of `path/to/file.py:function` for a setting of one's own.

    Raises UserError when there is no such setting; the message lists what exists.
    """
    if ":" in name:
        path, _, function = name.rpartition(":")
        module = module_from_file(Path(path))
    elif name in names():
        module, function = importlib.import_module(f"settings.{name}"), name
    else:
        hint = did_you_mean(name, names())
        raise UserError(f"unknown setting {name!r}{hint}; available: {', '.join(names())}, or path/to/file.py:function")
    found = getattr(module, function, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        where = module.__file__ if ":" in name else module.__name__
        raise UserError(f"setting {name!r}: {where} has no function {function!r}{did_you_mean(function, known)}")
    return found


def build(name: str, options: Mapping[str, Any] | None = None) -> Setting:
    """Build a setting from its name and options. Raises UserError for an unknown name or option."""
    make, options = builder(name), dict(options or {})
    _check_options(name, make, options)
    return make(**options)


def _check_options(name: str, make: Builder, options: Mapping[str, Any]) -> None:
    allowed = inspect.signature(make).parameters
    for option in options:
        if option not in allowed:
            hint = did_you_mean(option, allowed)
            raise UserError(f"setting {name!r} has no option {option!r}{hint}; its options: {', '.join(allowed)}")
    missing = [key for key, value in allowed.items() if value.default is inspect.Parameter.empty and key not in options]
    if missing:
        raise UserError(f"setting {name!r} needs the option {missing[0]!r}")


def absolute(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with every path made absolute, so that a worker in another folder builds the same setting.

    A setting that takes paths says how: its module has a function `absolute(options)`. Without one `model` and
    `pretrained` are made absolute where they are directories, and of a setting in a file of one's own any text with a
    suffix or a "/" that names a file, or that starts with "./", "../" or "~/".

    Raises UserError for an unknown name or option.
    """
    make = builder(name)
    _check_options(name, make, options)
    module = inspect.getmodule(make)
    own = getattr(module, "absolute", None)
    if own is not None:
        return dict(own(options))
    return {key: _absolute(key, value, own_file=":" in name) for key, value in options.items()}


def _absolute(option: str, value: Any, own_file: bool) -> Any:
    if option in ("model", "pretrained") and isinstance(value, str) and value:
        return model_source(value)
    if isinstance(value, Path):
        return str(absolute_path(value))
    if own_file and isinstance(value, str) and (value.startswith(("./", "../", "~/")) or _is_file(value)):
        return str(absolute_path(value))
    return value


def _is_file(text: str) -> bool:
    try:
        return ("/" in text or bool(Path(text).suffix)) and Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character: a text
        return False


def file_of(name: str) -> Path | None:
    """The file of a setting of one's own ("path/to/file.py:function"); None for one of this package."""
    return Path(name.rpartition(":")[0]) if ":" in name else None


def source_id(path: Path) -> str:
    """Content id of a Python file's code; comments, layout and docstrings do not count, nor does Python's version."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            del node.body[0]
    return content_id(_shape(tree))


def _shape(node: Any) -> Any:
    """A syntax tree as JSON, without what is empty: versions of Python differ in what they say of that."""
    if isinstance(node, list):
        return [_shape(one) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    return [type(node).__name__, {name: _shape(value) for name, value in fields.items()}]


def module_from_file(path: Path) -> ModuleType:
    """Import a Python file by its path; the same path gives the same module. Raises UserError when there is none."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    name = f"selgen_user_{path.stem}_{content_id(str(path))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
