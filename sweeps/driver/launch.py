"""Run what the ledger says is left of a sweep, up to the frontier's files.

The ledger is written before anything else learns of a result, so a sweep that was stopped at any moment continues when
it is run again. If nothing is left to train, Ray is not started.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.tables.mlflow_checks import check_usable, kept_runs
from settings.common.addresses import sqlite_file
from settings.common.content import content_id
from settings.common.files import check_cache_root, remove_partial, write_json
from sweeps.budget import spending_text
from sweeps.case_check import check_case, few_questions
from sweeps.description import describe
from sweeps.driver.local_cluster import LocalCluster
from sweeps.driver.run_options import RunOptions
from sweeps.find import remember
from sweeps.ledger import Ledger, LedgerState
from sweeps.names import default_uri, folder_of
from sweeps.results import provenance
from sweeps.results.frontier_files import complete, show_results
from sweeps.results.redeclared import differences
from sweeps.sweep import Sweep
from sweeps.tracking.writer import Tracker, lacks
from trainables.folder import SweepFolder


@dataclass(frozen=True)
class RunSummary:
    """How a start of a sweep ended.

    Attributes:
        files: the frontier's files.
        tracking_uri: URI of MLflow.
        interrupted: whether the user stopped it.
        notes: changed code, arms that ended early and why, base models without a score, what judges and servers
            did.
        num_failed: trials that failed, in this start or before.
        lost: methods whose trials all failed.
    """

    files: tuple[Path, ...]
    tracking_uri: str
    interrupted: bool
    notes: tuple[str, ...]
    num_failed: int = 0
    lost: tuple[str, ...] = ()

    @property
    def retry_line(self) -> str:
        """What the user can do about failed trials."""
        return f"{self.num_failed} failed and stay so; once the cause is fixed, add --retry-failed to the command"


def run(
    sweep: Sweep,
    options: RunOptions,
    console: Console,
    *,
    file: Path | None = None,
    cluster: LocalCluster | None = None,
) -> RunSummary:
    """Run what is left of a sweep.

    Args:
        file: the file that declares the sweep, recorded so that the name finds it; None for a sweep of the catalog.
        cluster: a local Ray cluster that was started early, to save the wait.

    Raises:
        UserError: the output belongs to another sweep or cannot be written, the MLflow store cannot be used, a model or
            its data cannot be read, or another process runs this sweep.
    """
    output = options.output.resolve()
    sweep.check()
    for case in sweep.cases:
        for remark in case.setting.remarks:
            console.print(f"{case.setting.name}: {remark}", highlight=False, markup=False)
        for caution in case.setting.cautions:
            console.print(f"caution, {case.setting.name}: {caution}", style="yellow", highlight=False)
    uri = options.tracking_uri or default_uri(output)
    check_usable(uri)
    check_cache_root()
    artifacts = output / "artifacts" if options.tracking_uri is None else None
    folder = folder_of(sweep.name, output)
    fresh = not SweepFolder(folder).ledger.exists()
    if fresh:  # before the ledger fixes the declaration, so that a refused sweep can be changed
        _check_cases(sweep, console)
    with Ledger(folder, sweep.name, sweep.identity(), lambda: differences(sweep, folder)) as ledger:
        _open(sweep, ledger, folder, file, options.retry_failed, console)
        for line in (cautions := provenance.changed(sweep, ledger)):
            console.print(f"caution: {line}", style="yellow", highlight=False, soft_wrap=True)
        published = Published(folder, uri, ledger, sweep.name)
        if published.files is not None and complete(sweep, ledger.state):
            lacking = "" if published.runs_are_there else lacks(ledger.state, sweep, uri, artifacts)
            if not lacking:
                show_results(sweep, ledger.state, console)
                console.print("nothing was left to run", highlight=False)
                return RunSummary(published.files, uri, False, (), *_failures(sweep, ledger.state))
            console.print(f"nothing is left to run, but MLflow lacks {lacking}: writing it again", highlight=False)
        if not fresh:
            _check_cases(sweep, console)
        from sweeps.driver.driver import Driver  # imports Optuna, which a finished sweep does not need

        remove_partial(folder)
        tracker = Tracker(uri, sweep, artifacts, ledger=folder)
        driver = Driver(sweep, ledger, folder, console, tracker)
        files = driver.run(options.address, cluster)
        for problem in tracker.problems:
            console.print(f"MLflow: {problem}", style="yellow", highlight=False)
        if not driver.interrupted:
            show_results(sweep, ledger.state, console)
            if not tracker.problems:
                published.write(files)
    account = ledger.state.account
    spent = f"spent so far: {spending_text(account.spent, sweep.budget, sweep.on_gpu)}"
    spending = [spent] if sweep.budget and not account.stopped else []
    notes = [*cautions, *driver.scheduler.notes, *driver.endpoints.usage, *spending]
    return RunSummary(tuple(files), uri, driver.interrupted, tuple(notes), *_failures(sweep, ledger.state))


def _open(sweep: Sweep, ledger: Ledger, folder: Path, file: Path | None, retry_failed: bool, console: Console) -> None:
    """Write what commands that only read need, and take back the trials to be tried again. Raise UserError."""
    sweep.check_settings(ledger.state.trials)
    describe(sweep).write(folder)
    if file:
        remember(folder, file)
    if retry_failed:
        ledger.retry(ledger.state.failed)
    _judge_again(ledger, folder, console)


def _check_cases(sweep: Sweep, console: Console) -> None:
    """Check models, adapters and rows, and print cautions. Raise UserError."""
    for case in sweep.cases:
        for caution in (*check_case(sweep, case), *few_questions(case)):
            console.print(f"caution, {case.setting.name}: {caution}", style="yellow", highlight=False, soft_wrap=True)


def _judge_again(ledger: Ledger, folder: Path, console: Console) -> None:
    """Take back the outcomes of trials that are invalid only because they could not be judged."""
    unjudged = ledger.state.unjudged(lambda trial_id: SweepFolder(folder).observations(trial_id).is_file())
    if unjudged:
        ledger.retry(unjudged)
        what = (
            "1 trial that could not be judged is"
            if len(unjudged) == 1
            else f"{len(unjudged)} trials that could not be judged are"
        )
        console.print(f"{what} judged again, from their kept replies", highlight=False)


def _failures(sweep: Sweep, record: LedgerState) -> tuple[int, tuple[str, ...]]:
    """Return the number of failed trials, and the methods whose trials all failed."""
    lost = []
    for case in sweep.cases:
        for arm in case.arms:
            if {end.status for end in record.outcomes_of(arm.key)} == {"failed"}:
                lost.append(f"{arm.title} on {case.label}" if len(sweep.cases) > 1 else arm.title)
    return len(record.failed), tuple(dict.fromkeys(lost))


class Published:
    """Records that files and MLflow are up to date with a ledger of this length, so that a finished sweep ends at once.

    Attributes:
        files: the files written; None if something has changed or is gone.
        runs_are_there: whether a local MLflow store still has exactly its runs; False if that is not known.
    """

    def __init__(self, folder: Path, uri: str, ledger: Ledger, experiment: str) -> None:
        self._path, self._uri, self._ledger = SweepFolder(folder).published, uri, ledger
        self._experiment = experiment
        self.files: tuple[Path, ...] | None = None
        self.runs_are_there = False
        if self._path.is_file():
            published = json.loads(self._path.read_text(encoding="utf-8"))
            files = tuple(Path(file) for file in published["files"])
            stores = [store] if (store := sqlite_file(uri)) else []
            if published["of"] == self._state() and all(path.is_file() for path in (*files, *stores)):
                self.files = files
                self.runs_are_there = published.get("runs") is not None and published["runs"] == self._runs()

    def _state(self) -> list[Any]:
        return [content_id(self._uri, 16), self._ledger.path.stat().st_size]  # a URI may hold a password

    def _runs(self) -> str | None:
        runs = kept_runs(self._uri, self._experiment)
        return content_id(runs) if runs else None

    def write(self, files: Sequence[Path]) -> None:
        """Record that everything is up to date now."""
        facts = {"of": self._state(), "files": [str(file) for file in files], "runs": self._runs()}
        write_json(self._path, facts)
