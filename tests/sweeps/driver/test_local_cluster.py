"""A local Ray cluster in a process of its own: when it is started, and that none of its processes outlives it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from settings.common.errors import UserError
from sweeps.driver.local_cluster import LocalCluster, start_early
from tests.conftest import ROOT
from tests.test_end_to_end import alive, session_of, start, wait_for
from trainables.folder import SweepFolder

SLOW_RAY = """
from types import SimpleNamespace

def init(**options):
    with open({tries!r}, "a+") as file:
        file.write("x")
        file.seek(0)
        if len(file.read()) <= {slow_starts}:
            raise Exception("The current node timed out during startup. This could happen because it is slow.")
    return SimpleNamespace(address_info={{"gcs_address": "127.0.0.1:1234"}})
"""


def test_none_is_started_where_none_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with start_early(tmp_path, "auto") as cluster:
        assert cluster is None
    SweepFolder(tmp_path).published.touch()
    with start_early(tmp_path, None) as cluster:
        assert cluster is None
    monkeypatch.setitem(sys.modules, "ray", pytest)
    with start_early(tmp_path / "another", None) as cluster:
        assert cluster is None


def test_why_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray.py").write_text("raise RuntimeError('no room')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalCluster() as cluster, pytest.raises(UserError, match=r"Ray does not start .*: RuntimeError: no room"):
        assert cluster.address


@pytest.mark.parametrize("slow_starts", [1, 2])
def test_a_busy_machine_gets_a_second_try(slow_starts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that gives up on its first starts, in Ray's own words, and then has an address."""
    package, tries = tmp_path / "ray", tmp_path / "tries"
    package.mkdir()
    (package / "job_config.py").write_text("JobConfig = dict")
    (package / "__init__.py").write_text(SLOW_RAY.format(tries=str(tries), slow_starts=slow_starts))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalCluster() as cluster:
        if slow_starts == 1:
            assert cluster.address == "127.0.0.1:1234"
        else:
            with pytest.raises(UserError, match=r"Ray does not start .* timed out during startup.*busy, try again"):
                assert cluster.address
    assert tries.read_text() == "xx"


@pytest.mark.slow
def test_nothing_stays_of_one_that_nobody_used(tmp_path: Path) -> None:
    """A sweep's file fails after Ray began to start, and before anything asked for the cluster."""
    (tmp_path / "broken.py").write_text("import time\n\ntime.sleep(3)\nraise ValueError('a mistake')\n")
    process = start(tmp_path / "broken.py", tmp_path)
    wait_for(lambda: session_of(process))
    others = session_of(process)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 2 and "broken.py" in shown and "Traceback" not in shown
    assert not alive([*others, *session_of(process)])


@pytest.mark.slow
def test_nothing_stays_where_the_name_is_wrong(tmp_path: Path) -> None:
    """The cluster has hardly begun to start by then."""
    process = start(tmp_path / "nowhere.py", tmp_path)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 2 and "nowhere.py" in shown and "Traceback" not in shown
    assert not alive(session_of(process))


@pytest.mark.slow
def test_nothing_stays_of_one_that_had_just_started() -> None:
    """Unless they are killed, Ray's agents look for their killed cluster for a minute."""
    with LocalCluster() as cluster:
        process = cluster.process
        assert process.stdout is not None and select.select([process.stdout], [], [], 60)[0]
        others = psutil.Process(process.pid).children(recursive=True)
        assert any("Agent" in process.name() for process in others)
    assert not alive(others, seconds=10)


def hostile_place(folder: Path) -> dict[str, Any]:
    """Make a place to start a process in where users have modules of our names, and no home, and a batch system."""
    (folder / "settings.py").write_text("DEBUG = True\n")
    (folder / "ray.py").write_text("raise RuntimeError('the user has a module of this name')\n")
    for package in ("sweeps", "trainables"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    scratch = folder / "scratch" / "jobs" / "123456789.master.cluster.example" / "tmp"
    scratch.mkdir(parents=True)
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    places = {"PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "HOME": str(folder / "settings.py")}
    unset = ("RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "PYTHONSAFEPATH")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return {"cwd": folder, "env": inherited | proxy | places | {"LC_ALL": "C"}}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_it_ends_with_its_driver(killed: bool, tmp_path: Path) -> None:
    """Also where it is started among modules of the same names, without a home and with a long TMPDIR."""
    place: dict[str, Any] = {} if killed else hostile_place(tmp_path)
    options, arguments = ([], []) if killed else (["-P"], ["imports"])
    command = [sys.executable, *options, "-m", "tests.support.cluster_user", *arguments]
    driver = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, **place
    )
    assert driver.stdout is not None
    if not killed:
        imported_from, path = json.loads(driver.stdout.readline())
        assert Path(imported_from).is_relative_to(ROOT) and str(tmp_path) not in path
    assert int(driver.stdout.readline()) >= 1
    others = session_of(driver)
    assert any("raylet" in process.name() for process in others)
    began = time.monotonic()
    driver.kill() if killed else driver.communicate("\n")
    driver.wait()
    assert not alive(others, seconds=60)
    assert killed or (driver.returncode == 0 and time.monotonic() - began < 30)
