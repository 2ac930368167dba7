"""A sweep's numbers from its folder: the ledger and the description beside it. Needs neither torch nor MLflow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.tables.loaded_sweep import LoadedSweep, choose_objectives, choose_setting, counted
from analysis.tables.mlflow_runs import grades_file
from analysis.tables.questions import read_grades
from analysis.tables.scores import Configuration, TrialRecord
from sweeps.description import ConfigurationDescription, SweepDescription
from sweeps.ledger_lines import RawLedger, read_raw
from trainables.folder import SweepFolder


def is_readable(folder: Path) -> bool:
    """Return whether a folder holds a sweep that has started."""
    return SweepFolder(folder).ledger.is_file() and SweepFolder(folder).description.is_file()


@dataclass(frozen=True)
class LedgerReader:
    """Reads a ledger without the training code.

    Attributes:
        folder: the sweep's folder.
        description: the sweep, as its last start declared it.
        ledger: its events.
    """

    folder: Path
    description: SweepDescription
    ledger: RawLedger

    @staticmethod
    def open(folder: Path) -> LedgerReader:
        """Read a sweep's folder. Raise UserError."""
        return LedgerReader(folder, SweepDescription.read(folder), read_raw(folder))

    @cached_property
    def configurations(self) -> dict[str, ConfigurationDescription]:
        """Id of each configuration that the search asked for -> its description."""
        return {key: ConfigurationDescription(**facts) for key, facts in self.ledger.configurations.items()}

    @property
    def methods(self) -> set[str]:
        """The methods of all settings: of all arms, even those that have not asked yet, and of what was asked for."""
        declared = {name for arm in self.description.arms for name in arm.methods}
        return declared | {configuration.method for configuration in self.configurations.values()}

    @cached_property
    def trials(self) -> dict[str, list[TrialRecord]]:
        """Setting -> the trials that the search asked for and that ended, with all of their scores."""
        trials: dict[str, list[TrialRecord]] = {}
        for trial_id, outcome in self.ledger.outcomes.items():
            key = self.ledger.configuration_of[trial_id]
            if key in self.configurations:
                description = self.configurations[key]
                trials.setdefault(description.setting, []).append(_record(key, description, outcome))
        return trials

    @cached_property
    def num_running(self) -> Counter[str]:
        """Setting -> number of trials that the search asked for, that went to a worker and have not ended."""
        running = [trial_id for trial_id in self.ledger.dispatched if trial_id not in self.ledger.outcomes]
        if not running:
            return Counter()
        setting_of_trial = {
            description.trial_id(seed): description.setting
            for description in self.configurations.values()
            for seed in self.description.seeds
        }
        return Counter(setting_of_trial[trial_id] for trial_id in running if trial_id in setting_of_trial)

    @property
    def labels(self) -> list[str]:
        """The settings that trials were started on, sorted."""
        return sorted({*self.trials, *self.num_running})

    def load(self, setting: str | None = None, objectives: Sequence[str] | None = None) -> LoadedSweep:
        """Read one setting, as `analysis.tables.mlflow_runs.load` does from MLflow. Raise UserError."""
        name = self.description.name
        label = choose_setting(self.labels, name, setting) if self.labels or setting else None
        described = self.description.setting(label or self.description.settings[0].label)
        scores = {score.name: score for score in self.description.scores}
        return LoadedSweep.of_trials(
            name,
            label,
            choose_objectives(described.objectives, scores, objectives),
            self.trials.get(label or "", []),
            num_running=self.num_running[label or ""],
            base_scores=_finite_means(self.ledger.bases.get(label or "", {})),
            grades=read_grades(file) if (file := self._grades_file(label)).is_file() else (),
            scores=scores,
            methods=self.methods,
        )

    def load_records(self) -> dict[str, list[TrialRecord]]:
        """Return all trials that ended, with all of their scores, by setting. Raise UserError."""
        return {
            label: counted(self.trials[label], self.description.setting(label).objectives)
            for label in sorted(self.trials)
        }

    def _grades_file(self, label: str | None) -> Path:
        return SweepFolder(self.folder).questions / grades_file(label or "")


def _record(key: str, description: ConfigurationDescription, outcome: Mapping[str, Any]) -> TrialRecord:
    cost = outcome["cost"]
    return TrialRecord(
        Configuration(key, description.method, description.label, description.coefficients, description.training),
        seed=outcome["trial"]["seed"],
        status=outcome["status"],
        scores=_finite_means(outcome["scores"]),
        tokens=cost["tokens"] + cost["inherited_tokens"],
        seconds=cost["seconds"] + cost["inherited_seconds"],
        reason=outcome["reason"] or "",
        counts={name: score["n"] for name, score in outcome["scores"].items()},
    )


def _finite_means(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {name: score["mean"] for name, score in scores.items() if math.isfinite(score["mean"])}
