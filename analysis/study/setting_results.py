"""One setting of a sweep, as input of a figure of the study: any score of any configuration, with its interval.

Intervals over seeds pool the variance of a method's configurations (`analysis.statistics.intervals`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.findings.arms import control_of, measure
from analysis.findings.frontier import Estimate
from analysis.statistics.intervals import intervals_by_method
from analysis.statistics.proportions import wilson
from analysis.study.effects import Shares
from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from settings.common.errors import UserError


@dataclass(frozen=True, eq=False)
class SettingResults:
    """The trials of one setting.

    Attributes:
        sweep, setting: the sweep's name, and the setting's label.
        options: the setting's options in the sweep.
        objectives: what the sweep trades off, task first.
        records: the trials that ended, with all of their scores.
        base: score -> mean of the untouched base model.
        base_counts: score -> number of questions behind that mean.
        described: score -> its description and the ends of its range; a score that is missing counts as unbounded.
    """

    sweep: str
    setting: str
    options: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    records: tuple[TrialRecord, ...]
    base: Mapping[str, float]
    base_counts: Mapping[str, int]
    described: Mapping[str, Objective] = field(default_factory=dict)

    @property
    def table(self) -> ScoreTable:
        """The table of the sweep's objectives. Raises UserError if the trials do not form one."""
        return ScoreTable.from_records(self.records, self.objectives)

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of all scores, sorted."""
        return tuple(sorted({name for record in self.records for name in record.scores}))

    @property
    def num_seeds(self) -> int:
        """The number of seeds with a finished trial."""
        return len({record.seed for record in self.records if record.status == "finished"})

    def configurations(self, method: str) -> list[Configuration]:
        """List a method's configurations with a finished trial, by coefficients; plain's controls are left out."""
        finished = {record.configuration.id for record in self.records if record.status == "finished"}
        return [
            row
            for row in self.table.configurations
            if row.method == method and row.id in finished and control_of(row) is None
        ]

    def only(self, method: str) -> Configuration:
        """Return the only configuration of a method. Raises UserError unless exactly one has finished."""
        finished = self.configurations(method)
        if len(finished) != 1:
            raise UserError(
                f"sweep {self.sweep!r}, {self.setting}: {len(finished)} configurations of {method} have finished"
                " trials, but the figure needs one"
            )
        return finished[0]

    def values(self, configuration: Configuration, score: str) -> dict[int, float]:
        """Map each seed to its score, over the finished trials that have it; as `Shares` if it is one of questions."""
        records = [
            record
            for record in self.records
            if record.configuration.id == configuration.id
            and record.status == "finished"
            and math.isfinite(record.scores.get(score, math.nan))
        ]
        values = {record.seed: record.scores[score] for record in records}
        questions = {record.seed: record.counts.get(score, 0) for record in records}
        return Shares(values, questions) if _are_shares(values, questions) else values

    def estimates(self, score: str) -> dict[str, Estimate]:
        """Map the id of each configuration that has the score to its mean over seeds with its interval."""
        measured = [record for record in self.records if math.isfinite(record.scores.get(score, math.nan))]
        finished = [record for record in measured if record.status == "finished"]
        if not finished:
            return {}
        objective = replace(self.described.get(score, Objective(score, "alignment")), higher_is_better=True)  # as it is
        table = ScoreTable.from_records(finished, [objective])
        intervals = intervals_by_method(measure(table))
        return {
            configuration.id: Estimate(
                float(intervals.mean_CM[row, 0]), float(intervals.low_CM[row, 0]), float(intervals.high_CM[row, 0])
            )
            for row, configuration in enumerate(table.configurations)
        }

    def base_estimate(self, score: str) -> Estimate:
        """Estimate a score of the base model, which has no seeds: Wilson's interval over the questions."""
        mean, number = self.base.get(score, math.nan), self.base_counts.get(score, 0)
        if math.isnan(mean) or not number or not 0 <= mean <= 1:
            return Estimate(mean, math.nan, math.nan, "none")
        return Estimate(mean, *wilson(mean * number, number), "questions")

    def with_mean(self, name: str, scores: Sequence[str]) -> SettingResults:
        """Add a score: the mean of other scores, for trials that have all of them."""

        def add_mean(values: Mapping[str, float]) -> Mapping[str, float]:
            if not all(score in values for score in scores):
                return values
            return {**values, name: sum(values[score] for score in scores) / len(scores)}

        def add_count(counts: Mapping[str, int]) -> Mapping[str, int]:
            numbers = [counts.get(score, 0) for score in scores]
            return {**counts, name: sum(numbers)} if len({*numbers}) == 1 and numbers[0] else counts

        records = tuple(
            replace(record, scores=add_mean(record.scores), counts=add_count(record.counts)) for record in self.records
        )
        counts = {**self.base_counts, name: sum(self.base_counts.get(score, 0) for score in scores)}
        described = dict(self.described)
        if all(score in described for score in scores):
            described[name] = replace(described[scores[0]], name=name)
        return replace(self, records=records, base=add_mean(self.base), base_counts=counts, described=described)


def _are_shares(values: Mapping[int, float], questions: Mapping[int, int]) -> bool:
    """Return whether every value times its number of questions is a whole number of them."""
    hits = [(values[seed] * number, number) for seed, number in questions.items()]
    return all(number and 0 <= hit <= number and abs(hit - round(hit)) < 1e-6 * number for hit, number in hits)
