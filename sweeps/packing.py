"""Which trials train side by side, and what a sweep will cost: tokens, memory, time.

The figures of `estimate` are for planning. Tokens are exact to a few per cent where the words of a setting are its
tokens (nano) and a rule of thumb elsewhere (4 characters a token); memory counts what a training step holds; time
divides the arithmetic by the speed of a matrix product measured on this machine, and is good to a factor of two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from settings.setting import Example, NanoModel, Setting
from sweeps.sweep import Sweep, setting_label, setting_of
from trainables.memory import FLOAT, PROCESS_BYTES, ModelShape, training_bytes
from trainables.trial import TrialConfig

CHARACTERS_PER_TOKEN = 4
TEMPLATE_TOKENS = 4  # turn marks of a row
EFFICIENCY = 0.25  # of the measured matrix product that a training step reaches


def deal(size: int) -> Callable[[Sequence[TrialConfig]], list[list[TrialConfig]]]:
    """A function that joins trials into packs of at most `size`.

    Seeds of one configuration stay together; configurations join while they share base model and adapted layers.
    """

    def join(trials: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
        shelves: dict[object, list[list[TrialConfig]]] = {}
        for group in _by_configuration(trials):
            packs = shelves.setdefault((group[0].data, group[0].adapter.targets), [])
            for start in range(0, len(group), size):
                part = group[start : start + size]
                if packs and len(packs[-1]) + len(part) <= size:
                    packs[-1].extend(part)
                else:
                    packs.append(part)
        return [pack for packs in shelves.values() for pack in packs]

    return join


def _by_configuration(trials: Iterable[TrialConfig]) -> list[list[TrialConfig]]:
    groups: dict[str, list[TrialConfig]] = {}
    for trial in trials:
        groups.setdefault(trial.configuration_id, []).append(trial)
    return list(groups.values())


@dataclass(frozen=True)
class ArmEstimate:
    """What one method on one setting will cost: configurations, trials, packs, training tokens.

    A method that only others build on has an entry of its own.
    """

    setting: str
    method: str
    configurations: int
    trials: int
    packs: int
    tokens: float


@dataclass(frozen=True)
class Estimate:
    """What a sweep will cost: its arms, wall seconds with all cores at work, packs at a time, peak bytes a worker."""

    arms: tuple[ArmEstimate, ...]
    seconds: float
    workers: int
    worker_bytes: float

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


def estimate(sweep: Sweep, workers: int) -> Estimate:
    """What the sweep costs from nothing, before any trial runs. Raises UserError for values that make no trial."""
    speed = measured_flops()
    arms, seconds, memory = [], 0.0, 0.0
    for label, method, groups in _planned(sweep):
        trial = groups[len(groups) // 2][0]
        setting = setting_of(trial.setting)
        shape = ModelShape.of(setting.base_model)
        trials = [trial for group in groups for trial in group]
        tokens = sum(training_tokens(setting, trial) for trial in trials)
        packs = -(-len(trials) // sweep.trials_per_pack)
        arms.append(ArmEstimate(label, method, len(groups), len(trials), packs, tokens))
        # no weight gradients: 2 forward, 2 back to the adapters
        work = (4 * tokens + 2 * evaluation_tokens(setting) * len(trials)) * shape.parameters
        seconds += work / (speed * EFFICIENCY)
        memory = max(memory, worker_bytes(sweep, setting, shape, trial))
    return Estimate(tuple(arms), seconds, workers, memory)


def _planned(sweep: Sweep) -> list[tuple[str, str, list[tuple[TrialConfig, ...]]]]:
    """(setting, method, trials of each configuration) of every arm, then of what they build on and nobody asks for.

    Configurations that are not known yet are taken from the middle of their ranges.
    """
    planned: list[tuple[str, str, list[tuple[TrialConfig, ...]]]] = []
    needed: dict[tuple[str, str], dict[str, list[TrialConfig]]] = {}
    for arm in sweep.arms:
        middle = arm.space.at([0.5] * len(arm.space.ranges))
        points = arm.space.points or [middle] * arm.budget
        groups = [sweep.trials_of(arm, point) for point in points]
        planned.append((setting_label(arm.setting), groups[0][0].method.title, groups))
    asked = {trial.trial_id for _, _, groups in planned for group in groups for trial in group}
    waiting = [trial for _, _, groups in planned for group in groups for trial in group]
    while waiting:
        for trial in waiting.pop().requires:
            if trial.trial_id not in asked:
                asked.add(trial.trial_id)
                key = (setting_label(trial.setting), f"{trial.method.title} (for others)")
                needed.setdefault(key, {}).setdefault(trial.configuration_id, []).append(trial)
                waiting.append(trial)
    extra = [(label, name, [tuple(some) for some in groups.values()]) for (label, name), groups in needed.items()]
    return planned + extra


def training_tokens(setting: Setting, trial: TrialConfig) -> float:
    """Tokens that a trial sends through the model while training, reference passes included; none for a readout."""
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
    """Tokens of one evaluation: prompts and replies."""
    return sum(len(item.examples) * mean_tokens(setting, item.examples) for item in setting.evaluations)


def mean_tokens(setting: Setting, examples: Sequence[Example]) -> float:
    """Tokens of a row, on average."""
    texts = [" ".join(message.content for message in example.messages) for example in examples]
    if isinstance(setting.base_model, NanoModel):
        return fmean(len(text.split()) for text in texts) + TEMPLATE_TOKENS
    return fmean(len(text) for text in texts) / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS


def worker_bytes(sweep: Sweep, setting: Setting, shape: ModelShape, trial: TrialConfig) -> float:
    """Peak memory of a worker with a full pack of such trials: its process, the base model, and what training adds."""
    lengths = {stream: mean_tokens(setting, setting.streams[stream]) for stream in trial.method.streams}
    members = [trial] * sweep.trials_per_pack
    added = training_bytes(shape, members, lengths, sweep.rows_per_forward, sweep.gradient_checkpointing)
    return PROCESS_BYTES + FLOAT * shape.parameters + added


def measured_flops(seconds: float = 0.15) -> float:
    """Floating-point operations per second of a float32 matrix product on this machine, all BLAS threads at work."""
    size, count = 512, 0
    matrix = np.ones((size, size), dtype=np.float32)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        matrix @ matrix
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - began)
