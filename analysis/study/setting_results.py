"""One setting of a sweep as a figure of the gallery reads it: any score of any configuration, with its interval.

Intervals over seeds pool the variance of a method's configurations (`analysis.statistics.intervals`); differences
are paired over the seeds that both sides have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from analysis.findings.controls import control_of
from analysis.findings.frontier import Estimate
from analysis.statistics.intervals import intervals_by_method, wilson
from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError

BySeed = Mapping[int, float]


@dataclass(frozen=True, eq=False)
class SettingResults:
    """The trials of one setting.

    Attributes:
        sweep, setting: the sweep's name, and the setting's label.
        options: of the setting, as the sweep has them.
        objectives: what the sweep trades off, task first.
        records: the trials that ended, with all of their scores.
        base: score -> mean of the untouched base model.
        base_counts: score -> questions behind it.
    """

    sweep: str
    setting: str
    options: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    records: tuple[TrialRecord, ...]
    base: Mapping[str, float]
    base_counts: Mapping[str, int]

    @property
    def table(self) -> ScoreTable:
        """Of the objectives. Raises UserError for trials that make no table."""
        return ScoreTable.from_records(self.records, self.objectives)

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all scores, sorted."""
        return tuple(sorted({name for record in self.records for name in record.scores}))

    @property
    def num_seeds(self) -> int:
        """Seeds with a finished trial."""
        return len({record.seed for record in self.records if record.status == "finished"})

    def configurations(self, method: str) -> list[Configuration]:
        """Those of a method that have finished, in the order of their coefficients; no control among plain's."""
        rows = self.table.configurations
        finished = {record.configuration.id for record in self.records if record.status == "finished"}
        return [one for one in rows if one.method == method and one.id in finished and control_of(one) is None]

    def only(self, method: str) -> Configuration:
        """The one configuration of a method. Raises UserError when it has none, or several, that have finished."""
        found = self.configurations(method)
        if len(found) != 1:
            raise UserError(
                f"sweep {self.sweep!r}, {self.setting}: {len(found)} configurations of {method} have finished trials,"
                " and the figure needs one"
            )
        return found[0]

    def values(self, configuration: Configuration, score: str) -> dict[int, float]:
        """Seed -> score of the finished trials that have it."""
        return {
            record.seed: record.scores[score]
            for record in self.records
            if record.configuration.id == configuration.id
            and record.status == "finished"
            and math.isfinite(record.scores.get(score, math.nan))
        }

    def estimates(self, score: str) -> dict[str, Estimate]:
        """Configuration id -> mean over seeds with its interval; of a configuration with the score."""
        rows = [record for record in self.records if math.isfinite(record.scores.get(score, math.nan))]
        finished = [record for record in rows if record.status == "finished"]
        if not finished:
            return {}
        table = ScoreTable.from_records(finished, [Objective(score, "alignment")])
        found = intervals_by_method(table.values_CSM, table.method_C)
        return {
            one.id: Estimate(float(found.mean_CM[row, 0]), float(found.low_CM[row, 0]), float(found.high_CM[row, 0]))
            for row, one in enumerate(table.configurations)
        }

    def base_estimate(self, score: str) -> Estimate:
        """Of the base model, which has no seeds: Wilson's interval over the questions."""
        mean, number = self.base.get(score, math.nan), self.base_counts.get(score, 0)
        if math.isnan(mean) or not number or not 0 <= mean <= 1:
            return Estimate(mean, math.nan, math.nan, "none")
        return Estimate(mean, *wilson(mean * number, number), "questions")

    def with_mean(self, name: str, scores: Sequence[str]) -> SettingResults:
        """With one more score, the mean of some; of trials that have them all."""

        def extended(values: Mapping[str, float]) -> Mapping[str, float]:
            there = [values[score] for score in scores if score in values]
            return {**values, name: sum(there) / len(there)} if len(there) == len(scores) else values

        records = tuple(replace(record, scores=extended(record.scores)) for record in self.records)
        counts = {**self.base_counts, name: sum(self.base_counts.get(score, 0) for score in scores)}
        return replace(self, records=records, base=extended(self.base), base_counts=counts)


def average(several: Sequence[BySeed]) -> dict[int, float]:
    """The mean of several columns, seed by seed; seeds that one of them lacks are left out."""
    common = set.intersection(*(set(one) for one in several)) if several else set()
    return {seed: sum(one[seed] for one in several) / len(several) for seed in sorted(common)}


def over_seeds(values: BySeed, confidence: float = 0.95) -> Estimate:
    """The mean with Student's interval; no interval with less than two seeds."""
    given = np.array(list(values.values()))
    if not len(given):
        return Estimate(math.nan, math.nan, math.nan, "none")
    mean = float(given.mean())
    if len(given) < 2:
        return Estimate(mean, math.nan, math.nan, "none")
    half = float(stdtrit(len(given) - 1, (1 + confidence) / 2) * given.std(ddof=1) / math.sqrt(len(given)))
    return Estimate(mean, mean - half, mean + half)


def minus(first: BySeed, second: BySeed | float) -> Estimate:
    """first - second, paired over common seeds; or a number known without noise taken off."""
    if isinstance(second, int | float):
        return over_seeds({seed: value - second for seed, value in first.items()})
    return over_seeds({seed: first[seed] - second[seed] for seed in sorted(set(first) & set(second))})


def above(estimate: Estimate, threshold: float = 0.0) -> bool | None:
    """Whether the true value lies above: None where the interval holds the threshold, or there is none."""
    if estimate.low > threshold:
        return True
    return False if estimate.high < threshold else None


def below(estimate: Estimate, threshold: float = 0.0) -> bool | None:
    """Whether the true value lies below: None where the interval holds the threshold, or there is none."""
    if estimate.high < threshold:
        return True
    return False if estimate.low > threshold else None


def shown(estimate: Estimate, sign: bool = False) -> str:
    """Mean and interval as text: "0.83 [0.79, 0.88]"."""
    number = f"{estimate.mean:+.2f}" if sign else f"{estimate.mean:.2f}"
    if math.isnan(estimate.low):
        return number
    ends = (f"{end:+.2f}" if sign else f"{end:.2f}" for end in (estimate.low, estimate.high))
    return f"{number} [{', '.join(ends)}]"
