"""Commands that are watched while they run: seconds on the wall, CPU seconds of all their processes by kind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).parent / "probe"
LOOK_SECONDS = 0.5  # between two looks at the processes; what one does after the last look is not counted
TO_END = 60.0  # seconds that an interrupted command may take
SERVICES = "Ray's services"


@dataclass
class Watched:
    """A command that has ended.

    Attributes:
        began, ended: seconds since 1970.
        cpu: kind of process -> CPU seconds: "driver", "workers", and Ray's own processes.
        driver: (seconds since 1970, CPU seconds of the driver so far).
    """

    began: float
    ended: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    driver: list[tuple[float, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """On the wall, from before the process started to after it ended."""
        return self.ended - self.began

    def driver_at(self, moment: float) -> float:
        """CPU seconds of the driver up to a moment: the last look before it."""
        return max((cpu for at, cpu in self.driver if at <= moment), default=0.0)


def watch(
    module: Sequence[str],
    log: Path,
    until: Callable[[], bool] | None = None,
    **variables: str,
) -> Watched:
    """Run `python -m` with these arguments and look at its processes meanwhile. Raise RuntimeError when it fails.

    Args:
        log: file for its output.
        until: interrupt it as soon as this is true.
        variables: of its environment.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} | variables
    line = [sys.executable, "-m", *module]
    spent: dict[int, tuple[str, float]] = {}
    with log.open("w") as file:
        watched = Watched(time.time())
        process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _look_until(process, watched, spent, until)
        finally:
            _end(process)
    watched.ended = time.time()
    if process.returncode != 0 and until is None:
        raise RuntimeError(f"{' '.join(line)} failed:\n{log.read_text()[-3000:]}")
    if until is not None and not until():
        raise RuntimeError(f"{' '.join(line)} ended too early:\n{log.read_text()[-3000:]}")
    for kind, seconds in spent.values():
        watched.cpu[kind] = watched.cpu.get(kind, 0.0) + seconds
    return watched


def _look_until(
    process: subprocess.Popen[Any],
    watched: Watched,
    spent: dict[int, tuple[str, float]],
    until: Callable[[], bool] | None,
) -> None:
    """Look at the processes until they end, or until they shall end."""
    driver, next_look = psutil.Process(process.pid), 0.0
    while process.poll() is None and not (until and until()):
        if time.time() >= next_look:
            next_look = time.time() + LOOK_SECONDS
            _look(driver, spent)
            watched.driver.append((time.time(), spent.get(driver.pid, ("", 0.0))[1]))
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)


def _look(driver: psutil.Process, spent: dict[int, tuple[str, float]]) -> None:
    """Note the CPU seconds of the driver and of what it has started, by process id."""
    with suppress(psutil.Error):
        for one in (driver, *driver.children(recursive=True)):
            with suppress(psutil.Error):
                times = one.cpu_times()
                known = spent.get(one.pid, ("", 0.0))[0]
                kind = known if known in ("driver", "workers") else _kind(one, driver)
                spent[one.pid] = (kind, times.user + times.system)


def _kind(one: psutil.Process, driver: psutil.Process) -> str:
    """What a process is for; Ray names its workers "ray::" and what they do."""
    if one.pid == driver.pid:
        return "driver"
    command = " ".join(one.cmdline())
    return "workers" if command.startswith("ray::") or "default_worker.py" in command else SERVICES


def _end(process: subprocess.Popen[Any]) -> None:
    """Interrupt a command that still runs, as Ctrl-C does, and wait for it; kill it if it takes too long."""
    if process.poll() is not None:
        return
    session = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        for one in session:
            with suppress(psutil.Error):
                one.kill()
