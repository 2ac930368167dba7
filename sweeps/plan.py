"""What a sweep will cost: tokens, memory, time.

The figures of `estimate` are for planning. Tokens are exact to a few per cent where the words of a setting are its
tokens (nano) and a rule of thumb elsewhere (4 characters a token); memory counts what a training step holds; time
divides the arithmetic by the speed of a matrix product measured on this machine, until trials of the sweep have ended:
then their own pace counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from settings.base_models import NanoModel
from settings.example import Example
from settings.reference import setting_label, setting_of
from settings.setting import Setting
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
    """What one method on one setting will cost: configurations, trials, packs, training tokens, seconds of wall time.

    A method that only others build on has an entry of its own. `ended` counts the trials that have, and `took` has the
    seconds of those that did not fail.
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
        """Of the trials that have not ended."""
        return self.seconds * max(0.0, 1 - self.ended / self.trials)


@dataclass(frozen=True)
class CostEstimate:
    """What a sweep will cost.

    Attributes:
        arms: its methods on its settings, and what these build on.
        workers: packs at a time.
        worker_bytes: peak memory of a worker.
        assumed: models of which nothing is known here, and which are taken to be as large as Qwen3-8B.
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
    """A method on a setting: the trials of each configuration, and the arm that asks for them, if one does."""

    setting: str
    title: str
    groups: Sequence[Sequence[TrialConfig]]
    arm: str | None = None

    @property
    def trials(self) -> list[TrialConfig]:
        return [trial for group in self.groups for trial in group]

    def ended(self, record: LedgerState) -> list[Outcome]:
        """How its trials have ended, as far as they have."""
        if self.arm is None:
            return [record.outcomes[trial.trial_id] for trial in self.trials if trial.trial_id in record.outcomes]
        return record.outcomes_of(self.arm)


def estimate(sweep: Sweep, workers: int, record: LedgerState | None = None) -> CostEstimate:
    """What the sweep costs from nothing. Raises UserError for values that make no trial.

    Args:
        workers: packs at a time.
        record: what has ended already; its seconds tell the time of the rest.
    """
    speed = measured_flops()
    arms, memory = [], 0.0
    assumed: dict[str, None] = {}
    for planned in _planned(sweep):
        trials, trial = planned.trials, planned.groups[len(planned.groups) // 2][0]
        setting = setting_of(trial.setting)
        shape = ModelShape.of(setting.base_model)
        if shape is None:
            shape = ModelShape.assumed()
            assumed[setting.base_model.to_json().get("source", setting.name)] = None
        tokens = sum(training_tokens(setting, trial) for trial in trials)
        packs = -(-len(trials) // sweep.trials_per_pack)
        # no weight gradients: 2 forward, 2 back to the adapters
        work = (4 * tokens + 2 * evaluation_tokens(setting) * len(trials)) * shape.parameters
        seconds = work / (speed * EFFICIENCY) + packs * PACK_SECONDS / workers
        ends = planned.ended(record) if record else []
        took = [end.seconds / workers for end in ends if end.seconds > 0 or end.status == "finished"]
        size = (len(planned.groups), len(trials), packs, tokens)
        arms.append(ArmEstimate(planned.setting, planned.title, *size, seconds, len(ends), tuple(took)))
        memory = max(memory, worker_bytes(sweep, setting, shape, trial))
    return CostEstimate(_at_their_pace(arms), workers, memory, tuple(assumed))


def _at_their_pace(arms: Sequence[ArmEstimate]) -> tuple[ArmEstimate, ...]:
    """The arms, those of which trials have ended at the pace of these, and the others in proportion."""
    timed = [replace(arm, seconds=fmean(arm.took) * arm.trials) if arm.took else arm for arm in arms]
    pairs = [(found.seconds, guess.seconds) for found, guess in zip(timed, arms, strict=True) if found.took]
    took = sum(found for found, _ in pairs)
    factor = took / sum(guess for _, guess in pairs) if took else 1.0
    return tuple(arm if arm.took else replace(arm, seconds=arm.seconds * factor) for arm in timed)


def _planned(sweep: Sweep) -> list[_Planned]:
    """Every arm, then what they build on and nobody asks for.

    Configurations that are not known yet are taken from the middle of their ranges.
    """
    planned: list[_Planned] = []
    needed: dict[tuple[str, str], dict[str, list[TrialConfig]]] = {}
    for arm in sweep.arms:
        groups = [sweep.trials_of(arm, values) for values in arm.space.examples(arm.budget)]
        planned.append(_Planned(setting_label(arm.setting), arm.title, groups, arm.key))
    asked = {trial.trial_id for one in planned for trial in one.trials}
    for one in planned:
        for trial in one.trials:
            for other in trial.built_on:
                if other.trial_id not in asked:
                    asked.add(other.trial_id)
                    key = (one.setting, f"{other.method.title}, for others")
                    needed.setdefault(key, {}).setdefault(other.configuration_id, []).append(other)
    return planned + [_Planned(*key, list(groups.values())) for key, groups in needed.items()]


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


def measured_flops(probes: int = 20) -> float:
    """Floating-point operations per second of a float32 matrix product on this machine, all BLAS threads at work.

    The best of several short probes: whatever else runs makes some of them slower, and none faster.
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
