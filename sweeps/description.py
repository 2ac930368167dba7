"""A sweep as JSON, for readers of its folder: they need neither its Python file nor torch.

The driver writes `sweep.json` at every start. With each configuration that the search asks for, the ledger keeps the
result of `describe_configuration`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.tables.scores import Objective
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.files import write_json
from sweeps.budget import Budget
from trainables.folder import SweepFolder

if TYPE_CHECKING:
    from settings.setting import Score
    from sweeps.sweep import Sweep
    from trainables.trial import TrialConfig

FORMAT = 1


@dataclass(frozen=True)
class SettingDescription:
    """A setting of a sweep.

    Attributes:
        label: its name with options.
        objectives: the scores that the sweep trades off, task first.
        scores: all scores measured.
        digests: name of its rows or questions (`sweeps.case.digests`) -> content id; {} if an older version wrote it.
    """

    label: str
    objectives: tuple[Objective, ...]
    scores: tuple[Objective, ...]
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmDescription:
    """An arm of a sweep.

    Attributes:
        key: its name in the ledger.
        method, title: the method's name, and what tables call the arm.
        setting: label.
        num_trials: its number of configurations times the seeds.
        methods: what tables and figures call the methods of its configurations; () if an older version wrote it.
    """

    key: str
    method: str
    title: str
    setting: str
    num_trials: int
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepDescription:
    """A sweep as its last start declared it.

    Attributes:
        name, identity: name and content id of the sweep.
        seeds: the seeds of each configuration.
        settings, arms: in the sweep's order.
        built_on: method -> the methods whose trials it builds on.
        budget: its limits; None if there are none.
        on_gpu: whether packs occupy GPUs.
    """

    name: str
    identity: str
    seeds: tuple[int, ...]
    settings: tuple[SettingDescription, ...]
    arms: tuple[ArmDescription, ...]
    built_on: Mapping[str, tuple[str, ...]]
    budget: Budget | None = None
    on_gpu: bool = False

    @property
    def scores(self) -> tuple[Objective, ...]:
        """All scores measured on any of the settings."""
        return tuple(score for setting in self.settings for score in setting.scores)

    def setting(self, label: str) -> SettingDescription:
        """Return the setting of that label. Raise UserError."""
        for setting in self.settings:
            if setting.label == label:
                return setting
        raise UserError(f"sweep {self.name!r} has no setting {label!r}")

    def write(self, folder: Path) -> None:
        """Write the description into a sweep's folder, in one move."""
        write_json(SweepFolder(folder).description, {"format": FORMAT, **asdict(self)})

    @staticmethod
    def read(folder: Path) -> SweepDescription:
        """Read the description in a sweep's folder. Raise UserError."""
        path = SweepFolder(folder).description
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise UserError(f"{path} was written by another version; run the sweep again to rewrite it")
            settings = [
                SettingDescription(
                    setting["label"],
                    tuple(Objective(**score) for score in setting["objectives"]),
                    tuple(Objective(**score) for score in setting["scores"]),
                    setting.get("digests", {}),
                )
                for setting in data.pop("settings")
            ]
            arms = [ArmDescription(**{**arm, "methods": tuple(arm.get("methods", ()))}) for arm in data.pop("arms")]
            built_on = {method: tuple(names) for method, names in data.pop("built_on").items()}
            seeds = tuple(data.pop("seeds"))
            limits = data.pop("budget", None)
            return SweepDescription(
                **data,
                seeds=seeds,
                settings=tuple(settings),
                arms=tuple(arms),
                built_on=built_on,
                budget=Budget(**limits) if limits else None,
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}; run the sweep again to rewrite it") from error


def describe(sweep: Sweep) -> SweepDescription:
    """Describe a sweep. Raise UserError as `Sweep.check` does."""
    from sweeps.case import digests  # imported with the sweep, if at all

    settings = tuple(
        SettingDescription(
            case.label,
            tuple(map(describe_score, case.objectives)),
            tuple(map(describe_score, case.setting.all_scores)),
            {name: digest for name, (_, digest) in digests(case.setting).items()},
        )
        for case in sweep.cases
    )
    num_seeds = len(sweep.seed_values)
    arms = tuple(
        ArmDescription(
            arm.key, arm.space.method, arm.title, case.label, arm.budget * num_seeds, arm.space.method_titles
        )
        for case in sweep.cases
        for arm in case.arms
    )
    built_on: dict[str, set[str]] = {}
    for trial in examples(sweep):
        for part in (trial, *trial.built_on):
            built_on.setdefault(part.method.name, set()).update(below.method.name for below in part.built_on)
    sorted_names = {method: tuple(sorted(names)) for method, names in sorted(built_on.items())}
    return SweepDescription(
        sweep.name, sweep.identity(), sweep.seed_values, settings, arms, sorted_names, sweep.budget, sweep.on_gpu
    )


def describe_score(score: Score) -> Objective:
    """Describe a score for tables."""
    return Objective(score.name, score.kind, score.higher_is_better, score.description, *score.ends)


def examples(sweep: Sweep) -> list[TrialConfig]:
    """Return one trial of every arm."""
    return [sweep.trials_of(arm, arm.space.examples()[0])[0] for arm in sweep.arms]


@dataclass(frozen=True)
class ConfigurationDescription:
    """A configuration that the search asked for.

    Attributes:
        trial: canonical JSON of its trials, without the seed.
        setting: label.
        method: title of the method.
        label: what distinguishes it from others of the method, e.g. "beta=0.3".
        coefficients: name -> value.
        training: id of the configuration whose training it reads (its own unless it is a readout); "" in older records.
    """

    trial: Mapping[str, Any]
    setting: str
    method: str
    label: str
    coefficients: Mapping[str, float | str]
    training: str = ""

    def trial_id(self, seed: int) -> str:
        """Return the id of its trial with a seed."""
        return content_id({**self.trial, "seed": seed})


def describe_configuration(sweep: Sweep, trial: TrialConfig) -> dict[str, Any]:
    """Describe a configuration, by one of its trials, as JSON: the fields of `ConfigurationDescription`."""
    described = ConfigurationDescription(
        trial={key: value for key, value in trial.to_json().items() if key != "seed"},
        setting=sweep.case_of(trial.setting).label,
        method=trial.method.title,
        label=sweep.label_of(trial),
        coefficients=sweep.coefficients_of(trial),
        training=trial.read_from,
    )
    return asdict(described)
