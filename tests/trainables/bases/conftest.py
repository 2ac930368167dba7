"""Fixtures of the tests of base models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.trainables.bases.nano import NANO
from trainables.bases.pretraining import ensure_pretrained


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty cache of its own."""
    monkeypatch.setenv("SELGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a model directory as a user would have it."""
    return Path(shutil.copytree(ensure_pretrained(NANO), tmp_path / "checkpoint"))
