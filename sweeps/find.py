"""Where a sweep was declared and where MLflow keeps it: its name finds its file again, and its file its name.

Commands that only read import nothing else of this package, which takes seconds.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from settings.common.errors import UserError, did_you_mean
from settings.common.files import write_json

if TYPE_CHECKING:
    from sweeps.sweep import Sweep

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
DECLARED = "declared.json"  # in the sweep's folder


def is_file(name_or_file: str) -> bool:
    """Whether a text names a Python file, and no sweep."""
    return name_or_file.endswith(".py") or "/" in name_or_file


def file_of(name_or_file: str) -> Path | None:
    """The Python file that a text names; None for a sweep's name."""
    return Path(name_or_file).expanduser().resolve() if is_file(name_or_file) else None


def remember(folder: Path, file: Path) -> None:
    """Keep in a sweep's folder which file declares it."""
    write_json(folder / DECLARED, {"file": str(file)})


def find(name_or_file: str, output: Path) -> Sweep:
    """The sweep of a file, of the catalog, or of a file that ran before under `output`. Raises UserError."""
    from sweeps.sweep import catalog_names, load_sweep

    known = output / name_or_file / DECLARED
    if is_file(name_or_file) or name_or_file in catalog_names():
        return load_sweep(name_or_file)
    if not known.is_file():
        ran = sorted(path.parent.name for path in output.glob(f"*/{DECLARED}"))
        hint = did_you_mean(name_or_file, [*catalog_names(), *ran])
        available = f"{', '.join(catalog_names())}, or path/to/file.py"
        of_file = f"of those of a file {', '.join(ran) or 'none'} ran in {output.resolve()}"
        raise UserError(f"unknown sweep {name_or_file!r}{hint}; available: {available}; {of_file}")
    file = json.loads(known.read_text())["file"]
    if not Path(file).is_file():
        raise UserError(f"sweep {name_or_file!r} was declared in {file}, which is gone; give the file where it is now")
    sweep = load_sweep(file)
    if sweep.name != name_or_file:
        raise UserError(f"sweep {name_or_file!r} was declared in {file}, which declares {sweep.name!r} now")
    return sweep


def name_of(name_or_file: str) -> str:
    """The name of a sweep; of a file, of the sweep that it declares. Raises UserError."""
    if not is_file(name_or_file):
        return name_or_file
    from sweeps.sweep import load_sweep

    return load_sweep(name_or_file).name


def default_uri(output: Path) -> str:
    """The SQLite store of an output folder, which all of its sweeps share."""
    return f"sqlite:///{(output / 'mlflow.db').resolve()}"
