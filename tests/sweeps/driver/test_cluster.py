"""A sweep is a job on two Ray nodes. One is killed, another joins: no trial is lost, no score changes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweeps.ledger import read
from tests.test_end_to_end import num_outcomes, trained_alone, write_sweep

pytestmark = pytest.mark.study  # minutes, and Ray nodes beside whatever else runs here

BIN = Path(sys.executable).parent
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [int(free.getsockname()[1]) for free in sockets]
    for free in sockets:
        free.close()
    return ports


class Nodes:
    """Ray nodes of one CPU each on this machine, told apart by their temporary folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.dashboard, self._client = free_ports(3)
        self._workers = 20_000
        head = ["--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}", "--dashboard-host=127.0.0.1"]
        self.add("head", *head, f"--ray-client-server-port={self._client}")

    def add(self, name: str, *options: str) -> None:
        """Start a node; without options one that joins the head."""
        first, self._workers = self._workers, self._workers + 200
        options = options or (f"--address=127.0.0.1:{self.port}",)
        ports = [f"--min-worker-port={first}", f"--max-worker-port={first + 100}"]
        command = [str(BIN / "ray"), "start", *options, "--num-cpus=1", f"--temp-dir={self.folder / name}", *ports]
        subprocess.run(command, check=True, capture_output=True, timeout=90, env=os.environ | ENVIRONMENT)

    def kill(self, name: str) -> int:
        """Kill every process of a node, or of all nodes for "". Return how many there were."""
        place = str(self.folder / name)
        lines = {process.pid: " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])}
        pids = [pid for pid, line in lines.items() if place in line]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = Path("/tmp") / f"selgen-nodes-{os.getpid()}"  # sockets have short names
    cluster = Nodes(folder)
    try:
        yield cluster
    finally:
        cluster.kill("")


def wait_for_job_server(nodes: Nodes) -> None:
    """Wait for the head's agent, which takes jobs a few seconds after the head has started."""
    command = [str(BIN / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{nodes.dashboard}", "--", "true"]
    until = time.monotonic() + 90
    while subprocess.run(command, capture_output=True, timeout=90, env=os.environ | ENVIRONMENT).returncode != 0:
        assert time.monotonic() < until, "Ray's job server does not answer"
        time.sleep(2)


@pytest.mark.timeout(600)
def test_a_node_is_lost_and_another_joins(tmp_path: Path, nodes: Nodes) -> None:
    nodes.add("first")
    wait_for_job_server(nodes)
    (tmp_path / "work").mkdir()
    write_sweep(tmp_path / "work", steps=48)
    output = tmp_path / "output"
    sweep = [
        sys.executable,
        "-m",
        "sweeps.cli",
        "sweep",
        "run",
        "small.py",
        "--address",
        "auto",
        "--output",
        str(output),
    ]
    submit = [str(BIN / "ray"), "job", "submit", "--address", f"http://127.0.0.1:{nodes.dashboard}"]
    command = [*submit, "--working-dir", str(tmp_path / "work"), "--", *sweep]
    with (tmp_path / "job.log").open("w") as log:
        job = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT)
        until = time.monotonic() + 240
        while num_outcomes(output) < 2:
            assert time.monotonic() < until and job.poll() is None, (tmp_path / "job.log").read_text()
            time.sleep(0.2)
        assert nodes.kill("first") > 0
        nodes.add("second")
        assert job.wait(timeout=300) == 0, (tmp_path / "job.log").read_text()
    outcomes = read(output / "small").outcomes
    assert len(outcomes) == 10
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    means = {trial: {name: m.mean for name, m in outcome.scores.items()} for trial, outcome in outcomes.items()}
    assert means == trained_alone([outcome.trial for outcome in outcomes.values()])
