"""What a sweep will cost: tokens, memory, time.

The numbers of `estimate` are for planning. Tokens are exact to a few per cent where the words of a setting are its
tokens (nano) and a rule of thumb elsewhere (4 characters a token). Memory is what a training step holds. Time is the
arithmetic divided by the speed of a matrix product measured on this machine; once trials of the sweep have ended, it
follows their pace.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from settings.base_models import NanoModel
from settings.example import Example
from settings.setting import Setting
from sweeps.case import Case
from sweeps.ledger import LedgerState
from sweeps.sweep import Sweep
from trainables.engine.memory import FLOAT, PROCESS_BYTES, ModelShape, training_bytes
from trainables.outcome import Outcome
from trainables.trial import TrialConfig

CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 4  # turn marks of a row
EFFICIENCY = 0.25  # of the measured matrix product that a training step reaches
PACK_SECONDS = 1.0  # of a pack whatever its size


@dataclass(frozen=True)
class ArmEstimate:
    """What one method on one setting will cost. A method that only others build on has an estimate of its own.

    Attributes:
        tokens: of training, of all trials.
        seconds: wall time of all trials.
        ended: how many of the trials have ended.
        took: wall seconds of each trial that ended and did not fail.
    """

    setting: str
    method: str
    configurations: int
    trials: int
    packs: int
    tokens: float
    seconds: float
    ended: int = 0
    took: tuple[float, ...] = ()

    @property
    def seconds_left(self) -> float:
        """Wall time of the trials that have not ended."""
        return self.seconds * max(0.0, 1 - self.ended / self.trials)


@dataclass(frozen=True)
class CostEstimate:
    """What a sweep will cost.

    Attributes:
        arms: the sweep's methods on its settings, and what these build on.
        workers: packs at a time.
        worker_bytes: peak memory of a worker.
        assumed: models that are not on this machine; they are taken to be as large as Qwen3-8B.
    """

    arms: tuple[ArmEstimate, ...]
    workers: int
    worker_bytes: float
    assumed: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Wall time of all arms, with all cores at work."""
        return sum(arm.seconds for arm in self.arms)

    @property
    def ended(self) -> int:
        """Trials of all arms that have ended."""
        return sum(arm.ended for arm in self.arms)

    @property
    def seconds_left(self) -> float:
        """Wall time of the trials that have not ended."""
        return sum(arm.seconds_left for arm in self.arms)

    @property
    def trials(self) -> int:
        """Trials of all arms."""
        return sum(arm.trials for arm in self.arms)

    @property
    def packs(self) -> int:
        """Packs of all arms."""
        return sum(arm.packs for arm in self.arms)

    @property
    def tokens(self) -> float:
        """Training tokens of all arms."""
        return sum(arm.tokens for arm in self.arms)


@dataclass(frozen=True)
class _Planned:
    """A method on a setting: the trials of each configuration, and the key of the arm that asks for them, if any."""

    case: Case
    title: str
    configurations: Sequence[Sequence[TrialConfig]]
    arm: str | None = None

    @property
    def trials(self) -> list[TrialConfig]:
        return [trial for seeds in self.configurations for trial in seeds]

    def outcomes(self, record: LedgerState) -> list[Outcome]:
        """Return the outcomes of the trials that have ended."""
        if self.arm is None:
            return [record.outcomes[trial.trial_id] for trial in self.trials if trial.trial_id in record.outcomes]
        return record.outcomes_of(self.arm)


def estimate(sweep: Sweep, workers: int, record: LedgerState | None = None) -> CostEstimate:
    """Estimate what the sweep costs from the start. Raise UserError for values that make no trial.

    Args:
        workers: packs at a time.
        record: the trials that have ended; the time of the others follows from theirs.
    """
    speed = measured_flops()
    arms, memory = [], 0.0
    assumed: dict[str, None] = {}
    for planned in _planned(sweep):
        trials, setting = planned.trials, planned.case.setting
        trial = planned.configurations[len(planned.configurations) // 2][0]
        shape = ModelShape.of(setting.base_model)
        if shape is None:
            shape = ModelShape.assumed()
            assumed[setting.base_model.to_json().get("source", setting.name)] = None
        tokens = sum(training_tokens(setting, trial) for trial in trials)
        packs = -(-len(trials) // sweep.trials_per_pack)
        # no weight gradients: 2 forward, 2 back to the adapters
        work = (4 * tokens + 2 * evaluation_tokens(setting) * len(trials)) * shape.parameters
        seconds = work / (speed * EFFICIENCY) + packs * PACK_SECONDS / workers
        outcomes = planned.outcomes(record) if record else []
        took = [end.cost.seconds / workers for end in outcomes if end.cost.seconds > 0 or end.status == "finished"]
        size = (len(planned.configurations), len(trials), packs, tokens)
        arms.append(ArmEstimate(planned.case.label, planned.title, *size, seconds, len(outcomes), tuple(took)))
        memory = max(memory, worker_bytes(sweep, setting, shape, trial))
    return CostEstimate(_at_measured_pace(arms), workers, memory, tuple(assumed))


def _at_measured_pace(arms: Sequence[ArmEstimate]) -> tuple[ArmEstimate, ...]:
    """Correct the seconds of each arm by its trials that have ended; of an arm without any, in proportion to others."""
    timed = [replace(arm, seconds=fmean(arm.took) * arm.trials) if arm.took else arm for arm in arms]
    measured = sum(arm.seconds for arm in timed if arm.took)
    estimated = sum(arm.seconds for arm in arms if arm.took)
    factor = measured / estimated if measured else 1.0
    return tuple(arm if arm.took else replace(arm, seconds=arm.seconds * factor) for arm in timed)


def _planned(sweep: Sweep) -> list[_Planned]:
    """List every arm, then the trials that these build on and no arm asks for.

    Configurations that will be searched are taken from the middle of their ranges.
    """
    planned = []
    for case in sweep.cases:
        for arm in case.arms:
            configurations = [sweep.trials_of(arm, values) for values in arm.space.examples(arm.budget)]
            planned.append(_Planned(case, arm.title, configurations, arm.key))
    listed = {trial.trial_id for method in planned for trial in method.trials}
    auxiliary: dict[tuple[str, str], tuple[Case, dict[str, list[TrialConfig]]]] = {}
    for method in planned:
        for trial in method.trials:
            for needed in trial.built_on:
                if needed.trial_id not in listed:
                    listed.add(needed.trial_id)
                    title = f"{needed.method.title}, for others"
                    _, needed_by_id = auxiliary.setdefault((method.case.label, title), (method.case, {}))
                    needed_by_id.setdefault(needed.configuration_id, []).append(needed)
    return planned + [
        _Planned(case, title, list(configurations.values())) for (_, title), (case, configurations) in auxiliary.items()
    ]


def training_tokens(setting: Setting, trial: TrialConfig) -> float:
    """Return the tokens that a trial trains on, reference passes included; 0 for a readout."""
    method = trial.method
    if trial.is_readout:
        return 0.0
    return trial.updates * sum(
        method.rows_per_step(stream, trial.sizes)
        * mean_tokens(setting, setting.streams[stream])
        * (2 if stream in method.reference else 1)
        for stream in method.streams
    )


def evaluation_tokens(setting: Setting) -> float:
    """Return the tokens of one evaluation: prompts and replies."""
    return sum(len(item.examples) * mean_tokens(setting, item.examples) for item in setting.evaluations)


def mean_tokens(setting: Setting, examples: Sequence[Example]) -> float:
    """Return the mean tokens of a row."""
    texts = [" ".join(message.content for message in example.messages) for example in examples]
    if isinstance(setting.base_model, NanoModel):
        return fmean(len(text.split()) for text in texts) + TEMPLATE_TOKENS
    return fmean(len(text) for text in texts) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS


def worker_bytes(sweep: Sweep, setting: Setting, shape: ModelShape, trial: TrialConfig) -> float:
    """Return the peak memory of a worker with a full pack of such trials: process, base model, and training."""
    lengths = {stream: mean_tokens(setting, setting.streams[stream]) for stream in trial.method.streams}
    members = [trial] * sweep.trials_per_pack
    execution = sweep.execution
    added = training_bytes(shape, members, lengths, execution.rows_per_forward, execution.gradient_checkpointing)
    return PROCESS_BYTES + FLOAT * shape.parameters + added


def measured_flops(probes: int = 20) -> float:
    """Measure the float32 operations per second of a matrix product on this machine, with all BLAS threads.

    The best of several short probes counts: other processes make some of them slower, and none faster.
    """
    size = 512
    matrix = np.ones((size, size), dtype=np.float32)
    best = np.inf
    for _ in range(probes):
        began = time.perf_counter()
        for _ in range(3):
            matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return 3 * 2 * size**3 / best
