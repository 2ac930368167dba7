"""What Ray's processes inherit: short folders for sockets, a token without a home, no module of the current folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from settings.common.errors import UserError
from sweeps.driver import ray_environment
from tests.conftest import ROOT

VARIABLES = ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "PYTHONPATH")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def folder_of(length: int, below: Path) -> str:
    """Make a folder whose path is so long."""
    folder = f"{below}/" + "x" * (length - len(str(below)) - 1)
    Path(folder).mkdir()
    return folder


def test_a_long_temporary_folder_is_not_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 107 bytes, /ray/session_2026-11-28_02-06-41_585736_4194304/sockets/plasma_store.1 takes 70."""
    assert ray_environment.temporary_folder() == {}
    monkeypatch.setenv("TMPDIR", folder_of(97, tmp_path))
    assert ray_environment.temporary_folder() == {"RAY_TMPDIR": "/tmp"}
    monkeypatch.setattr(ray_environment, "FOLDERS", (str(tmp_path / "nowhere"),))
    with pytest.raises(UserError, match="set RAY_TMPDIR to a folder of at most 37 bytes"):
        ray_environment.temporary_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert ray_environment.temporary_folder() == {}
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "ä" * 30)
    with pytest.raises(UserError, match=r"RAY_TMPDIR=/tmp/ä.*must be no longer than 107 bytes; set RAY_TMPDIR to"):
        ray_environment.temporary_folder()


def test_a_token_is_made_unless_the_user_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    first, second = (ray_environment.token()["RAY_AUTH_TOKEN"] for _ in range(2))
    assert len(first) == 64 and first != second and not list(tmp_path.iterdir())
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    assert ray_environment.token() == {}
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / ".ray" / "auth_token"))
    assert ray_environment.token() == {}


@pytest.mark.parametrize("python_path", ["", ":", "{here}:", ":/nowhere", "/nowhere"])
def test_the_current_directory_is_not_imported_from(
    python_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.py").write_text("DEBUG = True\n")
    monkeypatch.setenv("PYTHONPATH", python_path.format(here=tmp_path))
    code = "import settings.common.errors, runpy; print(settings.__file__)"
    environment = os.environ | ray_environment.import_path()
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == ROOT / "settings" / "__init__.py"
