"""Why a pack failed, in a line: what was raised, where, and the file that keeps the traceback."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

from settings.common.files import replacing_file
from trainables.folder import SweepFolder

FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


def reason_of(text: str, folder: Path, name: str) -> str:
    """What was raised, in a line; of a traceback also its origin and the file in the sweep's folder that keeps it.

    Args:
        text: what a worker left.
        folder: of the sweep.
        name: of the pack; the file is called after it.
    """
    last = text.rpartition("\nFailure #")[2]  # Ray appends one to the other
    place = origin(last)
    if not place:
        return last.strip().rpartition("\n")[2].strip()
    after = last[[*FRAME.finditer(last)][-1].end() :].splitlines()[1:]
    line = next((line for line in after if line and not line[0].isspace()), after[-1] if after else "").strip()
    file = SweepFolder(folder).error(name)
    try:
        with replacing_file(file) as temporary:
            temporary.write_text(text)
    except OSError as error:  # a disk that is full costs the traceback, not the outcome
        return f"{line} ({place}; no traceback: {error.strerror})"
    return f"{line} ({place}; traceback in {file.relative_to(folder)})"


def origin(traceback: str) -> str:
    """Where a traceback's error came from, e.g. "my_method.py:27": its last frame outside of installed packages."""
    frames = [(found["file"], found["line"]) for found in FRAME.finditer(traceback)]
    installed = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    own = [
        frame
        for frame in frames
        if not frame[0].startswith(installed) and "site-packages" not in frame[0] and "<" not in frame[0]
    ]
    if not frames:
        return ""
    file, line = (own or frames)[-1]
    return f"{Path(file).name}:{line}"
