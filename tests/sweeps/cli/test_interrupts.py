"""A second Ctrl-C ends a command whatever it does: real processes, in phases that would last for minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sweeps.cli.interrupts import second_ends
from tests.conftest import ROOT

PHASES = {
    "what is swallowed": """
        ready()
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass
    """,
    "it ends slowly, and has said how to continue": """
        from sweeps.cli.interrupts import ADVISED
        ready()
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                ADVISED.set()
    """,
    "a library computes": """
        ready(); hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    """,
}
PROGRAM = """
import hashlib, signal, time
from sweeps.cli import app
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background of a shell script ignores it

def ready():
    print("ready", flush=True)

def command():{phase}
app.app = command
app.main()
"""


def interrupted_twice(process: subprocess.Popen[str]) -> tuple[int, float, str]:
    """Send two SIGINT half a second apart; the exit code, the seconds to the end, and standard error."""
    try:
        time.sleep(0.5)  # it is ready, and not yet where it will stay
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1]
        return process.returncode, time.monotonic() - began, errors
    finally:
        process.kill()


@pytest.mark.parametrize("phase", PHASES)
def test_a_second_interrupt_ends_the_process(phase: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(phase=PHASES[phase])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    code, seconds, errors = interrupted_twice(process)
    said = "" if "said how" in phase else "selgen: stopped at once; the same command continues from what is kept\n"
    assert (code, errors) == (130, said)
    assert seconds < 10


def test_one_interrupt_is_the_command_s_own() -> None:
    """It has all the time it needs: nothing else ends it, and nothing is left behind where there was none."""
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # or not: see above
    before = signal.set_wakeup_fd(-1)
    with second_ends():
        pass
    assert signal.set_wakeup_fd(before) == -1
    with pytest.raises(KeyboardInterrupt), second_ends():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    signal.set_wakeup_fd(before)
    signal.signal(signal.SIGINT, ignored)
