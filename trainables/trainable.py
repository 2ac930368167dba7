"""Ray glue: how a pack runs in a Ray process. Everything that it does is `PackRun`.

`PackTrainable` is a long-lived Tune actor that trains one pack after another. `train_together` trains one pack on
several workers through Ray Train.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from ray import tune

if TYPE_CHECKING:
    from trainables.run import PackRun

TRAIN_RESTARTS = 1  # of the workers of a pack, from its checkpoint
PLACEMENT_FAILURES = 3  # of Ray Train's controller, before the pack is given up: it would wait for workers for ever


class PackTrainable(tune.Trainable):
    """Trains the pack that its configuration holds, slice by slice: see `PackRun` for configuration and results.

    With `reuse_actors=True` the process stays, and with it the base model.
    """

    def setup(self, config: dict[str, Any]) -> None:
        warnings.filterwarnings("ignore", category=FutureWarning)
        self._run = _pack_run(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.stop()
        self._run = _pack_run(new_config)
        return True

    def step(self) -> dict[str, Any]:
        return self._run.slice()

    def cleanup(self) -> None:
        self._run.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: packs keep their checkpoints by content id under `output`, where any later driver finds them."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see `save_checkpoint`."""


def _pack_run(config: dict[str, Any]) -> PackRun:
    from trainables.run import PackRun  # takes seconds to import, which the driver need not pay

    return PackRun(config)


def train_together(config: dict[str, Any]) -> None:
    """A Tune function that trains the pack of its configuration on several workers, with the results of `PackRun`.

    The workers' resources are Ray Train's; the Tune trial itself must ask for none. A worker without memory ends them
    all, and the others' errors say nothing of it; that is reported as one worker alone would.

    Args:
        config: as for `PackRun`, and
            num_workers: how many.
            resources: of each, by Ray's names.
            storage: folder for Ray Train's own state, on all nodes.
            sharded: share the base model's layers out over the workers.
    """
    from ray import train  # takes seconds to import, which a pack on one worker need not pay
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trainer = TorchTrainer(
        _work,
        train_loop_config=config,
        scaling_config=train.ScalingConfig(
            num_workers=config["num_workers"],
            use_gpu=config["gpus"] > 0,
            resources_per_worker=config["resources"],
        ),
        torch_config=TorchConfig(backend="nccl" if config["gpus"] else "gloo"),
        run_config=train.RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=config["storage"],
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
        tune.report({"out_of_memory": reasons[0]})


def _work(config: dict[str, Any]) -> None:
    """One of the workers. What the first one reports is what Tune sees."""
    from ray import train

    from trainables.engine.process_group import TorchProcessGroup
    from trainables.run import PackRun

    warnings.filterwarnings("ignore", category=FutureWarning)
    run = PackRun(config, TorchProcessGroup(sharded=config["sharded"], cpu=config["gpus"] == 0))
    done = False
    while not done:
        result = run.slice()
        if "out_of_memory" in result:  # the other workers are in the middle of a step, which only an error ends
            raise MemoryError(result["out_of_memory"])
        done = result.pop("done")  # Tune would take the trial down in the middle of Ray Train's end
        train.report(result)
    run.stop()
