"""What a worker tells of itself is for people to see: a file that cannot be written or read ends nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trainables import messages
from trainables.messages import Activity, ActivityFile


def test_a_disk_that_is_full_ends_no_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(messages, "write_json", full)
    file = ActivityFile(tmp_path / "pack.json", ["a"])
    file.tell("training", 1, 2)
    file.close()
    assert Activity.read(tmp_path / "pack.json") is None


def test_a_file_that_is_replaced_on_a_network_file_system_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pack.json"
    ActivityFile(path, ["a"]).tell("training", 1, 2)
    read = Activity.read(path)
    assert read is not None and (read.trials, read.phase, read.done) == (("a",), "training", 1)

    def stale(*_: object, **__: object) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_text", stale)
    assert Activity.read(path) is None
