"""Write a sweep to MLflow: a projection of the ledger, never its source.

One thread of the driver is the only writer. It imports MLflow and creates the database only once a worker has news, so
as not to delay the start of Ray and the workers. It writes in batches, and repairs what an earlier driver left
unfinished. A failing store costs the display, not the sweep: while it is away, a bounded number of updates waits in
memory, and what does not fit is read from the ledger afterwards.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from analysis.findings.frontier import Estimate, FrontierPoint
from analysis.tables.mlflow_checks import reading
from analysis.tables.mlflow_client import store_errors
from settings.common.addresses import redacted
from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.ledger import LedgerState, read
from sweeps.sweep import Sweep
from sweeps.tracking.models import FrontierAdapter
from sweeps.tracking.projection import milliseconds
from sweeps.tracking.run_writers import RunStatus
from sweeps.tracking.store import SweepStore
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

Update = Callable[[], None]
BUFFER = 10_000  # updates that may wait for a store that is away
PROBLEMS = 10  # most problems kept for the user
MOST_ROWS = 20_000  # rows that may wait to be written together
ATTEMPTS = 3  # at one update before giving up
QUIET_SECONDS = 30.0  # without news from a worker, after which the store is opened anyway
RETRY_SECONDS = 5.0  # between attempts to reach a store, doubling up to a minute


class Tracker:
    """Writes a sweep to MLflow from a thread of its own. No method waits, and none raises because of the store.

    While the store is away, at most `BUFFER` updates wait in memory. Once half of it is full, progress of running
    trials is dropped: their outcomes repeat it. Once all of it is full, everything that the ledger has is dropped: it
    is read again when the store is back.

    Args:
        uri: URI of the store, `sqlite:///path` or a server's.
        sweep: the sweep to write.
        artifact_root: artifact folder of a new experiment; None leaves it to the server.
        flush_seconds: how often the progress of running trials is written.
        ledger: folder of the sweep's ledger. Without it, updates that do not fit are left to the next start.
    """

    def __init__(
        self,
        uri: str,
        sweep: Sweep,
        artifact_root: Path | None = None,
        flush_seconds: float = 5.0,
        ledger: Path | None = None,
    ) -> None:
        self.problems: list[str] = []
        self._uri = uri
        self._store = SweepStore(uri, sweep, artifact_root)
        self._flush_seconds = flush_seconds
        self._flushed_at = time.monotonic()
        self._ledger = ledger
        self._behind = False  # some updates were dropped, which the ledger has
        self._queue: queue.Queue[Update | None] = queue.Queue()
        self._uncommitted: list[Update] = []  # applied since the last commit
        self._status: RunStatus = "FINISHED"
        self._closing = threading.Event()
        self._at_once = False  # leave what is not written to the next start
        self._news = threading.Event()  # a worker has reported: the store is worth opening
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Number of updates that wait in memory."""
        return self._queue.qsize()

    @property
    def is_behind(self) -> bool:
        """Whether the store lacks dropped updates, still to be read from the ledger."""
        return self._behind

    def wait(self, timeout: float) -> bool:
        """Wait until everything but progress is written or given up. Return False after `timeout` seconds."""
        done = threading.Event()
        for update in (self._store.commit, done.set):
            self._queue.put(update)
        return done.wait(timeout)

    def start(self, description: str = "", record: LedgerState | None = None) -> None:
        """Open the store and the sweep's run, and write what the store lacks of the ledger so far (`record`).

        This happens at the first news from a worker, or after `QUIET_SECONDS` without any.
        """
        self._queue.put(lambda: self._store.open_sweep(description))
        for update in self._updates_of(record) if record else ():
            self._queue.put(update)
        self._thread.start()

    def _updates_of(self, record: LedgerState) -> Iterator[Update]:
        """Yield everything in a ledger as updates. What the store already has is left as it is."""
        if record.bases:
            yield partial(self._store.bases, dict(record.bases))
        asked = record.configurations
        for outcome in record.outcomes.values():
            yield partial(self._store.outcome, outcome, outcome.trial.configuration_id not in asked)

    def base_scored(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        """Write the scores of the untouched base model of a setting, named by its label."""
        self._news.set()
        self._put_unless_full(partial(self._store.bases, {setting: scores}))

    def pack_started(self, trials: Sequence[TrialConfig]) -> None:
        """Write that trials went to a worker."""
        for trial in trials:
            self._put_unless_full(partial(self._store.started, trial))

    def progress(self, trial_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Write training metrics of a started trial, as `train/<name>`, within `flush_seconds`."""
        self._news.set()
        if self._queue.qsize() < BUFFER // 2:
            self._queue.put(partial(self._store.progress, trial_id, step, dict(metrics), milliseconds()))

    def trial_ended(self, outcome: Outcome, auxiliary: bool = False) -> None:
        """Write how a trial ended. An auxiliary one exists only for others to build on."""
        self._news.set()
        self._put_unless_full(partial(self._store.outcome, outcome, auxiliary))

    def _put_unless_full(self, update: Update) -> None:
        """Queue an update that the ledger also has, if there is room."""
        if self._queue.qsize() < BUFFER:
            self._queue.put(update)
        else:
            self._behind = True

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file or a folder to the sweep's artifacts."""
        self._news.set()
        self._queue.put(lambda: self._store.artifact(path, folder))

    def frontier(self, points: Sequence[FrontierPoint], others: Mapping[str, Mapping[str, Estimate]]) -> None:
        """Write means and intervals over seeds into the configurations' runs, and which are on the frontier.

        Args:
            others: configuration -> score that is not an objective -> estimate.
        """
        self._queue.put(lambda: self._store.frontier(points, others))

    def adapters(self, adapters: Sequence[FrontierAdapter]) -> None:
        """Log the adapters of all configurations on the frontier as models."""
        self._queue.put(lambda: self._store.adapters(adapters))

    def describe(self, markdown: str, figure: str = "") -> None:
        """Set the sweep's description, which MLflow shows on its run.

        Args:
            markdown: its first line also appears above the table of runs; `{run_id}` stands for the run's id.
            figure: path of the artifact that the sweep's page shows.
        """
        self._queue.put(lambda: self._store.describe(markdown, figure))

    def close(self, status: RunStatus = "FINISHED", at_once: bool = False) -> None:
        """Write what is left, end the sweep's run and stop. The caller shows `problems`, i.e. what went wrong.

        Args:
            at_once: leave unwritten updates to the next start, and do not open a store for them.
        """
        self._status, self._at_once = status, at_once
        self._queue.put(None)
        self._closing.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        """Apply updates in order until None. The thread runs this."""
        finished = False
        self._news.wait(QUIET_SECONDS)
        try:
            while self._step():
                pass
            finished = True
        finally:
            if not finished:  # a bug in this package; see the thread's traceback
                self.problems.append("the writer stopped; the next start of the sweep writes what is missing")

    def _step(self) -> bool:
        """Apply one update, or do what else is due. Return False at the end."""
        if self._at_once:
            if self._store.is_connected:
                self._try(lambda: self._store.close(self._status))
            return False
        if time.monotonic() - self._flushed_at > self._flush_seconds:
            self._flushed_at = time.monotonic()
            return self._try(self._store.flush)
        if self._behind and self._queue.empty():
            return self._catch_up()
        try:
            update = self._queue.get(timeout=max(0.0, self._flushed_at + self._flush_seconds - time.monotonic()))
        except queue.Empty:
            return True
        if update is not None:
            return self._try(update)
        if not self._behind or self._catch_up():
            self._try(lambda: self._store.close(self._status))
        return False

    def _catch_up(self) -> bool:
        """Write dropped updates from the ledger. Return False if the store is away and the sweep is over."""
        self._behind = False
        try:
            record = read(self._ledger) if self._ledger else None
        except UserError as error:
            add_problem(self.problems, error, self._uri)
            return True
        if record is None:
            self.problems.append("not all updates fit into memory; the next start of the sweep writes what is missing")
            return True
        return all(map(self._try, self._updates_of(record)))

    def _try(self, update: Update) -> bool:
        """Apply an update. If that fails, apply all since the last commit one by one.

        Return False if the store is away and the sweep is over.
        """
        self._uncommitted.append(update)
        if self._connect() and self._apply(update):
            if not self._store.waits:
                self._uncommitted.clear()
            return True
        again, self._uncommitted = self._uncommitted, []
        return all(map(self._insist, again))

    def _apply(self, update: Update) -> bool:
        """Apply an update, and commit if many rows wait. Return False if the store fails."""
        try:
            update()
            if self._store.waits > MOST_ROWS:
                self._store.commit()
        except store_errors() as error:
            add_problem(self.problems, error, self._uri)
            self._store.disconnect()
            return False
        return True

    def _insist(self, update: Update) -> bool:
        """Apply and commit an update that failed, or waited with a failed one, in up to `ATTEMPTS` attempts.

        Return False if the store is away and the sweep is over.
        """
        wait, attempts = RETRY_SECONDS, 1

        def committed() -> None:
            update()
            self._store.commit()

        while attempts < ATTEMPTS:
            if not self._connect():
                if self._closing.is_set():
                    self.problems.append(
                        "the store cannot be reached; the next start of the sweep writes what is missing"
                    )
                    return False
                self._closing.wait(wait)
                wait = min(2 * wait, 60.0)
                continue
            if self._apply(committed):
                return True
            attempts += 1
        return True

    def _connect(self) -> bool:
        """Connect if needed. Return False if the store is away."""
        try:
            self._store.connect()
        except store_errors() as error:
            add_problem(self.problems, error, self._uri)
            self._store.disconnect()
            return False
        return True


def add_problem(problems: list[str], error: BaseException, uri: str = "") -> None:
    """Keep an error as one line, each once, although addresses of objects differ between attempts.

    Args:
        uri: URI of the store; its password is left out.
    """
    text = f"{type(error).__name__}: {redacted(str(error).strip().partition(chr(10))[0], uri)}"
    text = re.sub(r"0x[0-9a-f]+", "0x...", text)
    if text not in problems and len(problems) < PROBLEMS:
        problems.append(text)


def lacks(record: LedgerState, sweep: Sweep, uri: str, artifact_root: Path | None = None) -> str:
    """Say what a store lacks of the trials that have ended, e.g. "3 trials"; "" if nothing. Raise UserError.

    If runs were deleted in MLflow, or the store was lost, they come back from the ledger.
    """
    store = SweepStore(uri, sweep, artifact_root)
    with reading(uri):
        store.connect()
    outcomes = store.lacks(list(record.outcomes.values()))
    if outcomes is None:
        return "the sweep's run"
    return f"{len(outcomes)} trial{'s' if len(outcomes) > 1 else ''}" if outcomes else ""


def project(record: LedgerState, sweep: Sweep, uri: str, artifact_root: Path | None = None) -> list[str]:
    """Write a ledger to a store, e.g. to replace a lost one. Return problems; none means that the store is complete."""
    tracker = Tracker(uri, sweep, artifact_root)
    tracker.start(record=record)
    tracker.close()
    return tracker.problems
