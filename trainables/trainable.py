"""Ray glue: how a job runs in a Ray process. `PackRun` does the work.

`PackTrainable` is a long-lived Tune actor that does one job after another. `train_together` does one job on several
workers through Ray Train. `trainables.messages` defines configurations and results.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ray import tune

from trainables.folder import SweepFolder
from trainables.messages import OutOfMemory, PackReport, worker_from_config

if TYPE_CHECKING:
    from trainables.run import PackRun

TRAIN_RESTARTS = 1  # of a pack's workers, from its checkpoint
PLACEMENT_FAILURES = 3  # of Ray Train's controller before giving up the pack: it would wait for workers for ever


class PackTrainable(tune.Trainable):
    """Do the job that the configuration holds, slice by slice.

    With `reuse_actors=True` the process stays, and with it the base model.
    """

    def setup(self, config: dict[str, Any]) -> None:
        from trainables.run import WorkerCache  # takes seconds to import, which the driver need not spend

        warnings.filterwarnings("ignore", category=FutureWarning)
        self._cache = WorkerCache()
        self._run = self._run_of(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.stop()
        self._run = self._run_of(new_config)
        return True

    def _run_of(self, config: dict[str, Any]) -> PackRun:
        from trainables.run import PackRun

        return PackRun(config, self._cache)

    def step(self) -> dict[str, Any]:
        return self._run.slice().to_result()

    def cleanup(self) -> None:
        self._run.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing: packs keep their checkpoints in the sweep's folder, where later drivers find them."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing; see `save_checkpoint`."""


def train_together(config: dict[str, Any]) -> None:
    """Do the job of a Tune configuration on several workers: a Tune function with the results of `PackTrainable`.

    Ray Train reserves the workers' resources; the Tune trial itself must ask for none. If one worker runs out of
    memory, all end, and the others' errors do not mention memory; this function reports the lack of memory anyway.
    """
    from ray import train  # takes seconds to import, which a pack on one worker need not spend
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    worker = worker_from_config(config)
    trainer = TorchTrainer(
        _work,
        train_loop_config=config,
        scaling_config=train.ScalingConfig(
            num_workers=worker.num_workers,
            use_gpu=worker.gpus > 0,
            resources_per_worker=dict(worker.resources),
        ),
        torch_config=TorchConfig(backend="nccl" if worker.gpus else "gloo"),
        run_config=train.RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=str(SweepFolder(worker.folder).train_storage),
            callbacks=[TuneReportCallback()],
            failure_config=train.FailureConfig(
                max_failures=TRAIN_RESTARTS, controller_failure_limit=PLACEMENT_FAILURES
            ),
        ),
    )
    try:
        trainer.fit()
    except train.WorkerGroupError as error:
        last_lines = [str(failure).strip().rpartition("\n")[2] for failure in error.worker_failures.values()]
        reasons = [line for line in last_lines if line.startswith(MemoryError.__name__)]
        if not reasons:
            raise
        tune.report(_unfinished(PackReport(end=OutOfMemory(reasons[0]))))


def _work(config: dict[str, Any]) -> None:
    """Do the job as one of the workers. Tune sees what the first one reports."""
    from ray import train

    from trainables.engine.process_group import TorchProcessGroup
    from trainables.run import PackRun

    warnings.filterwarnings("ignore", category=FutureWarning)
    worker = worker_from_config(config)
    run = PackRun(config, workers=TorchProcessGroup(sharded=worker.sharded, cpu=worker.gpus == 0))
    report = PackReport()
    while report.end is None:
        report = run.slice()
        if isinstance(report.end, OutOfMemory):  # the others are in the middle of a step, which only an error ends
            raise MemoryError(report.end.reason)
        train.report(_unfinished(report))
    run.stop()


def _unfinished(report: PackReport) -> dict[str, Any]:
    """Return a Tune result without "done", which would make Tune stop the trial while Ray Train shuts down."""
    result = report.to_result()
    del result["done"]
    return result
