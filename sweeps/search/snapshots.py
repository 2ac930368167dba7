"""The checkpoints of trainings in progress that configurations of the sweep evaluate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sweeps.sweep import Sweep
from trainables.trial import TrialConfig


def checkpoints_read(sweep: Sweep) -> dict[str, set[int]]:
    """Return method -> the updates at which configurations that list or fix a `checkpoint_step` evaluate its trainings.

    The method is the one that trains, e.g. plain fine-tuning for Safe LoRA, whatever its coefficients and setting.
    """
    read: dict[str, set[int]] = {}
    for arm in sweep.arms:
        points = [point.get("checkpoint_step") for point in arm.space.points or ()]
        steps = {step for step in (*points, arm.space.fixed.get("checkpoint_step")) if step is not None}
        if steps:
            training = sweep.trials_of(arm, arm.space.every_option()[0])[0].training
            read.setdefault(training.method.name, set()).update(steps)
    return read


def snapshots_of(trials: Iterable[TrialConfig], read: Mapping[str, Iterable[int]]) -> tuple[int, ...]:
    """Return the updates after which adapters of these trainings are kept.

    Args:
        read: see `checkpoints_read`.
    """
    return tuple(sorted({step for trial in trials for step in read.get(trial.method.name, ())}))
