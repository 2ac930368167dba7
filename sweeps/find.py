"""Find a sweep by name or file: in the catalog, in a file, or among those that ran before.

Commands that only read look up names here, so `sweeps.sweep`, which takes seconds to import, is imported late.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import sweeps.catalog
from settings import catalog
from settings.common.errors import MissingFileError, UserError, did_you_mean
from settings.common.files import write_json
from sweeps.names import folder_of, resume_command
from trainables.folder import SweepFolder

if TYPE_CHECKING:
    from sweeps.sweep import Sweep


def catalog_names() -> list[str]:
    """Return the names of the sweeps that ship with the software, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(sweeps.catalog.__path__))


def is_file(name_or_file: str) -> bool:
    """Return whether a text names a Python file rather than a sweep."""
    return name_or_file.endswith(".py") or "/" in name_or_file


def file_of(name_or_file: str) -> Path | None:
    """Return the Python file that a text names; None for the name of a sweep."""
    return Path(name_or_file).expanduser().resolve() if is_file(name_or_file) else None


@contextmanager
def showing_files_beside(name_or_file: str, output: Path) -> Iterator[None]:
    """Let the error of a missing file say if it lies beside the file that declares the sweep."""
    try:
        yield
    except MissingFileError as error:
        file = file_of(name_or_file) or _declared(name_or_file, output)
        raise error.beside(file, "sweep file") from error.__cause__


def name_of(name_or_file: str) -> str:
    """Return the name of a sweep, or of the sweep that a file declares. Raise UserError."""
    return load_sweep(name_or_file).name if is_file(name_or_file) else name_or_file


def remember(folder: Path, file: Path) -> None:
    """Record in a sweep's folder which file declares it."""
    write_json(SweepFolder(folder).declared, {"file": str(file)})


def continuation(name_or_file: str, output: Path) -> str:
    """Say how a sweep that was interrupted goes on: by a command, or from Python if no file declares it."""
    if is_file(name_or_file) or name_or_file in catalog_names() or _declared(name_or_file, output):
        return f"continue with: {resume_command(name_or_file, output)}"
    return "continue it from Python: sweeps.resume(sweep)"


def find(name_or_file: str, output: Path) -> Sweep:
    """Load the sweep of a file, of the catalog, or of a file that ran before under `output`. Raise UserError."""
    if is_file(name_or_file) or name_or_file in catalog_names():
        return load_sweep(name_or_file)
    file = _declared(name_or_file, output)
    if file is None:
        ran = sorted(folder.name for folder in output.glob("*") if SweepFolder(folder).declared.is_file())
        hint = did_you_mean(name_or_file, [*catalog_names(), *ran])
        available = f"{', '.join(catalog_names())}, or path/to/file.py"
        from_file = f"ran from a file under {output.resolve()}: {', '.join(ran) or 'none'}"
        raise UserError(f"unknown sweep {name_or_file!r}{hint}; available: {available}; {from_file}")
    if not file.is_file():
        raise UserError(f"sweep {name_or_file!r} was declared in {file}, which no longer exists; give its new path")
    sweep = load_sweep(file)
    if sweep.name != name_or_file:
        raise UserError(f"sweep {name_or_file!r} was declared in {file}, which now declares {sweep.name!r}")
    return sweep


def _declared(name: str, output: Path) -> Path | None:
    """Return the file that declared a sweep which ran before; None if there was none."""
    declared = SweepFolder(folder_of(name, output)).declared
    return Path(json.loads(declared.read_text(encoding="utf-8"))["file"]) if declared.is_file() else None


def load_sweep(name_or_file: str | Path) -> Sweep:
    """Load the sweep of a catalog name, or of a Python file that defines `sweep = Sweep(...)`.

    Raises:
        UserError: no such name or file; a file that fails ("FILE:LINE: ExceptionType: message"); no `sweep` in it.
    """
    text = str(name_or_file)
    if is_file(text):
        path = Path(text).expanduser().resolve()
        module = _import(path, lambda: catalog.module_from_file(path), shown=text)
    elif text in catalog_names():
        path = Path(sweeps.catalog.__path__[0]) / f"{text}.py"
        module = _import(path, lambda: importlib.import_module(f"sweeps.catalog.{text}"), shown=text)
    else:
        hint = did_you_mean(text, catalog_names())
        raise UserError(f"unknown sweep {text!r}{hint}; available: {', '.join(catalog_names())}, or path/to/file.py")
    from sweeps.sweep import Sweep  # already imported by the module above

    sweep = getattr(module, "sweep", None)
    if sweep is None:
        raise UserError(f"{text} does not define `sweep`; end the file with sweep = Sweep(...)")
    if not isinstance(sweep, Sweep):
        raise UserError(f"{text}: `sweep` must be a Sweep, got {type(sweep).__name__}")
    return sweep


def _import(path: Path, load: Callable[[], ModuleType], shown: str) -> ModuleType:
    """Import a sweep file; turn whatever it raises into one line that names the file and its line."""
    try:
        return load()
    except SyntaxError as error:
        source = error.filename if error.filename and Path(error.filename).is_file() else None
        where = f"{shown if source == str(path) else source}:{error.lineno}" if source else _where(error, path, shown)
        raise UserError(f"{where}: {type(error).__name__}: {error.msg}") from error
    except UserError as error:
        where = _where(error, path, shown)
        raise UserError(f"{where}: {error}" if where != shown else str(error)) from error
    except Exception as error:
        message = str(error).partition("\n")[0]
        raise UserError(f"{_where(error, path, shown)}: {type(error).__name__}: {message}") from error


def _where(error: BaseException, path: Path, shown: str) -> str:
    """Return "FILE:LINE" of the last frame in the user's file, or "FILE" if the error did not come from it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{shown}:{lines[-1]}" if lines else shown
