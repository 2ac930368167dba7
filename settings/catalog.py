"""Finds settings by name: a folder of this package with `SCALES`, or `path/to/file.py:function` for your own setting.

The first scale in `SCALES` is the default of the option `scale`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import settings
from settings.base_models import Recipe
from settings.common.content import content_id, file_sha256
from settings.common.errors import MissingFileError, UserError, did_you_mean
from settings.common.files import absolute_path
from settings.model_files import model_source
from settings.options import Absolute
from settings.setting import Setting

RECIPE = [item.name for item in fields(Recipe)]  # hyper-parameters, which a sweep may replace
SYNONYMS = {"proxy": "alignment"}  # what pages call an option -> its name
Builder = Callable[..., Setting]
EXAMPLE_SCALES = 'SCALES = {"nano": nano}'  # what a setting's package must define


@dataclass(frozen=True)
class Option:
    """An option of a setting.

    Attributes:
        default: `inspect.Parameter.empty` if the option is required.
        doc: its description in the builder's docstring.
    """

    name: str
    default: Any
    doc: str


class MissingOptionError(UserError):
    """Nothing is wrong with the options of a setting, but some that it requires are missing."""

    def __init__(self, message: str, options: Sequence[str]) -> None:
        super().__init__(message, options)  # the arguments from which a copy is made in another process
        self.options = tuple(options)

    def __str__(self) -> str:
        return str(self.args[0])


def names() -> list[str]:
    """Return the settings of this package, sorted."""
    folders = sorted(module.name for module in pkgutil.iter_modules(settings.__path__) if module.ispkg)
    return [name for name in folders if hasattr(_package(name), "SCALES")]


def description(name: str) -> str:
    """Return a one-sentence description of a setting of this package."""
    return inspect.getdoc(_package(name)) or ""


def scales(name: str) -> Mapping[str, Builder]:
    """Return the functions that build a setting of this package, by scale; the first is built by default.

    Raise UserError if there is no such setting; the message lists those that exist, or says what its folder lacks.
    """
    if name not in names():
        is_folder = name.isidentifier() and any((Path(folder) / name).is_dir() for folder in settings.__path__)
        lacking = f": settings/{name}/__init__.py defines no SCALES; add its builders by scale, {EXAMPLE_SCALES}"
        reason = lacking if is_folder else did_you_mean(name, names())
        available = ", ".join(names())
        raise UserError(f"unknown setting {name!r}{reason}; available: {available}, or path/to/file.py:function")
    return _package(name).SCALES


def options_for_score(name: str, score: str) -> tuple[str, ...]:
    """Return the options that add a score to a setting, one of which is enough; its package lists them: `SCORES_OF`."""
    options = getattr(_package(name), "SCORES_OF", {}) if name in names() else {}
    return tuple(option for option, scores in options.items() if score in scores)


def _package(name: str) -> Any:
    return importlib.import_module(f"settings.{name}")


def function_of_file(name: str) -> Builder:
    """Return the function that "path/to/file.py:function" names. Raise UserError if there is none."""
    path, _, function = name.rpartition(":")
    module = module_from_file(Path(path))
    if not callable(builder := vars(module).get(function)):
        defined = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        hint = did_you_mean(function, defined)
        raise UserError(f"setting {name!r}: {module.__file__} has no function {function!r}{hint}")
    return builder


def options_of(builder: Builder) -> tuple[Option, ...]:
    """Return the options of a setting's function, in order, with their defaults and docs."""
    docs = dict(_documented(inspect.getdoc(builder) or ""))
    parameters = inspect.signature(builder).parameters
    return tuple(Option(name, parameter.default, docs.get(name, "")) for name, parameter in parameters.items())


def _documented(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield each option of the section "Args:" with its text; "a, b: text" gives the text to both."""
    section = docstring.partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries: list[str] = []
    for line in section.splitlines():
        if line.startswith(" " * 8):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line.strip())
    for entry in entries:
        listed, _, text = entry.partition(": ")
        yield from ((name, text) for name in listed.split(", "))


def build(name: str, options: Mapping[str, Any] | None = None) -> Setting:
    """Build a setting from its name and options. Raise UserError for an unknown name or option."""
    builder, remaining = _resolve(name, options or {})
    try:
        return builder(**remaining)
    except MissingFileError as error:
        error.option = next((option for option, value in remaining.items() if _names_file(value, error.path)), "")
        raise error.beside(file_of(name), "setting file") from error.__cause__


def _names_file(value: Any, path: Path) -> bool:
    """Say whether an option's value, or a part of it, is the name of a file."""
    if isinstance(value, Mapping):
        return any(_names_file(part, path) for part in value.values())
    if isinstance(value, list | tuple):
        return any(_names_file(part, path) for part in value)
    try:
        return isinstance(value, str) and Path(value).expanduser().resolve() == path
    except (RuntimeError, ValueError, OSError):  # "~nobody", a null character, too long: no name of a file
        return False


def _resolve(name: str, options: Mapping[str, Any]) -> tuple[Builder, dict[str, Any]]:
    """Return the function that builds a setting, and the options to pass to it.

    In settings of this package, None leaves an option at its default. Raise UserError.
    """
    if ":" in name:
        builder = function_of_file(name)
        _check_options(name, options, [option.name for option in options_of(builder)])
        remaining = dict(options)
    else:
        by_scale = scales(name)
        remaining = {option: value for option, value in options.items() if value is not None}
        scale = remaining.pop("scale", next(iter(by_scale)))
        if scale not in list(by_scale):
            raise UserError(f"setting {name!r} has no scale {scale!r}; its scales: {', '.join(by_scale)}")
        builder = by_scale[scale]
        _check_scale(name, scale, remaining)
        _check_options(name, remaining, ["scale", *(option.name for option in options_of(builder))])
    missing = [option for option in _required(builder) if option not in remaining]
    if missing:
        needs = f"setting {name!r} needs the option {missing[0]!r}{_scale_without(name, missing[0])}"
        raise MissingOptionError(needs, missing)
    return builder, remaining


def _required(builder: Builder) -> list[str]:
    return [option.name for option in options_of(builder) if option.default is Parameter.empty]


def _scale_without(name: str, option: str) -> str:
    """Return the remedy for a missing option, if another scale of the setting does not need it; else ""."""
    others = {} if ":" in name else scales(name)
    scale = next((scale for scale, builder in others.items() if option not in _required(builder)), None)
    return f', or scale="{scale}", which brings its own' if scale else ""


def _check_scale(name: str, scale: str, options: Mapping[str, Any]) -> None:
    """Raise UserError for an option that only another scale has."""
    allowed = {each: [option.name for option in options_of(builder)] for each, builder in scales(name).items()}
    for option in options:
        others = [each for each in allowed if option in allowed[each]]
        if others and scale not in others:
            raise UserError(
                f"setting {name!r}: option {option!r} does not belong to scale {scale!r} but to {others[0]!r};"
                f" options of {scale!r}: {', '.join(allowed[scale])}"
            )


def _check_options(name: str, options: Mapping[str, Any], allowed: list[str]) -> None:
    for option in options:
        if option not in allowed:
            hint = did_you_mean(SYNONYMS.get(option, option), allowed)
            if not hint and option in RECIPE:
                hint = f'; it belongs to Sweep(options={{"{option}": ...}})'
            raise UserError(f"setting {name!r} has no option {option!r}{hint}; its options: {', '.join(allowed)}")


# --- paths -----------------------------------------------------------------------------------------------------------


def absolute(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with every path made absolute, so that a worker in another folder builds the same setting.

    Annotations say which options are paths or models, see `settings.options`. In your own setting files this also
    includes `model` and `pretrained` if these are directories, any text with a suffix or a "/" that names a file, and
    any text that starts with "./", "../" or "~/".

    Raise UserError for an unknown name or option.
    """
    builder, _ = _resolve(name, options)
    marks = _marks(builder)
    resolved = {}
    for option, value in options.items():
        if option in marks:
            resolved[option] = _resolve_marked(value, marks[option])
        else:
            resolved[option] = _resolve_guessed(option, value) if ":" in name else value
    return resolved


def _marks(builder: Builder) -> dict[str, Absolute]:
    """Return the marks of the options that are annotated as paths or models."""
    module = inspect.getmodule(builder)
    marks = {}
    for option, parameter in inspect.signature(builder).parameters.items():
        annotated = SimpleNamespace(__annotations__={option: parameter.annotation})
        try:
            annotation = get_type_hints(annotated, vars(module) if module else {}, include_extras=True)[option]
        except (NameError, AttributeError, TypeError, SyntaxError):  # e.g. a name imported only for type checking
            continue
        if mark := _mark_in(annotation):
            marks[option] = mark
    return marks


def _mark_in(annotation: Any) -> Absolute | None:
    """Return the first mark in an annotation like `FilePath | Sequence[FilePath] | None`."""
    if isinstance(annotation, Absolute):
        return annotation
    return next(filter(None, map(_mark_in, get_args(annotation))), None)


def _resolve_marked(value: Any, mark: Absolute) -> Any:
    """Resolve a path, each path of a list, or the "file" of a mapping; the builder refuses any other value."""
    if isinstance(value, list | tuple):
        return [_resolve_marked(item, mark) for item in value]
    if isinstance(value, Mapping) and "file" in value:
        return {**value, "file": _resolve_marked(value["file"], mark)}
    return mark.of(str(value)) if isinstance(value, str | Path) and str(value) else value


def _resolve_guessed(option: str, value: Any) -> Any:
    if option in ("model", "pretrained") and isinstance(value, str) and value:
        return model_source(value)
    if isinstance(value, Path):
        return str(absolute_path(value))
    if isinstance(value, str) and (value.startswith(("./", "../", "~/")) or _is_file(value)):
        return str(absolute_path(value))
    return value


def _is_file(text: str) -> bool:
    try:
        return ("/" in text or bool(Path(text).suffix)) and Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or contains a null character: not a path
        return False


def file_of(name: str) -> Path | None:
    """Return the file of "path/to/file.py:function"; None for a setting of this package."""
    return Path(name.rpartition(":")[0]) if ":" in name else None


def source_id(path: Path) -> str:
    """Return a content id of a Python file's code without comments, layout and docstrings; equal in all Pythons."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            del node.body[0]
    return content_id(_shape(tree))


def _shape(node: Any) -> Any:
    """Return a syntax tree as JSON without empty fields, which differ between versions of Python."""
    if isinstance(node, list):
        return [_shape(child) for child in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    return [type(node).__name__, {name: _shape(value) for name, value in fields.items()}]


def module_from_file(path: Path) -> ModuleType:
    """Import a Python file by its path, again only if it has changed. Raise UserError if there is no such file."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    name = f"selgen_user_{path.stem}_{content_id([str(path), file_sha256(path)])}"
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
