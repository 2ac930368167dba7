"""What a sweep is: settings x methods x seeds and a budget, declared in one Python file.

from sweeps.sweep import Sweep, setting
from sweeps.space import vary

sweep = Sweep(
        name="quickstart",
        settings=(setting("bad_medical_advice", scale="nano"),),
        methods=("plain", vary("kl_penalty")),
    )
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from settings.common.content import content_id
from settings.common.errors import UserError, did_you_mean
from settings.judge import JudgeOptions
from settings.reference import SettingRef, setting_label, setting_of
from settings.reference import setting as setting  # sweep files import it from here
from settings.setting import Score, Setting
from settings.sources import check_model
from sweeps.controls import control_spaces
from sweeps.early_stopping import EarlyStopping
from sweeps.names import SAFE_NAME
from sweeps.space import MethodSpace, Values, vary
from trainables.coefficients import label_of
from trainables.trial import TRIAL_KNOBS, AdapterConfig, OptimizerConfig, TrialConfig, require, trial_for

TRIAL_OPTIONS = ("steps", "batch_size", "alignment_batch_size", "max_length")
ADAPTER_OPTIONS = tuple(item.name for item in fields(AdapterConfig))
OPTIMIZER_OPTIONS = tuple(item.name for item in fields(OptimizerConfig))
SCHEDULES = ("linear", "cosine", "constant")
OPTIONS = (*TRIAL_OPTIONS, *ADAPTER_OPTIONS, *OPTIMIZER_OPTIONS)


@dataclass(frozen=True)
class Arm:
    """One method on one setting: the unit that a search explores.

    Attributes:
        setting: what is learned.
        space: the configurations of the method.
        budget: how many of them to try.
        key: unique in the sweep and stable; names the arm in the ledger and the study.
        control: whether the sweep adds it by itself, for methods to beat.
    """

    setting: SettingRef
    space: MethodSpace
    budget: int
    key: str
    control: bool = False

    @property
    def title(self) -> str:
        """The method, with what else its configurations differ in; with a star a control, "plain (adapter_scale)*"."""
        return f"{self.space.title}{'*' if self.control else ''}"


@dataclass(frozen=True)
class Sweep:
    """Which trials to run.

    Attributes:
        name: of the sweep, its folder and its MLflow experiment.
        settings: what is learned; see `setting`.
        methods: names, `vary(...)` or `grid(...)`.
        configurations: how many per method that has something to search.
        seeds: their number n (0 .. n-1), or the seeds themselves.
        objectives: names of the scores to trade off, task first; None is the setting's own.
        seed: of the search.
        round_size: configurations of a method that are proposed before their results are waited for.
        pack_size: trials trained side by side; None is the number of seeds.
        options: replace single hyper-parameters of the setting's recipe, e.g. `{"steps": 100, "rank": 4}`.
        cpus_per_pack, gpus_per_pack, memory_per_pack: what one pack occupies: cores (as many threads work on it), GPUs
            (a share lets several packs use one, each within its share of the memory), and gigabytes of main memory
            (None reserves none).
        num_workers: processes that train one pack together through Ray Train, each on its share of the rows, with an
            equal part of what the pack occupies. One takes no detour.
        shard_base: of several workers, each holds only a part of the base model's layers (FSDP), for models that do
            not fit one GPU.
        keep_adapters: of so many trials that ended last the adapters are kept, beside those on the frontier and those
            that others build on; others are deleted (see `sweeps.results.disk`). None keeps all.
        early_stopping: stop configurations of searched methods that others leave behind (see
        `sweeps.early_stopping`). None
            trains all to their end, as a comparison of methods should: a method's stopped configurations are missing
            from its frontier.
        controls: also evaluate the checkpoints of plain fine-tuning and its adapter scaled down, unless `methods` have
            them; a method pushes the frontier only if it beats both.
        judge: how a setting's judge is reached, and its budget.
        rows_per_forward: most rows of a pack that go through the model at a time (micro-batches, for memory); None is
            all. Fewer cost one more forward pass and change no result.
        gradient_checkpointing: keep the inputs of the model's layers alone and run each layer again on the way back,
            for memory; costs one more forward pass and changes no result.
        cache_references: compute what the base model gives on the rows that methods refer to once, and keep it for all
            trials, instead of in every step; changes results by rounding alone.
        checkpoint_seconds: between two checkpoints of a pack in training; what a kill costs at most.
    """

    name: str
    settings: tuple[SettingRef, ...]
    methods: tuple[str | MethodSpace, ...]
    configurations: int = 6
    seeds: int | tuple[int, ...] = 3
    objectives: tuple[str, ...] | None = None
    seed: int = 0
    round_size: int = 2
    pack_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    cpus_per_pack: float = 1
    gpus_per_pack: float = 0
    memory_per_pack: float | None = None
    num_workers: int = 1
    shard_base: bool = False
    rows_per_forward: int | None = None
    gradient_checkpointing: bool = False
    cache_references: bool = True
    checkpoint_seconds: float = 60.0
    keep_adapters: int | None = 100
    early_stopping: EarlyStopping | None = None
    controls: bool = True
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not SAFE_NAME.fullmatch(self.name):
            raise UserError(f"sweep name {self.name!r} must be letters, digits, '.', '_' or '-' (it names a folder)")
        self._check_sequences()
        self._check_numbers()
        for option, value in self.options.items():
            problem = _option_problem(option, value)
            if problem:
                raise UserError(f"sweep {self.name!r}: option {option!r} {problem}")
        for switch in ("controls", "gradient_checkpointing", "cache_references", "shard_base"):
            if not isinstance(getattr(self, switch), bool):
                raise UserError(f"sweep {self.name!r}: {switch} must be True or False, got {getattr(self, switch)!r}")
        if not isinstance(self.early_stopping, EarlyStopping | None):
            raise UserError(
                f"sweep {self.name!r}: early_stopping must be EarlyStopping(...), got {self.early_stopping!r}"
            )
        repeated = _first_repeated([_arm_key(ref, space) for ref in self.settings for space in self.spaces])
        if repeated is not None:
            raise UserError(f"sweep {self.name!r} lists the same method and ranges twice: {repeated}")

    def _check_sequences(self) -> None:
        for name in ("settings", "methods"):
            value = getattr(self, name)
            if isinstance(value, str | SettingRef | MethodSpace):
                raise UserError(f"sweep {self.name!r}: {name} must be a tuple; of a single one: {name}=(...,)")
            if not value:
                raise UserError(f"sweep {self.name!r}: {name} must be a tuple of at least one")
            object.__setattr__(self, name, tuple(value))
        for ref in self.settings:
            if not isinstance(ref, SettingRef):
                raise UserError(f'sweep {self.name!r}: settings must be made by setting("name", ...), got {ref!r}')
        for method in self.methods:
            if not isinstance(method, str | MethodSpace):
                raise UserError(f"sweep {self.name!r}: methods must be names, vary(...) or grid(...), got {method!r}")
        repeated = _first_repeated([setting_label(ref) for ref in self.settings])
        if repeated is not None:
            raise UserError(f"sweep {self.name!r} lists the setting {repeated!r} twice")
        if not self.seed_values or _first_repeated(self.seed_values) is not None:
            raise UserError(f"sweep {self.name!r}: seeds must be at least one, each once, got {self.seeds!r}")
        if not all(_is_integer(seed) and seed >= 0 for seed in self.seed_values):
            raise UserError(f"sweep {self.name!r}: seeds must be integers of at least 0, got {self.seeds!r}")

    def _check_numbers(self) -> None:
        if self.keep_adapters is not None and (not _is_integer(self.keep_adapters) or self.keep_adapters < 0):
            given = repr(self.keep_adapters)
            raise UserError(f"sweep {self.name!r}: keep_adapters must be an integer of at least 0 or None, got {given}")
        for name in ("configurations", "round_size", "pack_size", "num_workers", "rows_per_forward"):
            value = getattr(self, name)
            if not (name in ("pack_size", "rows_per_forward") and value is None) and (
                not _is_integer(value) or value < 1
            ):
                raise UserError(f"sweep {self.name!r}: {name} must be an integer of at least 1, got {value!r}")
        if not _is_integer(self.seed) or self.seed < 0:
            raise UserError(f"sweep {self.name!r}: seed must be an integer of at least 0, got {self.seed!r}")
        for name in ("cpus_per_pack", "gpus_per_pack", "memory_per_pack", "checkpoint_seconds"):
            value = getattr(self, name)
            if name == "memory_per_pack" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"sweep {self.name!r}: {name} must be a number of at least 0, got {value!r}")
        if self.cpus_per_pack + self.gpus_per_pack == 0:
            raise UserError(f"sweep {self.name!r}: a pack needs a CPU or a GPU; both are 0")
        if self.num_workers > 1 and self.gpus_per_pack % self.num_workers:
            raise UserError(
                f"sweep {self.name!r}: gpus_per_pack must be a multiple of num_workers={self.num_workers}, a GPU or"
                f" more for each or none at all, got {self.gpus_per_pack!r}"
            )
        if self.shard_base and self.num_workers == 1:
            raise UserError(f"sweep {self.name!r}: shard_base shares the base model out over workers; num_workers is 1")

    @property
    def seed_values(self) -> tuple[int, ...]:
        """The seeds of each configuration."""
        return tuple(range(self.seeds)) if _is_integer(self.seeds) else tuple(self.seeds)  # type: ignore[arg-type]

    @property
    def trials_per_pack(self) -> int:
        """Trials trained side by side."""
        return self.pack_size or len(self.seed_values)

    @cached_property
    def spaces(self) -> tuple[MethodSpace, ...]:
        """The methods, names turned into searches of their own ranges."""
        return tuple(vary(method) if isinstance(method, str) else method for method in self.methods)

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Every method, and the controls, on every setting."""
        return tuple(
            Arm(ref, space, space.budget(self.configurations), _arm_key(ref, space), control=space in controls)
            for ref in self.settings
            for controls in [self._control_spaces(ref)]
            for space in (*self.spaces, *controls)
        )

    def _control_spaces(self, ref: SettingRef) -> tuple[MethodSpace, ...]:
        return control_spaces(self.template(ref).steps, self.spaces) if self.controls else ()

    def trials_of(self, arm: Arm, values: Values) -> tuple[TrialConfig, ...]:
        """The trials of a configuration, one per seed. Raises UserError for values or options that make no trial."""
        template, axes = self.template(arm.setting), arm.space.knobs(values)
        if "learning_rate" in axes:
            axes["optimizer"] = replace(template.optimizer, learning_rate=axes.pop("learning_rate"))
        trial = replace(template, method=arm.space.to_method(values), **axes)
        return tuple(replace(trial, seed=seed) for seed in self.seed_values)

    @cached_property
    def snapshots(self) -> tuple[int, ...]:
        """Updates after which adapters in training are kept, because some configuration stops there."""
        spaces = [arm.space for arm in self.arms]
        listed = [point.get("checkpoint_step") for space in spaces for point in space.points or ()]
        listed += [space.fixed.get("checkpoint_step") for space in spaces]
        return tuple(sorted({step for step in listed if step is not None}))

    def coefficients_of(self, trial: TrialConfig) -> dict[str, Any]:
        """A trial's coefficients, and whatever else the sweep varies of its method, by name."""
        varied = self._varied.get(trial.method.name, set())  # none of a method that only others build on
        values = {**vars(trial), "learning_rate": trial.optimizer.learning_rate}
        values["checkpoint_step"] = trial.updates  # the last step is a checkpoint, too
        return trial.coefficients | {name: values[name] for name in sorted(varied)}

    @cached_property
    def _varied(self) -> Mapping[str, set[str]]:
        """Method -> the axes that its configurations differ in."""
        varied: dict[str, set[str]] = {}
        for arm in self.arms:
            varied.setdefault(arm.space.method, set()).update(arm.space.knob_names)
        return varied

    def label_of(self, trial: TrialConfig) -> str:
        """What tells a trial's configuration from others of its method in this sweep, e.g. "beta=0.3, steps=24"."""
        usual = replace(self.template(trial.setting), method=trial.method)
        own, other = self.coefficients_of(trial), self.coefficients_of(usual)
        varied = {name: value for name, value in own.items() if name in TRIAL_KNOBS and value != other[name]}
        return ", ".join(filter(None, [trial.method.label, label_of(varied)]))

    def title_of(self, trial: TrialConfig) -> str:
        """Method and label, e.g. "kl_penalty beta=0.3"."""
        return f"{trial.method.title} {self.label_of(trial)}".strip()

    def check_settings(self, trials: Iterable[TrialConfig]) -> None:
        """Refuse trials of other settings than the sweep's: the name of a setting may be a file, which would be run.

        Raises UserError.
        """
        for trial in trials:
            if trial.setting not in self.settings:
                raise UserError(
                    f"the ledger has a trial of setting {trial.setting.name!r}, and the sweep has none such"
                )

    def check(self) -> None:
        """Refuse a sweep that could not run, before anything is written: rows, models, methods, options, objectives.

        Raises UserError.
        """
        for ref in self.settings:
            check_model(setting_of(ref).base_model)
        for arm in self.arms:
            objectives = self.objectives_of(arm.setting)
            judged = {score for evaluation in setting_of(arm.setting).judged for score in evaluation.scores}
            if self.early_stopping and judged.intersection(objectives):
                raise UserError(
                    f"sweep {self.name!r}: early_stopping compares what workers grade themselves, and a judge grades"
                    f" {', '.join(score.name for score in objectives if score in judged)}"
                )
            self.template(arm.setting)
            for values in arm.space.examples():
                require(setting_of(arm.setting), self.trials_of(arm, values)[0].method)

    def template(self, ref: SettingRef) -> TrialConfig:
        """Any trial on the setting, for what its trials share: data, adapter, optimiser, sizes. Raises UserError."""
        key = setting_label(ref)
        if key not in self._templates:
            built = setting_of(ref)
            space = self.spaces[0]
            method = space.to_method(space.points[0] if space.points else {})
            self._templates[key] = trial_for(built, ref, method, seed=0, **self._overrides(built))
        return self._templates[key]

    @cached_property
    def _templates(self) -> dict[str, TrialConfig]:
        return {}

    def _overrides(self, built: Setting) -> dict[str, Any]:
        """Arguments of `trial_for` that the options ask for; what they do not name stays as in the recipe."""
        given = {name: self.options[name] for name in TRIAL_OPTIONS if name in self.options}
        adapter = {name: self.options[name] for name in ADAPTER_OPTIONS if name in self.options}
        optimizer = {name: self.options[name] for name in OPTIMIZER_OPTIONS if name in self.options}
        if adapter:
            rank = adapter.pop("rank", built.recipe.rank)
            usual = {"rank": rank, "alpha": 2.0 * rank, "rslora": built.recipe.rslora}
            given["adapter"] = AdapterConfig(**(usual | adapter))
        if optimizer:
            given["optimizer"] = OptimizerConfig(**{"learning_rate": built.recipe.learning_rate, **optimizer})
        return given

    def objectives_of(self, ref: SettingRef) -> tuple[Score, ...]:
        """The scores that the sweep trades off on a setting. Raises UserError for a name it does not have."""
        built = setting_of(ref)
        names = self.objectives or built.objectives
        known = {score.name: score for score in built.all_scores}
        for name in names:
            if name not in known:
                raise UserError(
                    f"sweep {self.name!r}: setting {built.name!r} has no score {name!r}; it has {', '.join(known)}"
                )
        return tuple(known[name] for name in names)

    def rungs_of(self, arm: Arm, trial: TrialConfig) -> tuple[int, ...]:
        """Updates after which a trial of an arm is compared with others; none unless the sweep stops early."""
        searched = self.early_stopping and arm.space.points is None and not trial.is_readout
        return self.early_stopping.steps(trial) if self.early_stopping and searched else ()

    def identity(self) -> str:
        """Content id of everything that decides a result or which configurations are proposed.

        The budget (configurations, number of seeds), the controls and the resources are left out: a finished sweep may
        be extended.
        """
        data = {
            "name": self.name,
            "settings": [self.template(ref).to_json() | {"method": None} for ref in self.settings],
            "objectives": [
                [[score.name, score.higher_is_better] for score in self.objectives_of(ref)] for ref in self.settings
            ],
            "methods": [space.to_json() for space in self.spaces],
            "search": [self.seed, self.round_size],
        }
        if self.early_stopping:
            data["early_stopping"] = [list(self.early_stopping.rungs), self.early_stopping.keep]
        return content_id(data)


def _option_problem(option: str, value: Any) -> str | None:
    """What is wrong with an option's value, or None."""
    if option not in OPTIONS:
        return f"does not exist{did_you_mean(option, OPTIONS)}; options: {', '.join(OPTIONS)}"
    if option == "schedule":
        return None if value in SCHEDULES else f"must be one of {', '.join(SCHEDULES)}, got {value!r}"
    if option == "targets":
        fits = value == "all-linear" or (isinstance(value, tuple) and bool(value) and all(map(_is_text, value)))
        return None if fits else f'must be "all-linear" or a tuple of layer names, got {value!r}'
    if option == "rslora":
        return None if isinstance(value, bool) else f"must be True or False, got {value!r}"
    if option in (*TRIAL_OPTIONS, "rank", "warmup_steps"):
        least = 0 if option == "warmup_steps" else 1
        return (
            None if _is_integer(value) and value >= least else f"must be an integer of at least {least}, got {value!r}"
        )
    if option == "max_grad_norm" and value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return None if number else f"must be a number of at least 0, got {value!r}"


def _arm_key(ref: SettingRef, space: MethodSpace) -> str:
    """Readable, and unique by the content of the space, so that one method may be searched in two ways."""
    return f"{setting_label(ref)}/{space.method}-{content_id(space.to_json(), 6)}"


def _first_repeated(values: Sequence[Any]) -> Any | None:
    return next((value for value in values if values.count(value) > 1), None)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
