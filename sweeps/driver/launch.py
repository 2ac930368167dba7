"""Runs a sweep on Ray, from whatever the ledger says is left, to the frontier's files.

The ledger is written before anything else learns of a result, so that a sweep that was stopped at any moment is
continued by running it again. Ray is not even started when nothing is left to train.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from settings.base_models import NanoModel
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.files import cache_root, remove, remove_partial, write_json
from settings.reference import setting_label, setting_of
from sweeps import find
from sweeps.description import describe
from sweeps.driver.local_cluster import QUIET, SILENT, LocalCluster, start_ray
from sweeps.driver.progress import Display
from sweeps.driver.resources import memory_of_worker, of_worker, packs_at_a_time, threads_of_worker
from sweeps.ledger import Ledger, LedgerState
from sweeps.names import default_uri, folder_of
from sweeps.results import disk, provenance
from sweeps.results.frontier_files import complete, publish, show_results
from sweeps.search.judging import GradingQueue, Judges
from sweeps.search.scheduler import PackScheduler
from sweeps.sweep import Sweep
from sweeps.tracking.store import Status
from sweeps.tracking.writer import Tracker
from trainables.bases.nano_cache import is_pretrained
from trainables.folder import SweepFolder

MAX_FAILURES = 3  # restarts of a pack whose worker died, from its checkpoint: killed now and then, not broken
PRUNE_EVERY = 50  # outcomes, at least
NODES_SECONDS = 5.0  # between two looks at whether Ray has any node left
CONTROLLER_BYTES = 200e6  # of the process that waits for the workers of a pack; Ray wants it to reserve something


@dataclass(frozen=True)
class RunSummary:
    """How a start of a sweep ended.

    Attributes:
        files: of the frontier.
        tracking_uri: of MLflow.
        interrupted: by the user.
        notes: code that was changed, arms that ended early and why, base models without a score, what the judge cost.
        num_failed: trials that failed, in this start or before.
        lost: methods all of whose trials failed.
    """

    files: tuple[Path, ...]
    tracking_uri: str
    interrupted: bool
    notes: tuple[str, ...]
    num_failed: int = 0
    lost: tuple[str, ...] = ()

    @property
    def retry_line(self) -> str:
        """What a user can do about failed trials."""
        return f"{self.num_failed} failed and stay so; once the cause is mended, add --retry-failed to the command"


def run(
    sweep: Sweep,
    *,
    output: Path,
    console: Console,
    tracking_uri: str | None = None,
    address: str | None = None,
    cluster: LocalCluster | None = None,
    file: Path | None = None,
    retry_failed: bool = False,
) -> RunSummary:
    """Run what is left of a sweep.

    Args:
        output: root of all sweeps' folders and of the default MLflow store.
        tracking_uri: of MLflow; None is SQLite under `output`.
        address: of a Ray cluster; None is a local one.
        cluster: a local one that was started before, so that it need not be waited for.
        file: that declares the sweep, kept so that the sweep's name finds it; None for one of the catalog.
        retry_failed: train trials again that failed before.

    Raises:
        UserError: the output belongs to another sweep or cannot be written, a model or its data cannot be read, another
            process runs this sweep.
    """
    output = output.resolve()
    sweep.check()
    for ref in sweep.settings:
        for caution in setting_of(ref).cautions:
            console.print(f"caution, {setting_of(ref).name}: {caution}", style="yellow", highlight=False)
    uri = tracking_uri or default_uri(output)
    folder = folder_of(sweep.name, output)
    with Ledger(folder, sweep.name, sweep.identity()) as ledger:
        sweep.check_settings(ledger.state.trials)
        describe(sweep).write(folder)
        if file:
            find.remember(folder, file)
        if retry_failed:
            ledger.retry(ledger.state.failed)
        for line in (cautions := provenance.changed(sweep, ledger)):
            console.print(f"caution: {line}", style="yellow", highlight=False, soft_wrap=True)
        marker = _Published(folder, uri, ledger)
        if marker.files is not None and complete(sweep, ledger.state):
            show_results(sweep, ledger.state, console)
            console.print("nothing was left to run", highlight=False)
            return RunSummary(marker.files, uri, False, (), *_failures(sweep, ledger.state))
        remove_partial(folder)
        driver = _Driver(sweep, ledger, folder, console)
        tracker = Tracker(uri, sweep, output / "artifacts" if tracking_uri is None else None, ledger=folder)
        files = driver.run(tracker, address, cluster)
        for problem in tracker.problems:
            console.print(f"MLflow: {problem}", style="yellow", highlight=False)
        if not driver.interrupted:
            show_results(sweep, ledger.state, console)
            if not tracker.problems:
                marker.write(files)
    usage = driver.judges.usage if driver.judges else ""
    notes = [*cautions, *driver.scheduler.notes, *filter(None, [usage])]
    return RunSummary(tuple(files), uri, driver.interrupted, tuple(notes), *_failures(sweep, ledger.state))


def _failures(sweep: Sweep, record: LedgerState) -> tuple[int, tuple[str, ...]]:
    """The number of failed trials, and the methods that nothing else came of."""
    lost = []
    for arm in sweep.arms:
        ends = {end.status for end in record.outcomes_of(arm.key)}
        if ends == {"failed"}:
            several = f" on {setting_label(arm.setting)}" if len(sweep.settings) > 1 else ""
            lost.append(f"{arm.title}{several}")
    return len(record.failed), tuple(dict.fromkeys(lost))


def worker_config(sweep: Sweep, folder: Path, nodes: Sequence[Mapping[str, float]] = ()) -> dict[str, Any]:
    """What `PackRun` and `train_together` have to know besides the pack.

    Args:
        folder: of the sweep.
        nodes: resources of Ray's nodes, by its names.
    """
    need = of_worker(sweep)
    return {
        "output": str(folder),
        "storage": str(SweepFolder(folder).train_storage),
        "num_workers": sweep.num_workers,
        "sharded": sweep.shard_base,
        "resources": need,
        "threads": threads_of_worker(sweep),
        "memory": memory_of_worker(sweep, nodes),
        "gpus": need.get("GPU", 0),
        "checkpoint_seconds": sweep.checkpoint_seconds,
        "rows_per_forward": sweep.rows_per_forward,
        "gradient_checkpointing": sweep.gradient_checkpointing,
        "cache_references": sweep.cache_references,
    }


class _Published:
    """Remembers that files and MLflow are up to date with a ledger of this length: a finished sweep then ends at once.

    Attributes:
        files: what was written; None when something has changed, or is gone.
    """

    def __init__(self, folder: Path, uri: str, ledger: Ledger) -> None:
        self._path, self._uri, self._ledger = SweepFolder(folder).published, uri, ledger
        self.files: tuple[Path, ...] | None = None
        if self._path.is_file():
            known = json.loads(self._path.read_text())
            files = tuple(Path(file) for file in known["files"])
            stores = [Path(uri.removeprefix("sqlite:///"))] if uri.startswith("sqlite:///") else []
            if known["of"] == self._state() and all(path.is_file() for path in (*files, *stores)):
                self.files = files

    def _state(self) -> list[Any]:
        return [content_id(self._uri, 16), self._ledger.path.stat().st_size]  # a URI may hold a password

    def write(self, files: Sequence[Path]) -> None:
        """Everything is up to date now."""
        write_json(self._path, {"of": self._state(), "files": [str(file) for file in files]})


def _judges(sweep: Sweep) -> Judges | None:
    """The judges of a sweep's settings, tried once so that a missing key is found before anything runs."""
    models = {str(evaluation.judge) for ref in sweep.settings for evaluation in setting_of(ref).judged}
    if not models:
        return None
    judges = Judges(sweep.judge, cache_root() / "verdicts.db")
    for model in models:
        judges(model)
    return judges


class _Driver:
    """One start of a sweep: the searcher, what it tells others, and Ray around it."""

    def __init__(self, sweep: Sweep, ledger: Ledger, folder: Path, console: Console) -> None:
        self.sweep, self.folder = sweep, folder
        self.interrupted = False
        self._looked = time.monotonic()
        self._ledger, self._prune_at = ledger, sweep.keep_adapters or 0
        self.tracker: Tracker | None = None
        total = sum(arm.budget for arm in sweep.arms) * len(sweep.seed_values)
        objectives = sweep.objectives_of(sweep.settings[0])
        asked = ledger.state.configurations
        known = [end for end in ledger.state.outcomes.values() if end.trial.configuration_id in asked]
        self.display = Display(console, sweep.name, total, len(known), objectives, title=sweep.title_of, outcomes=known)
        self.judges = _judges(sweep)
        judging = GradingQueue(folder, self.judges) if self.judges else None
        self.scheduler = PackScheduler(
            sweep, ledger, folder, observers=[self], judging=judging, interrupted=lambda: self.interrupted
        )
        self._judging = judging
        self.display.judging = self._judging_now

    def run(self, tracker: Tracker, address: str | None, cluster: LocalCluster | None) -> list[Path]:
        """Train what is left, and publish the frontier. Returns its files."""
        tracker.start(record=self._ledger.state)
        status: Status = "FAILED"
        try:
            with self.display:
                self.train(tracker, address, cluster)
            self.tidy()
            files = publish(self.sweep, self._ledger.state, self.folder, tracker)
            status = "KILLED" if self.interrupted else "FINISHED"
        finally:
            tracker.close(status)
        return files

    def train(self, tracker: Tracker, address: str | None, cluster: LocalCluster | None) -> None:
        """Pre-train what is missing, start Ray, and let Tune run packs until the searcher has no more."""
        self.tracker = tracker
        if self.scheduler.done:
            return
        try:
            with _quiet(), self._interruptible():
                self._pretrain()
                if not self.interrupted:
                    self.display.say("starting Ray")
                    self._tune(address, cluster)
        finally:
            self._end_judging()
        if self.scheduler.problem:
            raise self.scheduler.problem

    def tidy(self) -> None:
        """Delete what killed workers left, and checkpoints that nobody will continue from."""
        remove_partial(self.folder)
        if self.scheduler.done:
            remove(SweepFolder(self.folder).checkpoints)

    def _judging_now(self) -> str:
        """How much waits for the judge, e.g. "2 with the judge (310 calls)"."""
        waiting = self._judging.pending if self._judging else 0
        return f"{waiting} with the judge ({self.judges.calls} calls)" if waiting and self.judges else ""

    def _end_judging(self) -> None:
        """Verdicts that are on their way are kept; the next start asks for the rest."""
        if self.judges and self._judging:
            self.judges.close()
            self._judging.close()

    def pack_started(self, trials: Any) -> None:
        """Trials went to a worker as one pack."""
        self.display.started(trials)
        assert self.tracker is not None
        self.tracker.trials_started(trials)

    def base_scored(self, setting: str, scores: Any) -> None:
        """The untouched base model of a setting was scored."""
        assert self.tracker is not None
        self.tracker.base(setting, scores)

    def _prune(self) -> None:
        """Now and then, ever more rarely: looking for what may go takes as long as there are outcomes."""
        ended = len(self._ledger.state.outcomes)
        if self.sweep.keep_adapters is not None and ended >= self._prune_at:
            self._prune_at = ended + max(PRUNE_EVERY, ended // 4)
            disk.prune(disk.prunable(self.sweep, self._ledger.state, self.folder, self.sweep.keep_adapters))

    def trial_ended(self, outcome: Any, auxiliary: bool) -> None:
        """A trial ended."""
        self._prune()
        self.display.outcome(outcome, auxiliary)
        assert self.tracker is not None
        self.tracker.outcome(outcome, auxiliary)

    def progress(self, result: Mapping[str, Any]) -> None:
        """A worker reported: show it, and plot it."""
        if result.get("note"):
            self.display.note(str(result["note"]))
        values = result.get("progress") or {}
        self.display.progress(values, tuple(result.get("steps", (0, 0))))
        assert self.tracker is not None
        for trial_id, metrics in values.items():
            rest = {name: value for name, value in metrics.items() if name != "step"}
            self.tracker.progress(trial_id, int(metrics["step"]), rest)

    def _pretrain(self) -> None:
        for ref in self.sweep.settings:
            model = setting_of(ref).base_model
            if isinstance(model, NanoModel) and not is_pretrained(model):
                from trainables.bases.pretraining import ensure_pretrained

                self.display.say("pre-training the nano base model (once; it is cached)")
                ensure_pretrained(model, self._pretraining)

    def _pretraining(self, done: int, total: int) -> None:
        self.display.message = f"pre-training the nano base model (once; it is cached): step {done}/{total}"
        if self.interrupted:
            raise KeyboardInterrupt

    def _tune(self, address: str | None, cluster: LocalCluster | None) -> None:
        import ray
        from ray import tune

        from sweeps.driver.tune_callbacks import Reporter, StopOnProblem
        from sweeps.search.searcher import PackSearcher

        with _ray(address, cluster, together=self.sweep.num_workers > 1):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            packs = packs_at_a_time(self.sweep, nodes)
            workers = packs * self.sweep.num_workers
            self.display.say(f"starting {workers} worker{'s' if workers > 1 else ''}")
            reporter = Reporter(self.progress)
            searcher = PackSearcher(self.scheduler, reason=reporter.reason)
            storage = SweepFolder(self.folder).tune_storage
            try:
                tune.Tuner(
                    self._trainable(),
                    param_space=worker_config(self.sweep, self.folder, nodes),
                    tune_config=tune.TuneConfig(
                        search_alg=searcher, num_samples=-1, max_concurrent_trials=packs, reuse_actors=True
                    ),
                    run_config=tune.RunConfig(
                        name=self.sweep.name,
                        storage_path=str(storage),
                        verbose=0,
                        callbacks=[reporter],
                        stop=StopOnProblem(self._must_stop),
                        failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                    ),
                ).fit()
            finally:
                remove(storage)
                remove(SweepFolder(self.folder).train_storage)

    def _trainable(self) -> Any:
        """What runs a pack, with the resources that Tune reserves for it."""
        from ray import tune

        from trainables.trainable import PackTrainable, train_together

        if self.sweep.num_workers > 1:  # Ray Train reserves for its workers; what starts them only waits
            return tune.with_resources(train_together, {"cpu": 0, "memory": CONTROLLER_BYTES})
        need = {kind.lower(): amount for kind, amount in of_worker(self.sweep).items()}
        return tune.with_resources(PackTrainable, need)

    def _must_stop(self) -> bool:
        """Whether the user or a problem ends this start. Tune asks all the time, also while nothing runs.

        Tune itself would wait for ever for a cluster that is gone.
        """
        import ray

        if time.monotonic() - self._looked > NODES_SECONDS:
            self._looked = time.monotonic()
            if not any(node["Alive"] for node in ray.nodes()):
                self.scheduler.abort(UserError("Ray has lost all of its nodes; `selgen sweep resume` continues"))
        return self.interrupted or self.scheduler.problem is not None

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C stops after the slices that run; a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True
            self.display.say("stopping (Ctrl-C again to stop at once)")

        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _ray(address: str | None, cluster: LocalCluster | None, together: bool) -> Iterator[None]:
    """A connection to the Ray cluster at an address, else to a local one: `cluster` if it will do."""
    import ray

    if cluster and (address or together):
        cluster.close()
        cluster = None
    if address:
        ray.init(address=address, runtime_env={"env_vars": QUIET}, **SILENT)
    elif cluster:
        ray.init(address=cluster.address, **SILENT)
    else:
        start_ray(dashboard=together)
    try:
        yield
    finally:
        ray.shutdown()
        if cluster:
            cluster.begin_shutdown()  # it takes seconds, in which the frontier is drawn


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings of Ray and friends that a user cannot act on from the terminal."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a worker's error is kept as the reason of its trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
