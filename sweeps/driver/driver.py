"""One start of a sweep: train what is left on Ray, and tell every observer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from settings.common.errors import UserError
from settings.common.files import remove, remove_partial
from settings.setting import Measurement
from sweeps.driver.base_models import prepare_bases
from sweeps.driver.endpoints import Endpoints
from sweeps.driver.gpus import smallest_gpu
from sweeps.driver.local_cluster import LocalCluster, connect, quiet
from sweeps.driver.progress import Display
from sweeps.driver.resources import memory_of_worker, packs_at_a_time, resources_of_worker, unused_gpus, worker_config
from sweeps.ledger import Fit, Ledger
from sweeps.planning.fit import CaseSizes, room_of, settle, shared_bytes, sizes_of
from sweeps.planning.fit import describe as describe_fit
from sweeps.planning.forecast import SweepForecast
from sweeps.planning.spending import PacedForecast, what_fits, within_budget
from sweeps.results import cleaning
from sweeps.results.frontier_files import publish
from sweeps.search.accountant import Accountant
from sweeps.search.scheduler import PackScheduler
from sweeps.sweep import Sweep
from sweeps.tracking.run_writers import RunStatus
from sweeps.tracking.writer import Tracker
from trainables.folder import SweepFolder
from trainables.messages import PackReport, to_config
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

MAX_FAILURES = 3  # restarts from its checkpoint of a pack whose worker died; more deaths are no accident
PRUNE_EVERY = 50  # outcomes, at least
JUDGE_SECONDS = 0.1  # between two checks for new grades
NODES_SECONDS = 5.0  # between two checks that Ray has any node left
CONTROLLER_BYTES = 200e6  # reserved for the process that waits for a pack's workers; Ray wants some


class Driver:
    """One start of a sweep: the scheduler, its observers, and Ray around it.

    Args:
        ledger: an open ledger; nothing in it is run again.
        folder: the sweep's folder.
        tracker: not started yet.

    Attributes:
        scheduler: what is left to run.
        interrupted: whether the user has asked to stop.
        at_once: whether the user has asked again, and is waiting.
        endpoints: judges, and the server of replies.
    """

    def __init__(self, sweep: Sweep, ledger: Ledger, folder: Path, console: Console, tracker: Tracker) -> None:
        self.sweep, self.folder = sweep, folder
        self.interrupted = self.at_once = False
        self.endpoints = Endpoints(sweep, folder)
        self._ledger, self._tracker = ledger, tracker
        self._account = Accountant(sweep, ledger, lambda: self.endpoints.dollars)
        self._display = Display.of_sweep(console, sweep, ledger.state, folder, judging=lambda: self.endpoints.waiting)
        self.scheduler = PackScheduler(
            sweep,
            ledger,
            folder,
            observers=[AdapterPruner(sweep, ledger, folder), self._display, tracker],
            judging=self.endpoints.queue,
            account=self._account,
            interrupted=lambda: self.interrupted,
        )
        self._nodes_counted_at = time.monotonic()

    def run(self, address: str | None, cluster: LocalCluster | None) -> list[Path]:
        """Train what is left, and publish the frontier. Return its files.

        Args:
            address: address of a Ray cluster; None is a local one.
            cluster: a local one that has been started already.
        """
        if self.sweep.budget and not self.scheduler.done:
            self._account.forecast = forecast_alone(self.sweep, self._ledger.state.fit or Fit())
            self.scheduler.look_for_work()
        self.check_endpoints()
        self._tracker.start(record=self._ledger.state)
        status: RunStatus = "FAILED"
        try:
            with self._display:
                self.train(address, cluster)
            self.tidy()
            files = [] if self.at_once else publish(self.sweep, self._ledger.state, self.folder, self._tracker)
            status = "KILLED" if self.interrupted else "FINISHED"
        finally:
            self._tracker.close(status, self.at_once)
        return files

    def check_endpoints(self) -> None:
        """Try the judges and the server of replies before anything runs, and show what they say. Raise UserError."""
        for line in [] if self.scheduler.idle else self.endpoints.check():
            self._display.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def train(self, address: str | None, cluster: LocalCluster | None) -> None:
        """Pre-train what is missing, then run packs on Ray until the scheduler has none. Raise its problem, if any."""
        if self.scheduler.idle:
            return
        try:
            with quiet(), self._interruptible():
                self.await_judge()
                if not (self.interrupted or self.scheduler.idle or self.scheduler.problem):
                    prepare_bases(self.sweep, self._display, lambda: self.interrupted)
                if not (self.interrupted or self.scheduler.idle or self.scheduler.problem):
                    self._display.set_message("starting Ray")
                    self.run_packs(address, cluster)
        finally:
            self.endpoints.close()
            self.scheduler.keep_account(now=True)
        if self.scheduler.problem:
            raise self.scheduler.problem

    def await_judge(self) -> None:
        """Take in grades while only grades are awaited: that needs neither base model nor Ray."""
        self._display.set_message(self.endpoints.waiting or "starting")
        while self.scheduler.awaits_only_grades() and not self.interrupted:
            time.sleep(JUDGE_SECONDS)
            self.scheduler.collect_grades()
            self.scheduler.keep_account()

    def tidy(self) -> None:
        """Delete what killed workers left behind, and checkpoints once no pack will continue from them."""
        remove_partial(self.folder)
        remove(SweepFolder(self.folder).activities)
        if self.scheduler.done:
            remove(SweepFolder(self.folder).checkpoints)

    def run_packs(self, address: str | None, cluster: LocalCluster | None) -> None:
        """Start Ray, and let Tune run packs until the scheduler has no more or the start must stop."""
        import ray
        from ray import tune
        from ray.air._internal import usage

        from sweeps.driver.tune_callbacks import Reporter, StopOnProblem
        from sweeps.search.searcher import PackSearcher

        num_workers = self.sweep.execution.num_workers
        places = SweepFolder(self.folder)
        usage.tag_callbacks = lambda _: False  # it would import MLflow, for statistics that are off
        with connect(address, cluster, together=num_workers > 1):
            alive = [node for node in ray.nodes() if node["Alive"]]
            nodes = [node["Resources"] for node in alive]
            packs = packs_at_a_time(self.sweep, nodes)
            if idle := unused_gpus(self.sweep, sum(node.get("GPU", 0.0) for node in nodes)):
                self._display.caution(idle)
            workers = packs * num_workers
            sizes = sizes_of(self.sweep)
            gpu = smallest_gpu(alive, resources_of_worker(self.sweep), lambda: self.interrupted)
            fit, shared = self._settle(sizes, nodes, gpu)
            self._display.set_message(f"starting {workers} worker{'s' if workers > 1 else ''}")
            self._display.forecast = SweepForecast.of(self.sweep, sizes, fit, packs)
            if self.sweep.budget:
                self._account.forecast = paced = PacedForecast.of(self.sweep, self._display.forecast)
                plan = what_fits(self.sweep, paced, self._ledger.state)
                self._display.forecast = within_budget(self._display.forecast, plan)
            remove(places.activities)  # left by an earlier driver that was killed
            reporter = Reporter(self.show_progress)
            try:
                tune.Tuner(
                    self.trainable(),
                    param_space=to_config(worker_config(self.sweep, self.folder, nodes, fit, shared)),
                    tune_config=tune.TuneConfig(
                        search_alg=PackSearcher(self.scheduler, reason=reporter.reason),
                        num_samples=-1,
                        max_concurrent_trials=packs,
                        reuse_actors=True,
                    ),
                    run_config=tune.RunConfig(
                        name=self.sweep.name,
                        storage_path=str(places.tune_storage),
                        verbose=0,
                        callbacks=[reporter],
                        stop=StopOnProblem(self.must_stop),
                        failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                    ),
                ).fit()
            finally:
                remove(places.tune_storage)
                remove(places.train_storage)

    def _settle(
        self, sizes: Sequence[CaseSizes], nodes: Sequence[Mapping[str, float]], gpu: float | None = None
    ) -> tuple[Fit, float]:
        """Choose micro-batches and packs that fit the memory, or keep those of the first start.

        Return them, and the bytes of base models that workers share. Raise UserError if nothing fits. A choice is kept
        once the memory is known; until then, a later start chooses anew unless packs have been trained.

        Args:
            nodes: resources of Ray's nodes, by its names.
            gpu: see `room_of`.
        """
        shared = 0.0 if self.sweep.execution.gpus_per_pack else shared_bytes(sizes)
        room = room_of(self.sweep, memory_of_worker(self.sweep, nodes, shared), gpu)
        fit = settle(self.sweep, sizes, room, self._ledger.state)
        if line := describe_fit(self.sweep, sizes, fit, room):
            self._display.note(f"memory: {line}")
        if room.worker is not None:
            self._ledger.record_fit(fit)
        return fit, shared

    def trainable(self) -> Any:
        """Return the trainable that runs a pack, with the resources that Tune reserves for it."""
        from ray import tune

        from trainables.trainable import PackTrainable, train_together

        if self.sweep.execution.num_workers > 1:  # Ray Train reserves for its workers; this one only waits
            return tune.with_resources(train_together, {"cpu": 0, "memory": CONTROLLER_BYTES})
        resources = {kind.lower(): amount for kind, amount in resources_of_worker(self.sweep).items()}
        return tune.with_resources(PackTrainable, resources)

    def must_stop(self) -> bool:
        """Return whether the user or a problem ends this start. Tune asks all the time, even while nothing runs.

        Also notice that the cluster is gone: Tune itself would wait for ever.
        """
        import ray

        self._display.refresh()
        self.scheduler.keep_account()
        if time.monotonic() - self._nodes_counted_at > NODES_SECONDS:
            self._nodes_counted_at = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):
                self.scheduler.abort(UserError("Ray has lost all of its nodes; `selgen sweep resume` continues"))
        return self.interrupted or self.scheduler.problem is not None

    def show_progress(self, result: Mapping[str, Any]) -> None:
        """Show what a worker reports, and log its metrics."""
        report = PackReport.from_result(result)
        if report is None:
            return
        if report.note:
            self._display.note(report.note)
        self._display.caution(*report.cautions)
        self._display.refresh()
        for trial_id, metrics in report.progress.items():
            values = {name: value for name, value in metrics.items() if name != "step"}
            self._tracker.progress(trial_id, int(metrics["step"]), values)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C stop this start after the running slices; a second one stops it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            if self.interrupted:
                self.at_once = True
                raise KeyboardInterrupt
            self.interrupted = True
            self._display.set_message("stopping (Ctrl-C again to stop at once)")

        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


class AdapterPruner:
    """Deletes adapters that are no longer needed, from time to time, while the sweep runs.

    It does so ever more rarely, because finding them takes time in proportion to the number of outcomes.
    """

    def __init__(self, sweep: Sweep, ledger: Ledger, folder: Path) -> None:
        self._sweep, self._ledger, self._folder = sweep, ledger, folder
        self._newest = sweep.execution.keep_adapters
        self._next_at = self._newest or 0

    def pack_started(self, trials: Sequence[TrialConfig]) -> None:
        """Do nothing: only the end of a trial makes adapters superfluous."""

    def base_scored(self, setting: str, scores: Mapping[str, Measurement]) -> None:
        """Do nothing: a base model has no adapter."""

    def trial_ended(self, outcome: Outcome, auxiliary: bool) -> None:
        """Prune if enough trials have ended since the last time."""
        ended = len(self._ledger.state.outcomes)
        if self._newest is not None and ended >= self._next_at:
            self._next_at = ended + max(PRUNE_EVERY, ended // 4)
            cleaning.prune(cleaning.prunable(self._sweep, self._ledger.state, self._folder, self._newest))


def forecast_alone(sweep: Sweep, fit: Fit) -> PacedForecast:
    """Forecast what trials take, before Ray's nodes are known."""
    return PacedForecast.of(sweep, SweepForecast.of(sweep, sizes_of(sweep), fit, workers=1))
