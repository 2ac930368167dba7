"""Why a pack failed, in a line: what was raised, where, and the file that keeps the traceback."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

from trainables.files import replacing_file

ERRORS = "errors"  # folder of tracebacks in the sweep's folder
FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


def reason_of(text: str, folder: Path, name: str) -> str:
    """The last line of an error; of a traceback also its origin and the file in the sweep's folder that keeps it.

    Args:
        text: what a worker left.
        folder: of the sweep.
        name: of the pack; the file is called after it.
    """
    line = text.strip().rpartition("\n")[2].strip()
    place = origin(text)
    if not place:
        return line
    kept = Path(ERRORS, f"{name}.txt")
    with replacing_file(folder / kept) as temporary:
        temporary.write_text(text)
    return f"{line} ({place}; traceback in {kept})"


def origin(traceback: str) -> str:
    """Where a traceback's error came from, e.g. "my_method.py:27": its last frame outside of installed packages."""
    frames = [(found["file"], found["line"]) for found in FRAME.finditer(traceback)]
    installed = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    own = [frame for frame in frames if not frame[0].startswith(installed) and "site-packages" not in frame[0]]
    if not frames:
        return ""
    file, line = (own or frames)[-1]
    return f"{Path(file).name}:{line}"
