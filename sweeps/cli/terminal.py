"""What `selgen` sets up before a command runs: encoding, proxies, tracebacks without passwords."""

from __future__ import annotations

import codecs
import io
import os
import sys
import tempfile
import threading
import traceback
import unicodedata
from pathlib import Path
from types import TracebackType

from settings.common.addresses import LOOPBACK, redacted

PLAIN = {"↑": "^", "↓": "v", "·": "-", "—": "-", "…": ".", "×": "x", "≤": "<", "≥": ">"}  # noqa: RUF001


def prepare() -> None:
    """Let the process print in any terminal, fail without showing a password, and reach this machine past a proxy."""
    codecs.register_error("selgen.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="selgen.plain")
    exempt_loopback()
    if not os.access(os.environ.get("HOME", "/"), os.W_OK):  # Matplotlib would cache fonts there, and complain
        os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
    forget_current_directory()
    threading.excepthook = lambda failed: show_error(failed.exc_type, failed.exc_value, failed.exc_traceback)


def plain(error: UnicodeError) -> tuple[str, int]:
    """Replace each character that the terminal's encoding lacks by one ASCII character, so that tables stay aligned."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_character, error.object[error.start : error.end])), error.end


def _plain_character(character: str) -> str:
    without_accents = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return PLAIN.get(character, without_accents[:1] or "?")


def exempt_loopback() -> None:
    """Keep connections to this machine, e.g. to a judge or an MLflow server, from going through a proxy."""
    names = {name for name in os.environ if name.lower().endswith("_proxy") and os.environ[name]}
    if not names - {"no_proxy", "NO_PROXY"}:
        return
    listed = ",".join(os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")).split(",")
    hosts = dict.fromkeys(host for item in listed if (host := item.strip()))
    if "*" not in hosts:
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def forget_current_directory() -> None:
    """Remove the current directory from `sys.path` if an empty entry of PYTHONPATH, as in "$PATH_A:", put it there."""
    value = os.environ.get("PYTHONPATH", "")
    entries, here = value.split(os.pathsep), str(Path.cwd())
    is_ours = Path(__file__).resolve().parents[2] == Path(here)
    if value and "" in entries and not is_ours and here not in map(os.path.realpath, filter(None, entries)):
        sys.path[:] = [folder for folder in sys.path if folder not in ("", here)]


def show_error(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print the traceback of a bug without passwords."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
