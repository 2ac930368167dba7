"""Write a sweep into an MLflow store from its driver, under the names in the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.statistics.arrays import finite_or_none
from analysis.tables import long_tags, mlflow_client, schema
from analysis.tables.mlflow_checks import reason_of
from settings.common.addresses import without_password
from settings.common.errors import UserError
from settings.setting import Measurement
from sweeps.sweep import Sweep
from sweeps.tracking import pages, projection
from sweeps.tracking.models import FrontierAdapter, LoggedAdapters
from sweeps.tracking.projection import Point
from sweeps.tracking.run_writers import RunStatus
from sweeps.tracking.stored_runs import failure_of
from sweeps.tracking.sweep_runs import SweepRuns, open_client
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from analysis.findings.frontier import Estimate, FrontierPoint

RUN_STATUS: Mapping[str, RunStatus] = {
    "finished": "FINISHED",
    "invalid": "FAILED",
    "failed": "FAILED",
    "stopped": "KILLED",
}


class SweepStore(SweepRuns):
    """Writes one sweep to a store, from one thread. Every method may be repeated after a failure.

    Writes may wait for the next `flush` or `commit`; after a failure, repeat everything since the last one.
    """

    def __init__(self, uri: str, sweep: Sweep, artifact_root: Path | None) -> None:
        super().__init__(uri, sweep, artifact_root)
        self._progress: dict[str, list[Point]] = {}  # trial id -> points that wait for the next flush
        self._started: dict[str, TrialConfig] = {}  # trial id -> running trial, whose parameters may be missing
        self._outcomes: dict[str, dict[int, Outcome]] = {}  # configuration id -> seed -> outcome
        self._bases: dict[str, dict[str, float | None]] = {}

    def open_sweep(self, description: str) -> None:
        """Make the sweep's run, or reopen it."""
        tags = projection.sweep_tags(self._sweep) | self._shared | {schema.KIND: schema.SWEEP_RUN}
        if description:
            tags[schema.DESCRIPTION] = description
        run = self._run_of_sweep()
        self._writer.reopen(run.run_id)
        self._write(run, tags=tags, params=projection.sweep_params(self._sweep))
        rows = [each for case in self._datasets.values() for each in case.all()]
        self._writer.log_inputs(self._experiment, run.run_id, rows)
        for key, value in pages.experiment_tags(self._sweep.cases[0].objective_names).items():
            self.client.set_experiment_tag(self._experiment, key, value)

    def started(self, trial: TrialConfig) -> None:
        """Make the trial's run, or reopen one that an earlier driver left unfinished.

        Its parameters go with the next batch that is due anyway: that of the next flush, or of its outcome.
        """
        self._delete_failed_run(trial)
        run = self._run_of_trial(trial)
        for stored in (run, self._run_of_configuration(trial)):
            if stored.interrupted:
                self._writer.reopen(stored.run_id)
                stored.interrupted = False
        if not run.ended:
            self._started[trial.trial_id] = trial

    def _delete_failed_run(self, trial: TrialConfig) -> None:
        """Delete the run of a trial that is trained or judged again: its contents no longer hold."""
        run = self._runs.trials.get(trial.trial_id)
        if run and run.failure is not None:
            self.client.delete_run(run.run_id)
            del self._runs.trials[trial.trial_id]

    def progress(self, trial_id: str, step: int, metrics: Mapping[str, float], now: int) -> None:
        """Keep training metrics until the next flush."""
        self._progress.setdefault(trial_id, []).extend(projection.progress_points(step, metrics, now))

    def flush(self) -> None:
        """Write progress and parameters of running trials, and drop those of trials that ended or are unknown."""
        for trial_id in list(dict.fromkeys([*self._progress, *self._started])):
            run, trial = self._runs.trials.get(trial_id), self._started.get(trial_id)
            if run and not run.ended:
                params = projection.trial_params(trial) if trial else None
                self._write(run, metrics=self._progress.get(trial_id, ()), params=params)
            self._progress.pop(trial_id, None)
            self._started.pop(trial_id, None)
        self.commit()

    def outcome(self, outcome: Outcome, auxiliary: bool = False) -> None:
        """Write how a trial ended, and its configuration's means once all seeds are in."""
        trial, reason = outcome.trial, projection.short_reason(outcome)
        if (outcome.status, reason) != self._run_of_trial(trial).failure:
            self._delete_failed_run(trial)
        run = self._run_of_trial(trial)
        if run.auxiliary != auxiliary:  # the search may later ask for a trial that others have built on
            for stored in (run, self._run_of_configuration(trial)):
                self._write(stored, tags={schema.AUXILIARY: str(auxiliary).lower()})
            run.auxiliary = auxiliary
        if not run.ended:
            metrics = self._progress.get(trial.trial_id, []) + projection.outcome_points(outcome)
            metrics += projection.cost_points(outcome, self._sweep)
            params, tags = projection.trial_params(trial), projection.outcome_tags(outcome)
            self._log_inputs(run, trial)
            self._write(run, metrics=metrics, params=params, tags=tags)
            self._writer.end(run.run_id, RUN_STATUS[outcome.status])
            run.ended, run.failure = True, failure_of(outcome.status, reason)
            run.status = outcome.status
        self._progress.pop(trial.trial_id, None)
        self._started.pop(trial.trial_id, None)
        self._outcomes.setdefault(trial.configuration_id, {})[trial.seed] = outcome
        self._finish_configuration(trial)

    def _finish_configuration(self, trial: TrialConfig) -> None:
        outcomes = self._outcomes[trial.configuration_id]
        if not set(self._sweep.seed_values) <= set(outcomes):
            return
        names = self._sweep.case_of(trial.setting).objective_names
        finished = [outcome for outcome in outcomes.values() if projection.counts_in_means(outcome, names)]
        run = self._run_of_configuration(trial)
        if run.ended and (schema.NUM_SEEDS, len(finished)) in run.points:
            return
        points, tags = projection.configuration_points(finished), {schema.STATUS: "finished"}
        self._write(run, metrics=points, tags=tags, revise=True)
        self._writer.end(run.run_id, "FINISHED" if finished else "FAILED")
        run.ended = True

    def frontier(self, points: Sequence[FrontierPoint], others: Mapping[str, Mapping[str, Estimate]]) -> None:
        """Write means, intervals and frontier of configurations that have runs.

        Args:
            others: configuration -> score that is not an objective -> estimate.
        """
        for point in points:
            run = self._runs.configurations.get(point.configuration)
            if run is None or not point.seeds:
                continue
            metrics = projection.frontier_points(point, others.get(point.configuration, {}))
            on_front = str(point.on_front).lower()
            tags = {schema.FRONTIER: on_front} if run.on_front != on_front else {}
            self._write(run, metrics=metrics, tags=tags, revise=True)
            run.on_front = on_front

    def adapters(self, adapters: Sequence[FrontierAdapter]) -> None:
        """Log the adapters of all configurations on the frontier that are not logged yet."""
        client = self.client
        self._models = self._models or LoggedAdapters(client, self._experiment)
        for adapter in adapters:
            run = self._runs.trials.get(adapter.trial.trial_id)
            if run and adapter.directory.is_dir() and not self._models.has(adapter.trial.trial_id):
                tags = self._shared | projection.configuration_tags(self._sweep, adapter.trial)
                datasets = self._datasets[self._sweep.case_of(adapter.trial.setting).label]
                self._models.log(adapter, run.run_id, tags, datasets)
        self._models.mark({adapter.trial.trial_id for adapter in adapters})

    def bases(self, scores_of: Mapping[str, Mapping[str, Measurement]]) -> None:
        """Write base models' scores: score -> mean, or setting -> score -> mean if the sweep has several settings."""
        for setting, scores in scores_of.items():
            self._bases[setting] = {name: finite_or_none(score.mean) for name, score in scores.items()}
        single = len(self._sweep.settings) == 1
        shown = next(iter(self._bases.values()), {}) if single else self._bases
        self._write(self._run_of_sweep(), tags={schema.BASE_SCORES: json.dumps(shown)})

    def artifact(self, path: Path, folder: str | None) -> None:
        """Copy a file or folder to the sweep's artifacts. Raise FileNotFoundError."""
        run_id = self._run_of_sweep().run_id
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    def describe(self, markdown: str, figure: str = "") -> None:
        """Set the sweep's description, and show its first line, with links, above the table of runs.

        Args:
            markdown: `{run_id}` in it stands for the run's id.
            figure: path of the artifact that the sweep's page shows.
        """
        run = self._run_of_sweep()
        text = projection.shortened(markdown.replace("{run_id}", run.run_id), long_tags.LONGEST)
        self._write(run, tags={schema.DESCRIPTION: text})
        note = pages.experiment_note(markdown.partition("\n")[0], self._experiment, run.run_id, figure)
        self.client.set_experiment_tag(self._experiment, schema.DESCRIPTION, note)

    def close(self, status: RunStatus) -> None:
        """End the sweep's run, and unfinished runs as killed: a later driver reopens them."""
        self.flush()
        for run in [*self._runs.trials.values(), *self._runs.configurations.values()]:
            if not run.ended:
                self._writer.end(run.run_id, "KILLED")
        self._writer.end(self._run_of_sweep().run_id, status)
        self.commit()


def log_files(uri: str, run_id: str, files: Sequence[Path], folder: str) -> None:
    """Copy files to a run's artifacts. Raise UserError."""
    try:
        client = open_client(uri)
        for file in files:
            client.log_artifact(run_id, str(file), folder)
    except mlflow_client.store_errors() as error:
        where = without_password(uri)
        reason = reason_of(error, uri)
        raise UserError(f"{files[0].parent} is written, but cannot be logged to {where}: {reason}") from error
