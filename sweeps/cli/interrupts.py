"""End the process at a second Ctrl-C, whatever it is doing.

The command handles the first one and shuts down in order: a driver closes its sweep, a judge keeps the verdicts that
are on their way. That may take long, and a killed process loses nothing: a later start continues from what it has kept.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

AT_ONCE_SECONDS = 3.0  # from the second Ctrl-C to the end of the process
INTERRUPTED = 130  # the exit code that shells use
STOPPED = "stopped at once; the same command continues from what is kept"
ADVISED = threading.Event()  # set when the command itself has said how to continue
SHOW_CURSOR = "\x1b[?25h"  # a live display has hidden it


@contextmanager
def second_ends() -> Iterator[None]:
    """End the process within `AT_ONCE_SECONDS` of the second SIGINT or SIGTERM, and with the third one at once.

    A thread sees signals as they come; Python's handlers would wait until the main thread runs Python again. After the
    first signal the watch outlives the context: a process that is ending may still wait for its threads.
    """
    watch = _Watch()
    before = signal.set_wakeup_fd(watch.sender.fileno(), warn_on_full_buffer=False)
    watch.start()
    try:
        yield
    finally:
        if not watch.count:
            signal.set_wakeup_fd(before)
            watch.sender.close()


class _Watch(threading.Thread):
    """Counts the signals that would end the process, until its sender is closed.

    Attributes:
        sender: where Python's own handler in C writes the numbers of signals.
        count: number of signals so far.
    """

    def __init__(self) -> None:
        super().__init__(name="interrupts", daemon=True)
        self.sender, self._receiver = socket.socketpair()
        self.sender.setblocking(False)
        self.count = 0

    def run(self) -> None:
        with self._receiver:
            while numbers := self._receiver.recv(64):
                self.count += sum(number in (signal.SIGINT, signal.SIGTERM) for number in numbers)
                if self.count >= 2:
                    wait = AT_ONCE_SECONDS if self.count == 2 else 0.0
                    threading.Thread(target=_end, args=(wait,), daemon=True).start()


def _end(seconds: float) -> None:
    time.sleep(seconds)
    for stream in (sys.stdout, sys.stderr):
        if stream.isatty():
            os.write(stream.fileno(), SHOW_CURSOR.encode())
    if not ADVISED.is_set():
        os.write(2, f"selgen: {STOPPED}\n".encode())
    os._exit(INTERRUPTED)
