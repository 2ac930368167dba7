"""What a second Ctrl-C does: it ends the process, whatever that does.

The first is for the command, which ends what it has begun in order: a driver closes its sweep, a judge keeps the
verdicts that are on their way. That may wait for others, and what a killed process has kept is continued just as well.
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
INTERRUPTED = 130  # the exit code, as shells have it
STOPPED = "stopped at once; the same command goes on from what is kept"
SHOW_CURSOR = "\x1b[?25h"  # a live display has hidden it


@contextmanager
def second_ends() -> Iterator[None]:
    """End the process within `AT_ONCE_SECONDS` of the second SIGINT or SIGTERM, and with the third one at once.

    A thread is told of signals as they come, since Python's handlers wait until the main thread runs Python again. Once
    there was one the watch outlives the context: a process that ends may still wait for its threads.
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
        count: of signals so far.
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
    os.write(2, f"selgen: {STOPPED}\n".encode())
    os._exit(INTERRUPTED)
