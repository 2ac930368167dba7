"""Files that are made once and shared: who waits, what is kept, and what is deleted."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from settings.common.shared_files import SharedFiles, folder_bytes, locked

HOLDER = """
import sys
from pathlib import Path
from settings.common.shared_files import SharedFiles
files = SharedFiles(Path(sys.argv[1]), 0)
print(files.use(Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


def written(folder: Path, *names: str) -> list[Path]:
    """Files of 100 bytes, the first used longest ago."""
    files = SharedFiles(folder, 1e9)
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(b"x" * 100)
        assert files.use(path)
        time.sleep(0.01)
    return paths


def test_what_was_not_used_for_longest_is_deleted(tmp_path: Path) -> None:
    first, second, third = written(tmp_path, "a", "b", "c")
    changed = first.stat().st_mtime_ns
    assert SharedFiles(tmp_path, 1e9).use(first)
    SharedFiles(tmp_path, 250).trim()
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    assert folder_bytes(tmp_path) == 200
    assert first.stat().st_mtime_ns == changed, "to use a file is not to change it"
    SharedFiles(tmp_path, 200).trim()
    assert folder_bytes(tmp_path) == 200


def test_what_a_process_has_in_use_stays_until_it_ends(tmp_path: Path) -> None:
    first, second = written(tmp_path, "a", "b")
    command = [sys.executable, "-c", HOLDER, str(tmp_path), str(first)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "True\n"
    SharedFiles(tmp_path, 0).trim()
    assert [path.exists() for path in (first, second)] == [True, False]
    holder.kill()
    holder.communicate()
    SharedFiles(tmp_path, 0).trim()
    assert not first.exists()


def test_what_this_process_has_in_use_stays_as_long_as_its_user(tmp_path: Path) -> None:
    (path,) = written(tmp_path, "a")
    user = SharedFiles(tmp_path, 0)
    assert user.use(path) and user.use(path)
    user.trim()
    assert path.exists()
    del user
    SharedFiles(tmp_path, 0).trim()
    assert not path.exists()


def test_what_is_not_there_is_not_used(tmp_path: Path) -> None:
    assert not SharedFiles(tmp_path, 0).use(tmp_path / "a")
    assert folder_bytes(tmp_path / "nowhere") == 0


def test_one_makes_a_file_and_leaves_no_lock_with_it(tmp_path: Path) -> None:
    path, inside = tmp_path / "a", list[int]()

    def make() -> None:
        with SharedFiles(tmp_path, 0).making(path):
            inside.append(1)
            assert sum(inside) == 1
            time.sleep(0.05)
            inside.append(-1)

    makers = [threading.Thread(target=make) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sum(inside) == 0 and len(inside) == 6
    path.write_bytes(b"x")
    SharedFiles(tmp_path, 0).trim()
    assert not list(tmp_path.iterdir())


def test_who_waits_can_be_interrupted(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with locked(tmp_path / "lock"), pytest.raises(KeyboardInterrupt), locked(tmp_path / "lock", interrupt):
        pytest.fail("two have one lock")
