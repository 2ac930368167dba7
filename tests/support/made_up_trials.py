"""Makes up small trials, tables of scores and results of settings, with means that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.study.setting_results import SettingResults
from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from settings.setting import Status

TASK = Objective("task", "task", True, "share of replies that solve the task")
ALIGNMENT = Objective("alignment", "alignment", True, "share of aligned replies")
OBJECTIVES = (TASK, ALIGNMENT)


def configuration(method: str, **coefficients: float | str) -> Configuration:
    label = ", ".join(f"{name}={value}" for name, value in coefficients.items())
    return Configuration(f"{method}/{label}", method, label, coefficients)


def record(
    which: Configuration, seed: int, task: float = 0.0, alignment: float = 0.0, status: Status = "finished"
) -> TrialRecord:
    return TrialRecord(which, seed, status, {"task": task, "alignment": alignment} if status == "finished" else {})


def table(records: Sequence[TrialRecord], objectives: Sequence[Objective] = OBJECTIVES) -> ScoreTable:
    return ScoreTable.from_records(records, objectives)


PLAIN, KL1, KL10 = configuration("plain"), configuration("kl", beta=1.0), configuration("kl", beta=10.0)

# Means (task, alignment): plain (.9, .1), KL 1 (.8, .6), KL 10 (.5, .5). KL 1 dominates KL 10.
TRIALS = (
    record(PLAIN, 0, 0.8, 0.1),
    record(PLAIN, 1, 1.0, 0.1),
    record(KL1, 0, 0.7, 0.6),
    record(KL1, 1, 0.9, 0.6),
    record(KL10, 0, 0.4, 0.4),
    record(KL10, 1, 0.6, 0.6),
)


def setting_results(
    means: Sequence[tuple[Configuration, Mapping[str, float]]],
    base: Mapping[str, float],
    seeds: int = 4,
    noise: float = 0.01,
    objectives: Sequence[Objective] = OBJECTIVES,
    sweep: str = "made-up",
    **options: object,
) -> SettingResults:
    """Make a setting whose trials have these means; seeds move all scores up and down together, by `noise`."""
    offsets = [noise * (seed - (seeds - 1) / 2) for seed in range(seeds)]
    records = [
        TrialRecord(which, seed, "finished", {name: mean + offset for name, mean in scores.items()})
        for which, scores in means
        for seed, offset in enumerate(offsets)
    ]
    return SettingResults(
        sweep=sweep,
        setting=f"{sweep} setting",
        options=options,
        objectives=tuple(objectives),
        records=tuple(records),
        base=base,
        base_counts=dict.fromkeys(base, 50),
    )
