"""What a trial is, and its identity: the hash of its arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal

from settings.common import checks
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.reference import SettingRef
from settings.setting import Setting
from trainables import methods
from trainables.coefficients import ChoiceSpec, OpenSpec, RangeSpec, Spec
from trainables.method import BatchSizes, Method, instructions_of, require

# Part of every trial's identity. Raise it when the same configuration would give different numbers, so that results of
# two versions of the training code are never confused. If only some methods' trials change, raise `Method.revision`
# instead, so that all others keep their identity.
NUMERICS_VERSION = 2

SCHEDULES = ("linear", "cosine", "constant")
# What a sweep may vary besides a method's coefficients, with sensible values.
TRIAL_KNOBS: Mapping[str, Spec | OpenSpec] = {
    "steps": RangeSpec(1, math.inf, log=True, at_least=1, at_most=math.inf, integer=True),
    "checkpoint_step": RangeSpec(1, math.inf, log=False, at_least=1, at_most=math.inf, integer=True),
    "adapter_scale": RangeSpec(0, 1, log=False, at_least=0, at_most=1),
    "decoding_mix": RangeSpec(0, 2, log=False, at_least=0, at_most=10),  # 10 catches typos
    "alignment_batch_size": RangeSpec(1, math.inf, log=True, at_least=1, at_most=math.inf, integer=True),
    "learning_rate": RangeSpec(0, math.inf, log=True, at_least=0, at_most=math.inf),
    "schedule": ChoiceSpec(SCHEDULES, searched=True),
    "batch_size": RangeSpec(1, math.inf, log=True, at_least=1, at_most=math.inf, integer=True),
    "rank": RangeSpec(1, math.inf, log=True, at_least=1, at_most=math.inf, integer=True),
    "alpha": RangeSpec(0, math.inf, log=True, at_least=0, at_most=math.inf),
    "layers": OpenSpec(lambda value: AdapterConfig(layers=value).layers_text),
    "targets": OpenSpec(lambda value: AdapterConfig(targets=value).targets_text),
}
# Those that change how many rows a trial reads: configurations that differ in them have unequal budgets.
BUDGET_KNOBS = ("steps", "batch_size", "alignment_batch_size")


LAST = re.compile(r"last [1-9]\d*")


def _numerics(method: Method) -> int | str:
    """Return the version of the numbers of a method's trials, e.g. 2, or "2.1" after the method's first revision."""
    return f"{NUMERICS_VERSION}.{method.revision}" if method.revision else NUMERICS_VERSION


def _make_floats(config: Any, *names: str) -> None:
    """Make integer fields of a frozen dataclass floats, so that 1 and 1.0 are one trial."""
    for name in names:
        if isinstance(getattr(config, name), int):
            object.__setattr__(config, name, float(getattr(config, name)))


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """A LoRA adapter (Hu et al. 2021, arXiv:2106.09685): W x + scale B A x.

    Attributes:
        rank: rows of A.
        alpha: scale is alpha / rank, or alpha / sqrt(rank) with `rslora` (Kalajdzievski 2023, arXiv:2312.03732).
        targets: "all-linear" (every linear layer but the head) or names of the layers' last components.
        layers: the blocks of the model to adapt: "all", "last N", or their numbers from 0. The hidden states below the
            lowest of them are the base model's for all trials, and computed once (`engine.frozen.prefix_cache`).

    Several names or numbers may also be given as one text, "q_proj+v_proj" or "3+5", as in a sweep's tables.
    """

    rank: int = 8
    alpha: float = 16.0
    rslora: bool = False
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    layers: str | tuple[int, ...] = "all"

    def __post_init__(self) -> None:
        _make_floats(self, "alpha")
        object.__setattr__(self, "targets", _targets(self.targets))
        object.__setattr__(self, "layers", _layers(self.layers))

    @property
    def layers_text(self) -> str:
        """The layers as one text, e.g. "last 10" or "3+5"."""
        return self.layers if isinstance(self.layers, str) else "+".join(map(str, self.layers))

    @property
    def targets_text(self) -> str:
        """The targets as one text, e.g. "q_proj+v_proj"."""
        return self.targets if isinstance(self.targets, str) else "+".join(self.targets)

    def layer_numbers(self, num_layers: int, *, check: bool = True) -> tuple[int, ...]:
        """Return the numbers of the adapted blocks of a model with `num_layers`.

        Raise UserError for one that the model does not have, unless `check` is False.
        """
        if self.layers == "all":
            return tuple(range(num_layers))
        if isinstance(self.layers, str):
            last = int(self.layers.removeprefix("last "))
            numbers = tuple(range(num_layers - last, num_layers))
        else:
            numbers = self.layers
        if check and (numbers[0] < 0 or numbers[-1] >= num_layers):
            raise UserError(
                f"adapter option 'layers' is {self.layers!r}, but the model has {num_layers} layers, 0 to"
                f" {num_layers - 1}"
            )
        return numbers

    def check_targets(self, kinds: Collection[str]) -> None:
        """Refuse a target that matches none of a model's linear layers, by the last components of their names.

        Raise UserError.
        """
        unknown = () if self.targets == "all-linear" else sorted(set(self.targets) - set(kinds))
        if unknown:
            raise UserError(
                f"adapter option 'targets' names {unknown[0]!r}, which is not a linear layer of the model; it has"
                f" {', '.join(sorted(kinds))}"
            )

    @property
    def scale(self) -> float:
        """Factor of B A x."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def _targets(value: Any) -> Literal["all-linear"] | tuple[str, ...]:
    """Return an adapter's targets in the form of `AdapterConfig`. Raise UserError."""
    if value == "all-linear":
        return "all-linear"
    names = value.split("+") if isinstance(value, str) else value
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) and name for name in names):
        return tuple(names)
    raise UserError(f"adapter option 'targets' must be \"all-linear\" or a tuple of layer names, got {value!r}")


def _layers(value: Any) -> str | tuple[int, ...]:
    """Return an adapter's layers in the form of `AdapterConfig`, numbers in order. Raise UserError."""
    if isinstance(value, str) and (value == "all" or LAST.fullmatch(value)):
        return value
    listed: Any = value
    if isinstance(value, str) and all(number.isdecimal() for number in value.split("+")):
        listed = [int(number) for number in value.split("+")]
    if isinstance(listed, list | tuple) and listed and all(checks.is_integer(n) and n >= 0 for n in listed):
        if len(set(listed)) < len(listed):
            raise UserError(f"adapter option 'layers' names a layer twice: {value!r}")
        return tuple(sorted(listed))
    raise UserError(
        f'adapter option \'layers\' must be "all", "last N" or a tuple of layer numbers from 0, got {value!r}'
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a schedule.

    Attributes:
        max_grad_norm: norm to which longer gradients are clipped; None means no clipping.
        warmup_steps: number of updates until the peak.
        warmup_from_zero: start at rate 0, so that each update has the rate of the one before, as in transformers'
            `get_linear_schedule_with_warmup`; this wastes an update.
        horizon: the rate reaches 0 after this share of the updates. (The study's mixed and misaligned runs used 1/8
            where 1 was intended.)
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float | None = 1.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 5
    warmup_from_zero: bool = False
    horizon: float = 1.0

    def __post_init__(self) -> None:
        _make_floats(self, "learning_rate", "weight_decay", "beta1", "beta2", "eps", "max_grad_norm", "horizon")
        if not 0 < self.horizon <= 1:
            raise UserError(f"optimizer option 'horizon' must be above 0 and at most 1, got {self.horizon!r}")

    def as_published(self) -> OptimizerConfig:
        """Return the optimizer of the study's own code: it never clips, and its warm-up starts at 0."""
        return replace(self, max_grad_norm=None, warmup_from_zero=True)

    @property
    def moves_after(self) -> int:
        """Number of updates after which the adapter has left its initial state."""
        return 2 if self.warmup_from_zero and self.warmup_steps else 1

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of update `step` (0-based) of `steps`: linear warm-up, then decay.

        The first update has rate peak / warmup_steps, update warmup_steps - 1 the peak. The decay would reach exactly 0
        at update `steps`, one after the last, so that no update is wasted; with a horizon, it does so earlier. With
        `warmup_from_zero`, update t of N has rate peak t / warmup_steps, then peak (N - t) / (N - warmup_steps).
        """
        steps = math.ceil(steps * self.horizon)
        if step >= steps and self.schedule != "constant":
            return 0.0
        shift = 0 if self.warmup_from_zero else 1
        if step < self.warmup_steps:
            return self.learning_rate * (step + shift) / self.warmup_steps
        progress = (step - self.warmup_steps + shift) / max(1, steps - self.warmup_steps + shift)
        if self.schedule == "linear":
            return self.learning_rate * (1 - progress)
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """A configuration with a seed: everything that determines the result.

    Attributes:
        setting: what is learned.
        data: the setting's fingerprint, so that a trial on different rows has a different id.
        method: the method with its coefficients.
        adapter, optimizer: those of the fine-tuning; a method's published definition sets clipping and warm-up.
        steps: optimizer steps of the schedule.
        checkpoint_step: the step after which training stops; None means the end of the schedule.
        adapter_scale: factor on the trained adapter (with its prior) in evaluation. 0 is the base model.
        decoding_mix: lambda of z = (1 - lambda) z_base + lambda z_trial, the logits of each token in evaluation (DeRa;
            `trainables.evaluation.mixing`). 0 is the base model; beyond 1, it goes further than the training.
        replies: where replies in words come from: "here", i.e. the pack, or an "endpoint" that serves the adapter.
        batch_size, alignment_batch_size: rows per step of the streams.
        max_length: longest row in tokens.
        seed: seed of the adapter's initial weights and the order of the rows; all configurations have the same seeds.
        instructions: the setting's instructions, by name. A trial's identity includes those that its method, or what
            it is built on, puts before rows.
    """

    setting: SettingRef
    data: str
    method: Method
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    steps: int
    checkpoint_step: int | None = None
    adapter_scale: float = 1.0
    decoding_mix: float = 1.0
    replies: Literal["here", "endpoint"] = "here"
    batch_size: int
    alignment_batch_size: int
    max_length: int = 2048
    seed: int
    instructions: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "alignment_batch_size", "max_length"):
            checks.integer(f"trial option {name!r}", getattr(self, name), 1)
        checks.integer("adapter option 'rank'", self.adapter.rank, 1)
        self.method.check_rank(self.adapter.rank)
        if self.method.definition == "published":
            object.__setattr__(self, "optimizer", self.optimizer.as_published())
        for name in ("adapter_scale", "decoding_mix"):
            problem = TRIAL_KNOBS[name].check(getattr(self, name))
            if problem:
                raise UserError(f"trial option {name!r} {problem}, got {getattr(self, name)!r}")
            _make_floats(self, name)
        last = self.checkpoint_step
        if last is not None and self.method.reads_priors_out:
            raise UserError(f"method {self.method.name!r} reads two finished trainings: it has no 'checkpoint_step'")
        if last is not None:
            checks.integer("trial option 'checkpoint_step'", last, 1, self.steps)
        if last == self.steps:
            object.__setattr__(self, "checkpoint_step", None)  # the canonical form of "the end", so that ids are equal

    @property
    def sizes(self) -> BatchSizes:
        """Rows per step."""
        return BatchSizes(self.batch_size, self.alignment_batch_size)

    @cached_property
    def trial_id(self) -> str:
        """Content id of the trial."""
        return content_id(self.to_json())

    @cached_property
    def configuration_id(self) -> str:
        """Content id of the trial without its seed."""
        return content_id({key: value for key, value in self.to_json().items() if key != "seed"})

    @property
    def updates(self) -> int:
        """Number of updates of the adapter."""
        return self.checkpoint_step or self.steps

    @cached_property
    def training(self) -> TrialConfig:
        """The trial that trains this one's adapter: itself, unless it edits, scales or mixes that of another."""
        if self.method.trained_as == self.method and self.adapter_scale == self.decoding_mix == 1.0:
            return self
        return replace(self, method=self.method.trained_as, adapter_scale=1.0, decoding_mix=1.0)

    @cached_property
    def priors(self) -> tuple[TrialConfig, ...]:
        """The trials that train the adapters that the method needs first."""
        return tuple(
            replace(self, method=method, checkpoint_step=None, adapter_scale=1.0, decoding_mix=1.0)
            for method in self.method.priors
        )

    @property
    def num_beneath(self) -> int:
        """How many adapters lie frozen beneath the trained one."""
        return 1 + self.priors[0].num_beneath if self.priors and self.method.prior_is_active else 0

    @property
    def adapter_seed(self) -> str:
        """The seed of the adapter's initial weights.

        It is only the trial's seed, so that all configurations start alike. Above other adapters it includes the place,
        so that no adapter starts in the row space of one beneath it.
        """
        return f"{self.seed}/above {self.num_beneath}" if self.num_beneath else f"{self.seed}"

    @cached_property
    def full_training(self) -> TrialConfig:
        """The full-length training that this trial reads from; the trial itself unless it is a readout."""
        return self.training if self.training.checkpoint_step is None else replace(self.training, checkpoint_step=None)

    @property
    def read_from(self) -> str:
        """Content id, without seed, of the training that this is read from; for a blend, those of both, in order."""
        parts = {self.full_training.read_from if self.is_readout else self.configuration_id}
        parts |= {prior.read_from for prior in self.priors} if self.method.reads_priors_out else set()
        return "+".join(sorted(parts))

    @property
    def is_readout(self) -> bool:
        """Whether this trial evaluates a checkpoint of another training, or edits, scales or mixes its adapter."""
        return self.full_training != self

    @cached_property
    def requires(self) -> tuple[TrialConfig, ...]:
        """The trials that must finish before this one. Any number of trials may share them."""
        return (*((self.full_training,) if self.is_readout else ()), *self.priors)

    @property
    def built_on(self) -> tuple[TrialConfig, ...]:
        """The trials that this one requires, and those that they require in turn."""
        return tuple(trial for needed in self.requires for trial in (needed, *needed.built_on))

    @property
    def coefficients(self) -> dict[str, Any]:
        """The method's coefficients by name."""
        return asdict(self.method)

    def instruction(self, name: str) -> str:
        """Return the text of an instruction. Raise UserError if the setting has none of that name."""
        if name not in self.instructions:
            raise UserError(f"method {self.method.name!r} needs the instruction {name!r}, but the setting has none")
        return self.instructions[name]

    def to_json(self) -> dict[str, Any]:
        """Return canonical JSON data; `from_json` is its inverse."""
        data = {each.name: getattr(self, each.name) for each in fields(self)}  # `asdict` copies the method twice
        data |= {"adapter": asdict(self.adapter), "optimizer": asdict(self.optimizer)}
        data["method"] = {"name": self.method.name, **self.coefficients}
        data["instructions"] = {name: self.instruction(name) for name in instructions_of(self.method)}
        if not data["instructions"]:
            del data["instructions"]  # keeps the ids from before there were any
        data["setting"] = {"name": self.setting.name, "options": dict(self.setting.options)}
        adapter = data["adapter"]
        data["adapter"] = {key: list(value) if isinstance(value, tuple) else value for key, value in adapter.items()}
        if self.adapter.layers == "all":
            del data["adapter"]["layers"]  # keeps the ids from before there was a choice
        if self.decoding_mix == 1.0:
            del data["decoding_mix"]  # keeps the ids from before there was a choice
        if self.replies == "here":
            del data["replies"]  # keeps the ids from before there was a choice
        if not self.optimizer.warmup_from_zero:
            del data["optimizer"]["warmup_from_zero"]  # keeps the ids from before there was a choice
        if self.method.reads_priors_out:  # the texts of its ends leave out defaults
            ends = (self.method.trained_as, *self.method.priors)
            data["ends"] = [{"name": end.name, **asdict(end)} for end in ends]
        return {**data, "numerics": _numerics(self.method)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TrialConfig:
        """Return the trial that `to_json` wrote. Raise UserError if another version of the code wrote it."""
        values = dict(data)
        described = dict(values.pop("method"))
        method = methods.make(described.pop("name"), described)
        version, _ = values.pop("numerics", None), values.pop("ends", None)
        if version != _numerics(method):
            raise UserError(f"trial of numerics version {version}; this code is version {_numerics(method)}")
        trial = TrialConfig(
            setting=SettingRef(**values.pop("setting")),
            method=method,
            adapter=AdapterConfig(**values.pop("adapter")),
            optimizer=OptimizerConfig(**values.pop("optimizer")),
            **values,
        )
        if trial.trial_id != content_id(data):
            raise UserError(f"trial of {method.title}, which this code would train differently")
        return trial


def trial_for(setting: Setting, ref: SettingRef, method: Method, seed: int, **overrides: Any) -> TrialConfig:
    """Return a trial with the setting's own recipe; `overrides` replace single fields of `TrialConfig`.

    Raise UserError if the method needs something that the setting does not have.
    """
    require(setting, method)
    recipe = setting.recipe
    values: dict[str, Any] = {
        "adapter": AdapterConfig(rank=recipe.rank, alpha=2.0 * recipe.rank, rslora=recipe.rslora, layers=recipe.layers),
        "optimizer": OptimizerConfig(learning_rate=recipe.learning_rate),
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "alignment_batch_size": recipe.alignment_batch_size,
        "max_length": recipe.max_length,
        "instructions": setting.instructions,
    }
    return TrialConfig(setting=ref, data=setting.fingerprint(), method=method, seed=seed, **(values | overrides))


def base_id(setting: Setting) -> str:
    """Return the id that stands for the untouched base model of a setting, in place of a trial's id."""
    return f"base-{setting.fingerprint()}"


def pack_id(trials: Sequence[TrialConfig]) -> str:
    """Return the content id of trials that train side by side, in order."""
    return pack_name([trial.trial_id for trial in trials])


def pack_name(trial_ids: Sequence[str]) -> str:
    """Return the content id of a pack from its trials' ids."""
    return content_id(list(trial_ids))
