"""The frontier of a sweep as numbers: every configuration with its intervals, and whether another one dominates it.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from analysis.findings.arms import base_values, measure
from analysis.findings.cautions import P_FRONT
from analysis.statistics.arrays import Bools, finite_or_none
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.intervals import Intervals, intervals_by_method
from analysis.statistics.pareto import non_dominated
from analysis.statistics.proportions import wilson
from analysis.tables.scores import EXCLUDED, Objective, ScoreTable
from settings.common.errors import UserError
from settings.common.files import write_text
from settings.setting import Status

RESERVED = ("method", "configuration", "label", "coefficients", "seeds", "tokens", "seconds", "p_front")
WIDE = 100  # characters
Basis = Literal["seeds", "questions", "none"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval, in the score's own unit and sign. nan where there is none.

    Attributes:
        basis: what the interval is about: other seeds (Student's t), or, of a share that one seed measured, other
            questions (Wilson's), which says nothing of other seeds.
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
        seeds: finished trials that the estimates rest on.
        excluded: status -> trials that ended without a result.
        scores: objective name -> estimate.
        tokens, seconds: the cost of a trial with all that it is built on, means over seeds; nan where unknown.
        on_front: no other configuration dominates its means.
        p_front: share of bootstrap replicates in which none does; nan when no configuration has two seeds.
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
        """Return the point as JSON data, its objectives beside the other keys."""
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

    Dominance is between means over seeds, in all of the objectives. The intervals pool the seeds' variance over each
    method (`analysis.statistics.intervals`). A share that a single seed measured, in a method without a second seed
    anywhere, has Wilson's interval. A configuration without a finished trial has nan scores and is never on the front.

    Args:
        objectives: names; None means all of the table's.
        confidence: of the intervals.
        base_scores: score name -> mean of the untouched base model, where the controls' curves start.
        bootstrap: of the configurations with a finished trial, in these objectives; None makes one.

    Raises UserError: no configuration has a finished trial; no such objective.
    """
    chosen = table if objectives is None else table.select(objectives)
    num_C = chosen.num_seeds_C
    if not num_C.any():
        ended = ", ".join(f"{count} {status}" for status, count in chosen.num_excluded().items() if count)
        raise UserError(f"no trial has finished yet, so there is no frontier ({ended or 'no trial has ended'})")
    finished_C = num_C > 0
    measured = measure(chosen, base_values(chosen, base_scores or {})) if bootstrap is None else bootstrap.measured
    intervals = _spread(intervals_by_method(measured, confidence), finished_C, chosen)
    gain_CM = chosen.oriented(intervals.mean_CM)
    on_front_C = finished_C.copy()
    on_front_C[finished_C] = non_dominated(gain_CM[finished_C])
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
    """Return configuration id -> objective -> mean and interval, as `frontier` has them, and no dominance."""
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

    An objective may not be named like one of the other columns.
    """
    _check_names(points)
    front = [point.to_json() for point in points if point.on_front]
    for point in front:
        del point["p_front"]  # readers of these files know their keys; the CSV and the report have it
    return {"sweep": sweep, "points": front}


def write_json(path: Path, sweep: str, points: Sequence[FrontierPoint]) -> None:
    """Write `front_json` in one move. Raises UserError."""
    write_text(path, json.dumps(front_json(sweep, points), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, points: Sequence[FrontierPoint]) -> None:
    """Write all configurations in one move, on the front or not; nan is an empty cell. Raises UserError."""
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


def rich_table(
    points: Sequence[FrontierPoint],
    objectives: Sequence[Objective],
    title: str = "",
    front_only: bool = False,
    width: int = WIDE,
    brief: Collection[str] = (),
) -> Table:
    """Build a table of the points for the terminal. A star marks the front; brackets are 95 % intervals.

    Args:
        front_only: leave out the others.
        width: of the terminal in characters; what trials cost is left out of a narrow one.
        brief: names of objectives of which a narrow one shows the mean alone, under the last word of the name.
    """
    names = ("P", "n", "tokens", "s") if width >= WIDE else ("P", "n")
    short = brief if width < WIDE else ()
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("", width=1)
    table.add_column("configuration", overflow="fold")
    shown = [objective for objective in objectives if points and objective.name in points[0].scores]
    for objective in shown:
        name = objective.name.rpartition("_")[2] if objective.name in short else objective.name
        table.add_column(Text(f"{name} {objective.arrow}"), justify="right", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, min_width=max(len(name), 3))
    rows = [point for point in points if point.on_front or not front_only]
    equal = _equal_on_front(rows)
    for point in rows:
        num_equal = equal.get(point.configuration, 0)
        if num_equal is None:
            continue
        scores = [(point.scores[objective.name], objective.name in short) for objective in shown]
        cells = [f"{score.mean:.3f}" if alone else cell_text(score) for score, alone in scores]
        also = f" and {num_equal} more that equal it" if num_equal else ""
        excluded = f" ({excluded_text(point.excluded)})" if excluded_text(point.excluded) else ""
        texts = ["*" if point.on_front else "", f"{point.method} {point.label}".strip() + also + excluded, *cells]
        texts += [percent_text(point.p_front), str(point.seeds), _short(point.tokens), _short(point.seconds)]
        texts = texts[: 2 + len(shown) + len(names)]
        table.add_row(*(Text(text) for text in texts), style="" if point.on_front else "dim")
    notes = [
        "* on the frontier of the means; [low, high] is the 95 % interval of the mean over n seeds",
        "P: how probable it is that no other configuration is better in every objective",
    ]
    if "tokens" in names:
        notes.append("tokens of training and seconds (s) are those of one trial, with all that it is built on")
    bases = {point.scores[objective.name].basis for point in rows for objective in shown if point.seeds}
    if "none" in bases:
        notes.append("[-] one seed: no interval")
    if any(0.4 <= point.p_front < 0.995 for point in rows):
        notes.append(f"P is {P_FRONT}")
    if any(_leaves_range(point.scores[objective.name], objective) for point in rows for objective in shown):
        notes.append("a t-interval does not know where a score ends, as a share does at 0 and 1, and a loss at 0")
    if "questions" in bases:
        notes.append("[low, high]q one seed: the interval is about other questions, not other seeds (Wilson)")
    table.caption = Text("\n".join(notes))
    return table


def _equal_on_front(rows: Sequence[FrontierPoint]) -> dict[str, int | None]:
    """Choose one configuration to stand for all of a method with equal scores on the front: the shortest label.

    Returns: configuration -> how many more it stands for; None for those that it stands for.
    """
    groups: dict[Any, list[FrontierPoint]] = {}
    for point in rows:
        if point.on_front:
            ends = tuple((name, score.mean, score.low, score.high) for name, score in point.scores.items())
            groups.setdefault((point.method, ends), []).append(point)
    shown = {min(same, key=lambda point: len(point.label)).configuration: len(same) - 1 for same in groups.values()}
    return {point.configuration: shown.get(point.configuration) for same in groups.values() for point in same}


def varying_coefficients(points: Sequence[FrontierPoint]) -> list[str]:
    """Return the names of the coefficients that vary over a method's points, sorted."""
    names = sorted({name for point in points for name in point.coefficients})
    return [name for name in names if len({str(point.coefficients.get(name)) for point in points}) > 1]


def knob_of(points: Sequence[FrontierPoint]) -> str | None:
    """Return a method's only varying coefficient if it is a number, so that its points lie on a curve; else None."""
    names = varying_coefficients(points)
    single = len(names) == 1 and all(isinstance(point.coefficients.get(names[0]), int | float) for point in points)
    return names[0] if single else None


def _leaves_range(estimate: Estimate, objective: Objective) -> bool:
    """Return whether an interval reaches beyond an end of its score, or of what may be a share."""
    low, high = objective.ends
    if (objective.low, objective.high) == (None, None) and 0 <= estimate.mean <= 1:
        low, high = 0.0, 1.0
    return estimate.low < low or estimate.high > high


def excluded_text(counts: Mapping[Status, int]) -> str:
    """Format the trials without a result, e.g. "1 invalid, 2 failed"; "" when there are none."""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def cell_text(estimate: Estimate) -> str:
    if math.isnan(estimate.mean):
        return "no result"
    ends = "-" if math.isnan(estimate.low) else f"{estimate.low:.2f}, {estimate.high:.2f}"
    return f"{estimate.mean:.3f} [{ends}]{'q' if estimate.basis == 'questions' else ''}"


def percent_text(share: float) -> str:
    """Format a probability as whole percent; "-" for nan, and 100 % for certainty only."""
    if math.isnan(share):
        return "-"
    return ">99%" if 0.995 <= share < 1 else "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _short(number: float) -> str:
    """Format a number to two or three significant digits, e.g. "3.1", "52", "410k", "1.2M"; "-" for nan."""
    if math.isnan(number):
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"


def _check_names(points: Sequence[FrontierPoint]) -> None:
    clash = sorted({name for point in points for name in point.scores} & {*RESERVED, *EXCLUDED, "on_front"})
    if clash:
        raise UserError(f"an objective cannot be named {clash[0]!r}: the frontier's files have a column of that name")
