"""Files that are either whole or absent, whenever their writer is killed."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from settings.common.files import cache_root, remove, remove_partial, replacing, replacing_file, write_json

MOMENTS = ("fsync", "link", "rename", "replace", "rmdir", "unlink")  # calls of `os` that change what a reader may find


def killed_at(moment: str, number: int, write: Callable[[], None]) -> bool:
    """Run `write` in a process that is killed before its call `number` of `os.<moment>`; whether it came that far."""
    child = os.fork()
    if child == 0:
        original, calls = getattr(os, moment), iter(range(number))

        def call(*args: object, **options: object) -> object:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(os, moment, call)
        write()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def write_folder(place: Path, text: str) -> None:
    with replacing(place) as temporary:
        for name in ("one", "two"):
            (temporary / name).write_text(text)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_writer_leaves_a_whole_folder_or_none(tmp_path: Path, moment: str) -> None:
    place, number = tmp_path / "place", 0
    write_folder(place, "old")
    while killed_at(moment, number, lambda: write_folder(place, "new")):
        contents = {path.read_text() for path in place.iterdir()} if place.exists() else {"old"}
        assert contents in ({"old"}, {"new"})
        assert not place.exists() or len(list(place.iterdir())) == 2
        write_folder(place, "old")
        remove_partial(tmp_path)
        assert list(tmp_path.iterdir()) == [place]
        number += 1
    assert {path.read_text() for path in place.iterdir()} == {"new"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path, moment: str) -> None:
    place, number = tmp_path / "place.json", 0
    write_json(place, "old")
    while killed_at(moment, number, lambda: write_json(place, "new")):
        assert json.loads(place.read_text()) in ("old", "new"), "a file is there at every moment"
        write_json(place, "old")
        remove_partial(tmp_path)
        assert list(tmp_path.iterdir()) == [place]
        number += 1
    assert json.loads(place.read_text()) == "new"


def test_the_moments_are_reached(tmp_path: Path) -> None:
    """Else the two tests above would test nothing."""
    write_folder(tmp_path / "folder", "old")
    for moment, write in (
        ("fsync", lambda: write_json(tmp_path / "file", 1)),
        ("replace", lambda: write_json(tmp_path / "file", 1)),
        ("fsync", lambda: write_folder(tmp_path / "folder", "new")),
        ("rename", lambda: write_folder(tmp_path / "folder", "new")),
    ):
        assert killed_at(moment, 0, write), moment


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename must not find empty files."""
    events: list[str] = []
    for name in ("fsync", "rename", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, n=name, o=original: (events.append(n), o(*args))[1])
    write_json(tmp_path / "file", 1)
    assert events == ["fsync", "replace", "fsync"]
    events.clear()
    write_folder(tmp_path / "folder", "new")
    assert events[: events.index("rename")].count("fsync") == 3, "two files and the folder"
    assert events[-1] == "fsync"


def test_a_block_that_fails_changes_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "place", "old")

    def fail() -> None:
        with replacing(tmp_path / "place") as temporary:
            (temporary / "one").write_text("new")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert list(tmp_path.iterdir()) == [tmp_path / "place"]
    assert (tmp_path / "place" / "one").read_text() == "old"


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    """The worker of a killed driver may still write while its successor does."""
    with replacing(tmp_path / "place") as ours:
        (ours / "one").write_text("ours")
        write_from_another_process = os.fork()
        if write_from_another_process == 0:
            write_folder(tmp_path / "place", "theirs")
            os._exit(0)
        os.waitpid(write_from_another_process, 0)
    assert [path.read_text() for path in (tmp_path / "place").iterdir()] == ["ours"]
    assert list(tmp_path.iterdir()) == [tmp_path / "place"]


def test_removing(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "text")
    write_json(tmp_path / "file", 1)
    for name in ("folder", "file", "nothing"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def write_new(place: Path, text: str) -> None:
    with replacing_file(place, keep=True) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_make_a_file_the_earlier_wins(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system knows no hard links."""
    place = tmp_path / "file"

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    with replacing_file(place, keep=True) as later:
        later.write_text("later")
        place.write_text("earlier")
    assert place.read_text() == "earlier"
    place.unlink()
    write_new(place, "new")
    assert place.read_text() == "new" and list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_new_file_is_whole_or_absent(tmp_path: Path, moment: str) -> None:
    place, number = tmp_path / "file", 0
    while killed_at(moment, number, lambda: write_new(place, "new")):
        assert not place.exists() or place.read_text() == "new"
        remove(place)
        remove_partial(tmp_path)
        number += 1
    assert place.read_text() == "new"


def test_the_cache_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELGEN_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_root() == Path("/a")
    monkeypatch.delenv("SELGEN_CACHE")
    assert cache_root() == Path("/b/selgen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "selgen"
