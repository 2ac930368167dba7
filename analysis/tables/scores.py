"""One array convention for all measurements: configurations x seeds x objectives.

Scores are oriented to "larger is better", and back, here and nowhere else.

Shape legend: C configurations, S seeds, M objectives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.arrays import Floats
from analysis.statistics.ranges import ROUNDING, Ranges
from settings.common.errors import UserError
from settings.setting import Kind, Status

EXCLUDED: tuple[Status, ...] = ("invalid", "failed", "stopped")


@dataclass(frozen=True)
class Objective:
    """A score that a sweep optimises; the fields are those of `settings.setting.Score`.

    Attributes:
        low, high: ends of the score's range; None if it has no end, or an older record does not say.
    """

    name: str
    kind: Kind
    higher_is_better: bool = True
    description: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the score's range; infinite where there is none."""
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high

    @property
    def sign(self) -> float:
        """1, or -1 if lower is better: sign * score is a gain, of which more is always better."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def arrow(self) -> str:
        """Which way is better: up or down."""
        return "↑" if self.higher_is_better else "↓"


@dataclass(frozen=True)
class Configuration:
    """A row of a table: a method with its coefficients, without a seed.

    Attributes:
        id: unique in a table.
        method: its name.
        label: the coefficients as short text, e.g. "beta=0.3"; "" for a method without any.
        coefficients: name -> value.
        training: id of the training it is read from, the same for all readouts of one training; "" if unknown.
    """

    id: str
    method: str
    label: str = ""
    coefficients: Mapping[str, float | str] = field(default_factory=dict)
    training: str = ""

    @property
    def title(self) -> str:
        """Method and label, e.g. "kl_penalty beta=0.3"."""
        return f"{self.method} {self.label}".strip()


@dataclass(frozen=True)
class TrialRecord:
    """How one trial ended. Scores and cost are read only if it finished.

    Attributes:
        tokens, seconds: of training (seconds also of evaluation), including everything that the trial was built on;
            nan if unknown.
        reason: why it did not finish, in one line.
        counts: score name -> number of graded questions, where known.
    """

    configuration: Configuration
    seed: int
    status: Status
    scores: Mapping[str, float] = field(default_factory=dict)
    tokens: float = math.nan
    seconds: float = math.nan
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def counted_for(self, objectives: Iterable[str]) -> TrialRecord:
        """Return the record as it counts for objectives: a finished trial that lacks one of them counts as invalid.

        The search uses the same rule (`sweeps.search`).
        """
        measured = all(math.isfinite(self.scores.get(name, math.nan)) for name in objectives)
        return self if measured or self.status != "finished" else replace(self, status="invalid")


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """The scores of a sweep. Build it with `from_records`.

    Attributes:
        configurations: [C], by method, then coefficient values, then id.
        seeds: [S], ascending; the union over the configurations.
        objectives: [M], task first.
        values_CSM: scores as measured, not oriented; nan exactly where a configuration has no finished trial of a seed.
        excluded: [C], status -> number of trials that ended without a result.
        cost_C2: tokens and seconds of a finished trial, means over seeds; nan where unknown.
        count_CSM: graded questions behind each value; nan where unknown.
        sweep_methods: methods of the whole sweep, which decide how each is drawn; () if only the table's own are known.
    """

    configurations: tuple[Configuration, ...]
    seeds: tuple[int, ...]
    objectives: tuple[Objective, ...]
    values_CSM: Floats
    excluded: tuple[Mapping[Status, int], ...]
    cost_C2: Floats
    count_CSM: Floats
    sweep_methods: tuple[str, ...] = ()

    @staticmethod
    def from_records(
        records: Iterable[TrialRecord], objectives: Sequence[Objective], sweep_methods: Iterable[str] = ()
    ) -> ScoreTable:
        """Build the table from trials in any order.

        Raises UserError, naming the row: a (configuration, seed) that occurs twice; one configuration id with two
        meanings; a finished trial whose objective is missing, nan, infinite or out of its range; an unknown status.
        """
        _check_objectives(objectives)
        rows = sorted(records, key=lambda record: (record.configuration.id, record.seed))
        configurations = _distinct_configurations(rows)
        seeds = sorted({row.seed for row in rows})
        row_of = {configuration.id: index for index, configuration in enumerate(configurations)}
        column_of = {seed: index for index, seed in enumerate(seeds)}
        values_CSM = np.full((len(configurations), len(seeds), len(objectives)), np.nan)
        count_CSM = np.full_like(values_CSM, np.nan)
        excluded: list[Counter[Status]] = [Counter() for _ in configurations]
        costs: list[list[tuple[float, float]]] = [[] for _ in configurations]
        seen: set[tuple[str, int]] = set()
        for row in rows:
            key = (row.configuration.id, row.seed)
            if key in seen:
                raise UserError(f"{_name(row)} occurs twice")
            seen.add(key)
            index = row_of[row.configuration.id]
            if row.status == "finished":
                values_CSM[index, column_of[row.seed]] = _objective_values(row, objectives)
                counts_M = [row.counts.get(objective.name, math.nan) for objective in objectives]
                count_CSM[index, column_of[row.seed]] = counts_M
                costs[index].append((row.tokens, row.seconds))
            elif row.status in EXCLUDED:
                excluded[index][row.status] += 1
            else:
                raise UserError(f"{_name(row)}: unknown status {row.status!r}; known: {', '.join(get_args(Status))}")
        cost_C2 = np.array([np.mean(cost, axis=0) if cost else (np.nan, np.nan) for cost in costs]).reshape(-1, 2)
        values_CSM.flags.writeable = cost_C2.flags.writeable = count_CSM.flags.writeable = False
        counts = tuple({status: counter[status] for status in EXCLUDED} for counter in excluded)
        return ScoreTable(
            tuple(configurations),
            tuple(seeds),
            tuple(objectives),
            values_CSM,
            counts,
            cost_C2,
            count_CSM,
            tuple(sorted(set(sweep_methods))),
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, sorted."""
        return tuple(sorted({configuration.method for configuration in self.configurations}))

    @property
    def drawn_methods(self) -> tuple[str, ...]:
        """The methods of the whole sweep, sorted; their places in this list decide colours and shapes."""
        return tuple(sorted({*self.sweep_methods, *self.methods}))

    @property
    def method_C(self) -> NDArray[np.str_]:
        """Each row's method."""
        return np.array([configuration.method for configuration in self.configurations], dtype=np.str_)

    @property
    def num_seeds_C(self) -> NDArray[np.int_]:
        """Finished trials of each configuration."""
        return (~np.isnan(self.values_CSM)).all(axis=2).sum(axis=1)

    @property
    def ranges(self) -> Ranges:
        """The ends of the objectives, as gains."""
        ends = [objective.ends for objective in self.objectives]
        oriented = [
            (low, high) if objective.higher_is_better else (-high, -low)
            for (low, high), objective in zip(ends, self.objectives, strict=True)
        ]
        return Ranges.of(oriented)

    @property
    def gains_CSM(self) -> Floats:
        """The scores, oriented so that larger is better."""
        return self.oriented(self.values_CSM)

    def oriented(self, values_M: Floats) -> Floats:
        """Flip the objectives where less is better: scores to gains, and gains back to scores.

        Takes any shape that ends in M.
        """
        return values_M * np.array([objective.sign for objective in self.objectives])

    def index(self, name: str) -> int:
        """Return the column of an objective. Raises UserError."""
        names = [objective.name for objective in self.objectives]
        if name not in names:
            raise UserError(f"no objective {name!r}; there are {', '.join(names)}")
        return names.index(name)

    def select(self, names: Sequence[str]) -> ScoreTable:
        """Return the table with these objectives, in this order. Raises UserError."""
        columns = [self.index(name) for name in names]
        objectives = tuple(self.objectives[column] for column in columns)
        return replace(  # np.take keeps the layout, so that sums over it have the same last bits
            self,
            objectives=objectives,
            values_CSM=np.take(self.values_CSM, columns, axis=2),
            count_CSM=np.take(self.count_CSM, columns, axis=2),
        )

    def rows(self, keep_C: NDArray[np.bool_]) -> ScoreTable:
        """Return the table with only the configurations that `keep_C` marks."""
        kept = np.flatnonzero(keep_C).tolist()
        return replace(
            self,
            configurations=tuple(self.configurations[row] for row in kept),
            values_CSM=self.values_CSM[kept],
            excluded=tuple(self.excluded[row] for row in kept),
            cost_C2=self.cost_C2[kept],
            count_CSM=self.count_CSM[kept],
        )

    def num_excluded(self) -> dict[Status, int]:
        """Count the trials without a result in the whole table, by status."""
        return {status: sum(counts[status] for counts in self.excluded) for status in EXCLUDED}


def _check_objectives(objectives: Sequence[Objective]) -> None:
    names = [objective.name for objective in objectives]
    if not names or len(set(names)) != len(names):
        raise UserError(f"a table needs objectives with different names, got {names}")


def _distinct_configurations(rows: Sequence[TrialRecord]) -> list[Configuration]:
    by_id: dict[str, Configuration] = {}
    for row in rows:
        first = by_id.setdefault(row.configuration.id, row.configuration)
        if first != row.configuration:
            raise UserError(
                f"configuration {first.id!r} has two meanings: {_meaning(first)} and {_meaning(row.configuration)}"
            )
    return sorted(by_id.values(), key=order_of)


def _meaning(configuration: Configuration) -> str:
    return f"{configuration.method} {dict(configuration.coefficients)} labelled {configuration.label!r}"


def order_of(configuration: Configuration) -> tuple[str, list[tuple[str, bool, float, str]], str]:
    """Return a sort key: method, then coefficients by name (numbers before words), then id."""
    coefficients = [
        (name, False, float(value), "") if isinstance(value, int | float) else (name, True, 0.0, str(value))
        for name, value in sorted(configuration.coefficients.items())
    ]
    return configuration.method, coefficients, configuration.id


def _objective_values(row: TrialRecord, objectives: Sequence[Objective]) -> list[float]:
    values = []
    for objective in objectives:
        if objective.name not in row.scores:
            raise UserError(f"{_name(row)} is finished but has no score {objective.name!r}")
        value = float(row.scores[objective.name])
        if not math.isfinite(value):
            raise UserError(f"{_name(row)} is finished but its score {objective.name!r} is {value}")
        low, high = objective.ends
        if not low - ROUNDING <= value <= high + ROUNDING:
            raise UserError(
                f"{_name(row)}: its score {objective.name!r} is {value}, outside its range [{low:g}, {high:g}]"
            )
        values.append(value)
    return values


def _name(row: TrialRecord) -> str:
    return f"trial {row.configuration.title!r} (configuration {row.configuration.id}, seed {row.seed})"
