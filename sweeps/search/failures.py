"""Say why a pack failed in one line: the error, where it was raised, and the file with the traceback."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

from settings.common.files import replacing_file
from trainables.folder import SweepFolder

FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


def reason_of(text: str, folder: Path, name: str) -> str:
    """Sum up an error in one line. A traceback is kept in a file; the line says where the error was raised.

    Args:
        text: an error message or a traceback.
        folder: the sweep's folder.
        name: name of the pack and of the file.
    """
    last = text.rpartition("\nFailure #")[2]  # Ray appends each failure to the ones before
    place = origin(last)
    if not place:
        return last.strip().rpartition("\n")[2].strip()
    after = last[[*FRAME.finditer(last)][-1].end() :].splitlines()[1:]
    line = next((line for line in after if line and not line[0].isspace()), after[-1] if after else "").strip()
    file = SweepFolder(folder).error(name)
    try:
        with replacing_file(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:  # a full disk costs the traceback, not the outcome
        return f"{line} ({place}; no traceback: {error.strerror})"
    return f"{line} ({place}; traceback in {file.relative_to(folder)})"


def origin(traceback: str) -> str:
    """Return where a traceback's error came from: its last frame outside of installed packages, as "my_method.py:27".

    Empty if the text has no frames.
    """
    frames = [(frame["file"], frame["line"]) for frame in FRAME.finditer(traceback)]
    installed = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    user_frames = [
        (file, line)
        for file, line in frames
        if not file.startswith(installed) and "site-packages" not in file and "<" not in file
    ]
    if not frames:
        return ""
    file, line = (user_frames or frames)[-1]
    return f"{Path(file).name}:{line}"
