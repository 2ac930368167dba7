"""The frontier of a sweep as numbers: every configuration with its intervals, and whether another one dominates it.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from analysis.findings.arms import base_values, measure
from analysis.statistics.arrays import Bools, finite_or_none, round_means
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.intervals import Intervals, intervals_by_method
from analysis.statistics.pareto import non_dominated
from analysis.statistics.proportions import wilson
from analysis.tables.scores import EXCLUDED, ScoreTable
from settings.common.errors import UserError
from settings.common.files import write_text
from settings.setting import Status

RESERVED = ("method", "configuration", "label", "coefficients", "seeds", "tokens", "seconds", "p_front")
Basis = Literal["seeds", "questions", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval, in the score's own unit and sign. Missing numbers are nan.

    Attributes:
        basis: what the interval covers: other seeds (Student's t); or, for a share measured with one seed, other
            questions (Wilson's), which says nothing about other seeds.
    """

    mean: float
    low: float
    high: float
    basis: Basis = "seeds"

    def to_json(self) -> dict[str, float | None]:
        """Return mean and interval as JSON data; nan becomes None."""
        return {name: finite_or_none(getattr(self, name)) for name in ("mean", "low", "high")}


@dataclass(frozen=True)
class FrontierPoint:
    """One configuration.

    Attributes:
        method, configuration, label, coefficients: the configuration's; `configuration` is its id.
        seeds: number of finished trials behind the estimates.
        excluded: status -> number of trials that ended without a result.
        scores: objective name -> estimate.
        tokens, seconds: the cost of a trial, including everything it is built on, means over seeds; nan if unknown.
        on_front: whether no other configuration dominates its means.
        p_front: probability of that, from the bootstrap (`Bootstrap.on_front`); nan if no configuration has two seeds.
    """

    method: str
    configuration: str
    label: str
    coefficients: Mapping[str, float | str]
    seeds: int
    excluded: Mapping[Status, int]
    scores: Mapping[str, Estimate]
    tokens: float
    seconds: float
    on_front: bool
    p_front: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """Return the point as JSON data, with its objectives next to the other keys."""
        facts = {
            "method": self.method,
            "configuration": self.configuration,
            "label": self.label,
            "coefficients": dict(self.coefficients),
            "seeds": self.seeds,
            "tokens": finite_or_none(self.tokens),
            "seconds": finite_or_none(self.seconds),
            "p_front": finite_or_none(self.p_front),
        }
        return facts | {name: estimate.to_json() for name, estimate in self.scores.items()}


def frontier(
    table: ScoreTable,
    objectives: Sequence[str] | None = None,
    confidence: float = 0.95,
    base_scores: Mapping[str, float] | None = None,
    bootstrap: Bootstrap | None = None,
) -> list[FrontierPoint]:
    """List all configurations of a table: those on the front, best in the first objective first, then the others.

    Dominance is between means over seeds, in all of the objectives. The intervals pool the variance between seeds
    within each method (`analysis.statistics.intervals`). A share measured with a single seed, in a method without a
    second seed anywhere, has Wilson's interval. A configuration without a finished trial has nan scores and is never on
    the front.

    Args:
        objectives: names; None means all of the table's.
        confidence: of the intervals.
        base_scores: score name -> mean of the untouched base model, where the controls' curves start.
        bootstrap: of the configurations with a finished trial, in these objectives; None creates one.

    Raises UserError: no configuration has a finished trial; no such objective.
    """
    chosen = table if objectives is None else table.select(objectives)
    num_C = chosen.num_seeds_C
    if not num_C.any():
        ended = ", ".join(f"{count} {status}" for status, count in chosen.num_excluded().items() if count)
        raise UserError(f"no trial has finished yet, so there is no frontier{f' ({ended})' if ended else ''}")
    finished_C = num_C > 0
    measured = measure(chosen, base_values(chosen, base_scores or {})) if bootstrap is None else bootstrap.measured
    intervals = _spread(intervals_by_method(measured, confidence), finished_C, chosen)
    gain_CM = chosen.oriented(intervals.mean_CM)
    on_front_C = finished_C.copy()
    on_front_C[finished_C] = non_dominated(round_means(gain_CM[finished_C]))
    p_front_C = np.full(len(num_C), np.nan)
    if (num_C > 1).any():
        p_front_C[finished_C] = (bootstrap or Bootstrap(measured)).on_front()
    points = []
    for row, configuration in enumerate(chosen.configurations):
        estimates = [_estimate(chosen, intervals, row, column) for column in range(len(chosen.objectives))]
        points.append(
            FrontierPoint(
                method=configuration.method,
                configuration=configuration.id,
                label=configuration.label,
                coefficients=configuration.coefficients,
                seeds=int(num_C[row]),
                excluded=chosen.excluded[row],
                scores={objective.name: item for objective, item in zip(chosen.objectives, estimates, strict=True)},
                tokens=float(chosen.cost_C2[row, 0]),
                seconds=float(chosen.cost_C2[row, 1]),
                on_front=bool(on_front_C[row]),
                p_front=float(p_front_C[row]),
            )
        )
    front = [row for row in range(len(points)) if on_front_C[row]]
    front.sort(key=lambda row: -gain_CM[row, 0])
    return [points[row] for row in front] + [point for point in points if not point.on_front]


def estimates(table: ScoreTable, confidence: float = 0.95) -> dict[str, dict[str, Estimate]]:
    """Return configuration id -> objective -> mean and interval, as in `frontier`, but without dominance."""
    finished_C = table.num_seeds_C > 0
    if not finished_C.any():
        return {}
    intervals = _spread(intervals_by_method(measure(table), confidence), finished_C, table)
    names = [objective.name for objective in table.objectives]
    return {
        configuration.id: {name: _estimate(table, intervals, row, column) for column, name in enumerate(names)}
        for row, configuration in enumerate(table.configurations)
        if finished_C[row]
    }


def _spread(intervals: Intervals, finished_C: Bools, table: ScoreTable) -> Intervals:
    """Return the intervals as scores, in the order of the table's rows; nan for configurations without a trial."""
    ends = []
    for gains_CM in (intervals.mean_CM, intervals.low_CM, intervals.high_CM):
        values_CM = np.full((len(finished_C), gains_CM.shape[1]), np.nan)
        values_CM[finished_C] = table.oriented(gains_CM)
        ends.append(values_CM)
    low_CM, high_CM = np.fmin(ends[1], ends[2]), np.fmax(ends[1], ends[2])
    return Intervals(ends[0], low_CM, high_CM, table.num_seeds_C)


def _estimate(table: ScoreTable, intervals: Intervals, row: int, column: int) -> Estimate:
    mean, low, high = (float(end[row, column]) for end in (intervals.mean_CM, intervals.low_CM, intervals.high_CM))
    if math.isnan(low) and intervals.num_seeds_C[row] == 1:
        number = float(np.nanmax(np.append(table.count_CSM[row, :, column], 0)))
        hits = mean * number
        if number > 0 and 0 <= mean <= 1 and abs(hits - round(hits)) < 1e-6 * number:
            return Estimate(mean, *wilson(round(hits), int(number)), basis="questions")
    return Estimate(mean, low, high, basis="none" if math.isnan(low) else "seeds")


def front_json(sweep: str, points: Sequence[FrontierPoint]) -> dict[str, Any]:
    """Return the points on the front as JSON data: {"sweep": ..., "points": [...]}. Raises UserError.

    An objective may not have the name of another column.
    """
    _check_names(points)
    front = [point.to_json() for point in points if point.on_front]
    for point in front:
        del point["p_front"]  # readers of these files expect fixed keys; the CSV and the report have it
    return {"sweep": sweep, "points": front}


def write_json(path: Path, sweep: str, points: Sequence[FrontierPoint]) -> None:
    """Write `front_json` atomically. Raises UserError."""
    write_text(path, json.dumps(front_json(sweep, points), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, points: Sequence[FrontierPoint]) -> None:
    """Write all configurations atomically, on the front or not; nan is an empty cell. Raises UserError."""
    write_text(path, csv_text(points))


def csv_text(points: Sequence[FrontierPoint]) -> str:
    """Format all configurations as CSV: `<objective>_mean`, `_low`, `_high`; seeds, excluded trials, `on_front`."""
    _check_names(points)
    names = list(points[0].scores) if points else []
    columns = [f"{name}_{end}" for name in names for end in ("mean", "low", "high")]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*RESERVED, *EXCLUDED, *columns, "on_front"])
    for point in points:
        facts = point.to_json() | {"coefficients": json.dumps(dict(point.coefficients))}
        cells = ["" if facts[name] is None else facts[name] for name in RESERVED]
        ends = [value for name in names for value in point.scores[name].to_json().values()]
        counts = [point.excluded[status] for status in EXCLUDED]
        writer.writerow([*cells, *counts, *("" if end is None else end for end in ends), str(point.on_front).lower()])
    return buffer.getvalue()


def varying_coefficients(points: Sequence[FrontierPoint]) -> list[str]:
    """Return the names of the coefficients that vary over a method's points, sorted."""
    names = sorted({name for point in points for name in point.coefficients})
    return [name for name in names if len({str(point.coefficients.get(name)) for point in points}) > 1]


def knob_of(points: Sequence[FrontierPoint]) -> str | None:
    """Return a method's only varying coefficient if it is numeric, so that its points lie on a curve; else None."""
    names = varying_coefficients(points)
    single = len(names) == 1 and all(isinstance(point.coefficients.get(names[0]), int | float) for point in points)
    return names[0] if single else None


def excluded_text(counts: Mapping[Status, int]) -> str:
    """Format the trials without a result, e.g. "1 invalid, 2 failed"; "" if there are none."""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _check_names(points: Sequence[FrontierPoint]) -> None:
    clash = sorted({name for point in points for name in point.scores} & {*RESERVED, *EXCLUDED, "on_front"})
    if clash:
        raise UserError(f"an objective cannot be named {clash[0]!r}: the frontier's files have a column of that name")
