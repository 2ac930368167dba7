"""A sweep: settings x methods x seeds and a budget, declared in one Python file.

    from sweeps.space import vary
    from sweeps.sweep import Sweep, setting

    sweep = Sweep(
        name="quickstart",
        settings=(setting("bad_medical_advice", scale="nano"),),
        methods=("plain", vary("kl_penalty")),
    )

`Sweep` says what to run, `Search` how to choose configurations, `Execution` how to run trials, `Budget` what they may
take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, Literal

from settings.common import checks
from settings.common.content import content_id
from settings.common.declarations import Declaration
from settings.common.errors import UserError
from settings.judge import JudgeOptions
from settings.model_files import check_model
from settings.reference import SettingRef, check_repeatable, setting_label, setting_of
from settings.reference import setting as setting  # sweep files import it from here
from settings.replies import Endpoint
from settings.setting import Setting
from sweeps.budget import Budget as Budget  # sweep files import it from here
from sweeps.case import Arm, Case, arm_key, check_known_early, check_replies, check_served, scores_named
from sweeps.controls import blends_of, control_spaces, whole_trainings
from sweeps.early_stopping import EarlyStopping
from sweeps.names import SAFE_NAME
from sweeps.options import OPTIONS, check_option, trial_overrides
from sweeps.space import MethodSpace, Values, vary
from trainables.coefficients import label_of
from trainables.engine.memory import ModelShape
from trainables.method import require
from trainables.methods.plain import Plain
from trainables.trial import AdapterConfig, TrialConfig, trial_for


@dataclass(frozen=True)
class Search(Declaration, within="search"):
    """How configurations are chosen. Every field is part of a sweep's identity.

    Attributes:
        seed: seed of the search.
        round_size: number of configurations of a method that are proposed before waiting for their results.
        early_stopping: stop configurations of searched methods that are worse than others (see
            `sweeps.early_stopping`). None trains all of them to the end, as a comparison of methods should: stopped
            configurations are missing from a method's frontier.
        front: "dense" searches each method with Optuna. "cheap" trains both ends of its range, reads out blends of
            these two adapters, and trains a value in between only where the front still has a gap wider than noise
            (`sweeps.search.gaps`); `configurations` then limits how many it trains.
    """

    seed: int = 0
    round_size: int = 2
    early_stopping: EarlyStopping | None = None
    front: Literal["dense", "cheap"] = "dense"

    def __post_init__(self) -> None:
        checks.integer("seed", self.seed, 0)
        checks.integer("round_size", self.round_size, 1)
        if not isinstance(self.early_stopping, EarlyStopping | None):
            raise UserError(f"early_stopping must be EarlyStopping(...), got {self.early_stopping!r}")
        checks.one_of("front", self.front, ("dense", "cheap"))
        if self.front == "cheap" and self.early_stopping:
            raise UserError('front="cheap" compares few finished trainings, but early_stopping would stop some of them')


@dataclass(frozen=True)
class Execution(Declaration, within="execution"):
    """How trials are run: on which resources, how many at a time, and what is kept.

    Nothing here is part of an identity: a sweep may continue with other values, and results agree up to rounding. The
    last bits of a result do depend on `pack_size`, `num_workers`, `rows_per_forward` and `cache_references`.

    Attributes:
        pack_size: trials trained side by side; None is the number of seeds.
        cpus_per_pack: cores that one pack occupies; it uses as many threads.
        gpus_per_pack: GPUs that one pack occupies; 0, the default, uses none. A fraction lets several packs share one
            GPU, each within its share of the memory.
        memory_per_pack: main memory that one pack reserves, in gigabytes; None reserves none.
        num_workers: processes that train one pack together through Ray Train, each on its share of the rows, with an
            equal part of the pack's resources. A single one does not go through Ray Train.
        shard_base: let each of several workers hold only a part of the base model's layers (FSDP), for models that do
            not fit on one GPU.
        rows_per_forward: the most rows of a pack that go through the model at a time (micro-batches, to save memory);
            None means all. Fewer cost one more forward pass. "auto" takes as many as fit into memory when the sweep
            first starts, after making packs smaller if that is enough; the ledger keeps the choice, so that a resumed
            sweep has the same bits.
        gradient_checkpointing: keep only the inputs of the model's layers and run each layer again in the backward
            pass, to save memory; costs one more forward pass.
        cache_references: compute once, and cache for all trials, the base model's outputs on the rows that methods
            refer to and the hidden states below the lowest adapted layer on all rows, instead of in every step.
        checkpoint_seconds: seconds between two checkpoints of a pack in training; the most that a kill costs.
        keep_adapters: how many of the trials that ended last keep their adapters, besides those on the frontier and
            those that others build on; the rest are deleted (see `sweeps.results.cleaning`). None keeps all.
        judge: how to reach a setting's judge, and its budget. It changes no verdict.
    """

    pack_size: int | None = None
    cpus_per_pack: float = 1
    gpus_per_pack: float = 0
    memory_per_pack: float | None = None
    num_workers: int = 1
    shard_base: bool = False
    rows_per_forward: int | Literal["auto"] | None = "auto"
    gradient_checkpointing: bool = False
    cache_references: bool = True
    checkpoint_seconds: float = 60.0
    keep_adapters: int | None = 100
    judge: JudgeOptions = field(default_factory=JudgeOptions)

    def __post_init__(self) -> None:
        checks.integer("num_workers", self.num_workers, 1)
        if isinstance(self.rows_per_forward, str) and self.rows_per_forward != "auto":
            raise UserError(f'rows_per_forward must be an integer, None or "auto", got {self.rows_per_forward!r}')
        for name, least in {"pack_size": 1, "keep_adapters": 0}.items():
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), least)
        if self.rows_per_forward not in (None, "auto"):
            checks.integer("rows_per_forward", self.rows_per_forward, 1)
        for name in ("cpus_per_pack", "gpus_per_pack", "checkpoint_seconds"):
            checks.number(name, getattr(self, name), least=0)
        if self.memory_per_pack is not None:
            checks.number("memory_per_pack", self.memory_per_pack, least=0)
        for name in ("gradient_checkpointing", "cache_references", "shard_base"):
            checks.flag(name, getattr(self, name))
        if not isinstance(self.judge, JudgeOptions):
            raise UserError(f"judge must be JudgeOptions(...), got {self.judge!r}")
        if self.cpus_per_pack + self.gpus_per_pack == 0:
            raise UserError("a pack needs a CPU or a GPU; cpus_per_pack and gpus_per_pack are both 0")
        if self.num_workers > 1 and self.gpus_per_pack % self.num_workers:
            raise UserError(
                f"gpus_per_pack must be a multiple of num_workers={self.num_workers}, one or more GPUs for each or none"
                f" at all, got {self.gpus_per_pack!r}"
            )
        if self.shard_base and self.num_workers == 1:
            raise UserError("shard_base distributes the base model over workers, but num_workers is 1")

    @property
    def threads(self) -> int:
        """CPU threads of each worker: as many as its CPUs, so that all workers together match the cores."""
        return max(1, int(self.cpus_per_pack / self.num_workers))


OUTSIDE_IDENTITY = {"identity": False}  # metadata of fields that only decide how much runs, where and how


@dataclass(frozen=True)
class Sweep(Declaration):
    """Which trials to run.

    Attributes:
        name: name of the sweep, its folder and its MLflow experiment.
        settings: what is learned; see `setting`.
        methods: names, `vary(...)` or `grid(...)`.
        configurations: how many to try per method that has something to search.
        seeds: their number n (0 .. n-1), or the seeds themselves.
        objectives: names of the scores to trade off, task first; None is the setting's own.
        options: replace single hyper-parameters of the setting's recipe, e.g. `{"steps": 100, "rank": 4}`.
        search: how configurations are chosen.
        controls: also evaluate plain fine-tuning, its checkpoints and its scaled-down adapter, unless `methods`
            include them; a method pushes the frontier only if it beats these two kinds of readouts.
        execution: how trials are run; no part of the identity.
        replies: a server that loads LoRA adapters and samples replies in words; None samples them in the pack. Using a
            server is part of the identity of every trial on a setting with such evaluations, since its rounding and
            its random draws differ; its address is not.
        budget: limits on hours, tokens and dollars, for all starts of the sweep together; no part of the identity.
    """

    name: str
    settings: tuple[SettingRef, ...]
    methods: tuple[str | MethodSpace, ...]
    configurations: int = field(default=6, metadata=OUTSIDE_IDENTITY)
    seeds: int | tuple[int, ...] = field(default=3, metadata=OUTSIDE_IDENTITY)
    objectives: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    search: Search = field(default_factory=Search)
    controls: bool = field(default=True, metadata=OUTSIDE_IDENTITY)
    execution: Execution = field(default_factory=Execution, metadata=OUTSIDE_IDENTITY)
    replies: Endpoint | None = field(default=None, metadata=OUTSIDE_IDENTITY)  # in the templates' identity
    budget: Budget | None = field(default=None, metadata=OUTSIDE_IDENTITY)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not SAFE_NAME.fullmatch(self.name):
            raise UserError(f"sweep name {self.name!r} must be letters, digits, '.', '_' or '-' (it names a folder)")
        what = f"sweep {self.name!r}"
        self._check_sequences(what)
        checks.integer(f"{what}: configurations", self.configurations, 1)
        checks.flag(f"{what}: controls", self.controls)
        for option, value in self.options.items():
            check_option(what, option, value)
        for name, form in (("search", Search), ("execution", Execution)):
            if not isinstance(getattr(self, name), form):
                raise UserError(f"{what}: {name} must be {form.__name__}(...), got {getattr(self, name)!r}")
        if not isinstance(self.replies, Endpoint | None):
            raise UserError(f"{what}: replies must be Endpoint(url=...), got {self.replies!r}")
        if not isinstance(self.budget, Budget | None):
            raise UserError(f"{what}: budget must be Budget(...), got {self.budget!r}")
        repeated = _first_repeated(
            [arm_key(setting_label(ref), space) for ref in self.settings for space in self.spaces]
        )
        if repeated is not None:
            raise UserError(f"{what} lists the same method and ranges twice: {repeated}")

    def _check_sequences(self, what: str) -> None:
        for name in ("settings", "methods"):
            value = getattr(self, name)
            if isinstance(value, str | SettingRef | MethodSpace):
                raise UserError(f"{what}: {name} must be a tuple; with a single element: {name}=(...,)")
            if not value:
                raise UserError(f"{what}: {name} must be a tuple of at least one")
            object.__setattr__(self, name, tuple(value))
        _check_no_text(f"{what}: objectives", self.objectives)
        for ref in self.settings:
            if not isinstance(ref, SettingRef):
                raise UserError(f'{what}: settings must be made by setting("name", ...), got {ref!r}')
        for method in self.methods:
            if not isinstance(method, str | MethodSpace):
                raise UserError(f"{what}: methods must be names, vary(...) or grid(...), got {method!r}")
        repeated = _first_repeated([setting_label(ref) for ref in self.settings])
        if repeated is not None:
            raise UserError(f"{what} lists the setting {repeated!r} twice")
        if not isinstance(self.seeds, Iterable) and not checks.is_integer(self.seeds):
            raise UserError(f"{what}: seeds must be their number or a tuple of seeds, got {self.seeds!r}")
        if not self.seed_values or _first_repeated(self.seed_values) is not None:
            raise UserError(f"{what}: seeds must be at least one, without repeats, got {self.seeds!r}")
        if not all(checks.is_integer(seed) and seed >= 0 for seed in self.seed_values):
            raise UserError(f"{what}: seeds must be integers of at least 0, got {self.seeds!r}")

    @property
    def seed_values(self) -> tuple[int, ...]:
        """The seeds of each configuration."""
        return tuple(self.seeds) if isinstance(self.seeds, Iterable) else tuple(range(self.seeds))

    @property
    def trials_per_pack(self) -> int:
        """Trials trained side by side."""
        return self.execution.pack_size or len(self.seed_values)

    @property
    def on_gpu(self) -> bool:
        """Whether packs occupy GPUs."""
        return self.execution.gpus_per_pack > 0

    @cached_property
    def spaces(self) -> tuple[MethodSpace, ...]:
        """The methods; a name is a search of the method's own ranges."""
        return tuple(vary(method) if isinstance(method, str) else method for method in self.methods)

    @cached_property
    def _blends(self) -> tuple[MethodSpace, ...]:
        """The readouts of a cheap front that the sweep does not list itself. Raise UserError if a method has none."""
        searched = [space for space in self.spaces if space.ranges] if self.search.front == "cheap" else []
        return tuple(blends for blends in map(blends_of, searched) if blends not in self.spaces)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """The settings, each with its objectives and arms. Raise UserError for one that cannot be built."""
        return tuple(self._resolve(ref) for ref in self.settings)

    def _resolve(self, ref: SettingRef) -> Case:
        setting, label = setting_of(ref), setting_label(ref)
        try:
            objectives = scores_named(setting, self.objectives or setting.objectives)
        except UserError as error:
            raise UserError(f"sweep {self.name!r}: {error}") from error
        overrides = trial_overrides(setting.recipe, self.options)
        if self.replies and any(each.generates for each in setting.evaluations):
            overrides["replies"] = "endpoint"
        template = trial_for(setting, ref, Plain(), seed=0, **overrides)
        controls: tuple[MethodSpace, ...] = ()
        if self.controls:
            readouts = control_spaces(template.steps, self.spaces)
            trial_of = partial(self._trial, setting, template)
            controls = (*whole_trainings((*self.spaces, *readouts), trial_of), *readouts)
        arms = tuple(
            Arm(ref, space, space.budget(self.configurations), arm_key(label, space), control=space in controls)
            for space in (*self.spaces, *self._blends, *controls)
        )
        if self._blends and len(objectives) != 2:
            raise UserError(f'sweep {self.name!r}: front="cheap" needs two objectives, got {len(objectives)}')
        return Case(ref, setting, label, template, objectives, arms)

    def case_of(self, ref: SettingRef) -> Case:
        """Return the case of one of the sweep's settings."""
        return self._cases_by_label[setting_label(ref)]

    @cached_property
    def _cases_by_label(self) -> Mapping[str, Case]:
        return {case.label: case for case in self.cases}

    @cached_property
    def arms(self) -> tuple[Arm, ...]:
        """Every method, and the controls, on every setting."""
        return tuple(arm for case in self.cases for arm in case.arms)

    def trials_of(self, arm: Arm, values: Values) -> tuple[TrialConfig, ...]:
        """Return the trials of a configuration, one per seed. Raise UserError for values that make no valid trial."""
        case = self.case_of(arm.setting)
        trial = self._trial(case.setting, case.template, arm.space, values)
        return tuple(replace(trial, seed=seed) for seed in self.seed_values)

    def _trial(self, setting: Setting, template: TrialConfig, space: MethodSpace, values: Values) -> TrialConfig:
        """Return the trial of a configuration, with the template's seed."""
        knobs = space.knobs(values)
        options = {name: value for name, value in knobs.items() if name in OPTIONS}
        overrides = trial_overrides(setting.recipe, {**self.options, **options})
        readout = {name: value for name, value in knobs.items() if name not in OPTIONS}
        return replace(template, method=space.to_method(values), **overrides, **readout)

    def adapters_of(self, case: Case) -> tuple[AdapterConfig, ...]:
        """Return an adapter for each choice of layers and targets that configurations of a case may have."""
        trials = (self.trials_of(arm, values)[0] for arm in case.arms for values in arm.space.every_option())
        return tuple({(each.adapter.targets, each.adapter.layers): each.adapter for each in trials}.values())

    def coefficients_of(self, trial: TrialConfig) -> dict[str, Any]:
        """Return a trial's coefficients, and the other knobs that the sweep varies for its method, by name."""
        varied = self._varied.get(trial.method.name, set())  # none for a method that only others build on
        adapter = {"layers": trial.adapter.layers_text, "targets": trial.adapter.targets_text}
        values = {**vars(trial.adapter), **adapter, **vars(trial.optimizer), **vars(trial)}
        values["checkpoint_step"] = trial.updates  # the last step is a checkpoint, too
        return trial.coefficients | {name: values[name] for name in sorted(varied)}

    @cached_property
    def _varied(self) -> Mapping[str, set[str]]:
        """Method -> the knobs of a trial that its configurations differ in."""
        varied: dict[str, set[str]] = {}
        for arm in self.arms:
            varied.setdefault(arm.space.method, set()).update(arm.space.knob_names)
        return varied

    def label_of(self, trial: TrialConfig) -> str:
        """Return what distinguishes a trial's configuration from others of its method, e.g. "beta=0.3, steps=24"."""
        usual = self.coefficients_of(replace(self.case_of(trial.setting).template, method=trial.method))
        values = self.coefficients_of(trial)
        knobs = self._varied.get(trial.method.name, set())
        varied = {name: value for name, value in values.items() if name in knobs and value != usual[name]}
        return ", ".join(filter(None, [trial.method.label, label_of(varied)]))

    def title_of(self, trial: TrialConfig) -> str:
        """Return method and label, e.g. "kl_penalty beta=0.3"."""
        return f"{trial.method.title} {self.label_of(trial)}".strip()

    def check_settings(self, trials: Iterable[TrialConfig]) -> None:
        """Refuse trials of settings other than the sweep's: a setting's name may be a file, which would be executed.

        Raise UserError.
        """
        for trial in trials:
            if trial.setting not in self.settings:
                raise UserError(
                    f"the ledger has a trial of setting {trial.setting.name!r}, which is not one of the sweep's"
                )

    def check(self) -> None:
        """Raise UserError for a sweep that could not run: its rows, models, methods, options or objectives."""
        if self.replies:
            check_replies(self.name, self.cases, self.replies)
        if self.budget:
            self.budget.check(self.on_gpu, any(case.setting.judged for case in self.cases))
        for case in self.cases:
            check_repeatable(case.ref)
            check_model(case.setting.base_model)
            shape = ModelShape.of(case.setting.base_model)
            if self.search.early_stopping:
                check_known_early(self.name, case)
            for arm in case.arms:
                for values in arm.space.every_option():
                    trial = self.trials_of(arm, values)[0]
                    require(case.setting, trial.method)
                    if case.replies_elsewhere:
                        check_served(trial, arm.space.knob_names, f"sweep {self.name!r}, {arm.title} on {case.label}")
                    if shape:
                        trial.adapter.layer_numbers(shape.layers)

    def rungs_of(self, arm: Arm, trial: TrialConfig) -> tuple[int, ...]:
        """Return the updates after which a trial of an arm is compared with others; none without early stopping."""
        rule = self.search.early_stopping
        return rule.steps(trial) if rule and arm.space.points is None and not trial.is_readout else ()

    def identity(self) -> str:
        """Return a content id of all that determines results or which configurations are proposed.

        That is every field except those marked as OUTSIDE_IDENTITY: a finished sweep may be extended and run elsewhere.
        A field that is not resolved here leaves the id unchanged at its default.
        """
        resolved = {
            "settings": [case.template.to_json() | {"method": None} for case in self.cases],
            "options": None,  # in the templates
            "objectives": [[[score.name, score.higher_is_better] for score in case.objectives] for case in self.cases],
            "methods": [space.to_json() for space in self.spaces],
            "search": _changed_fields(self.search),
        }
        inside = [item for item in fields(self) if item.metadata.get("identity", True)]
        others = {item.name: getattr(self, item.name) for item in inside if item.name not in resolved}
        changed = {item.name for item in inside if others.get(item.name) != item.default}
        return content_id({**resolved, **{name: value for name, value in others.items() if name in changed}})


def _changed_fields(search: Search) -> dict[str, Any]:
    """Return the fields that differ from their defaults, as JSON data."""
    usual = asdict(Search())
    return {name: value for name, value in asdict(search).items() if value != usual[name]}


def _check_no_text(what: str, names: Sequence[str] | None) -> None:
    if isinstance(names, str):  # ("task") is a text of four letters
        raise UserError(f'{what} must be a tuple of score names, e.g. ("task", "alignment"); got {names!r}')


def _first_repeated(values: Sequence[Any]) -> Any | None:
    return next((value for value in values if values.count(value) > 1), None)
