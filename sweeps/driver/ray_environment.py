"""What Ray's processes inherit on this machine, so that it does not matter where `selgen` is started.

The current directory may hold a `settings.py` or a folder `sweeps`, a batch system may set a long TMPDIR, and the home
directory may be read-only.
"""

from __future__ import annotations

import os
import secrets
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from settings.common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]  # holds the packages `settings`, `trainables`, `sweeps`, `analysis`
SOCKET_BYTES = 107  # longest path of a Unix socket
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"  # below Ray's temporary folder
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # short paths that most machines have


def enter() -> None:
    """Set in this process what Ray needs in the driver and in the cluster that it starts. Raise UserError."""
    os.environ.update(temporary_folder() | token())


def import_path() -> dict[str, str]:
    """Return what keeps the current directory, and empty entries of PYTHONPATH, out of `sys.path`; ROOT comes first."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(dict.fromkeys([*code_path(), *entries]))}


@contextmanager
def for_children() -> Iterator[None]:
    """Set `import_path` for processes started in this context; other children of this process do not inherit it."""
    before = {name: os.environ.get(name) for name in import_path()}
    os.environ.update(import_path())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def code_path() -> list[str]:
    """Return the folder to import this code from; none if Python finds it among the installed packages."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    return [] if ROOT in installed else [str(ROOT)]


def temporary_folder() -> dict[str, str]:
    """Give Ray a short temporary folder: it holds sockets, whose paths are limited in length. Raise UserError."""
    longest = SOCKET_BYTES - len(SOCKET)
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen:
        if len(os.fsencode(chosen)) > longest:
            raise UserError(
                f"RAY_TMPDIR={chosen}: Ray's sockets lie below it, and their paths must be no longer than"
                f" {SOCKET_BYTES} bytes; set RAY_TMPDIR to a folder of at most {longest} bytes, e.g. /tmp"
            )
        return {}
    usual = os.environ.get("TMPDIR", "/tmp")
    for folder in (usual, *FOLDERS):
        if len(os.fsencode(folder)) <= longest and os.access(folder, os.W_OK | os.X_OK):
            return {} if folder == usual else {"RAY_TMPDIR": folder}
    raise UserError(
        f"Ray needs a folder for its sockets, and none of {', '.join(dict.fromkeys((usual, *FOLDERS)))} is short enough"
        f" and writable; set RAY_TMPDIR to a folder of at most {longest} bytes"
    )


def token() -> dict[str, str]:
    """Give a cluster its own token unless the user has one; otherwise Ray writes one to the home directory."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or _has_token_file():
        return {}
    return {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _has_token_file() -> bool:
    try:
        return os.access(Path.home() / ".ray" / "auth_token", os.R_OK)
    except RuntimeError:  # the user has no home
        return False
