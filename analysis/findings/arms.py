"""Convert a table to the input of the statistics: which configurations lie on a line, and which share a training.

Shape legend: C configurations, S seeds, M objectives, K configurations of a line, D knobs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.arrays import Floats
from analysis.statistics.measurements import Line, Measurements, measurements
from analysis.tables.scores import Configuration, ScoreTable

PLAIN, BLEND = "plain", "blend"
DEFINITION = re.compile(r" \(\w+\)$")  # suffix of a method's name if it is computed as published
SCALE, CHECKPOINT, MIX = "adapter_scale", "checkpoint_step", "decoding_mix"
READOUTS = (SCALE, CHECKPOINT, MIX)  # coefficients of evaluation, not training: they select a readout of one training
SHORTEST = 3  # values of a knob that a line needs
Control = Literal["checkpoint", "scale", "mix"]
KNOBS: Mapping[Control, str] = {"checkpoint": CHECKPOINT, "scale": SCALE, "mix": MIX}
Coefficients = Mapping[str, float | str]


class Named(Protocol):
    """Anything with a method, a label and coefficients: a configuration, or its point on a frontier."""

    @property
    def method(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def coefficients(self) -> Mapping[str, float | str]: ...


def definition_of(method: str) -> str:
    """Return the part of a method's name that gives its definition; "" for the principled one.

    Methods of different definitions are trained differently, and are not compared.
    """
    match = DEFINITION.search(method)
    return match.group() if match else ""


def is_plain(method: str) -> bool:
    """Say whether a method is plain fine-tuning, under either definition."""
    return method.removesuffix(definition_of(method)) == PLAIN


def plain_title(method: str) -> str:
    """Return the name of plain fine-tuning in figures, with its definition."""
    return f"plain fine-tuning{definition_of(method)}"


def families(configurations: Sequence[Named]) -> NDArray[np.str_]:
    """Return family_C, the method whose front each configuration is part of.

    That is its own, but a blend of two trainings of one method is part of that method's, if it is among them.
    """
    methods = {configuration.method for configuration in configurations}
    family_of_row = []
    for configuration in configurations:
        definition = definition_of(configuration.method)
        ends = {str(configuration.coefficients.get(end, end)).partition(" ")[0] for end in ("first", "second")}
        blended = f"{min(ends)}{definition}"
        is_part = configuration.method == f"{BLEND}{definition}" and len(ends) == 1 and blended in methods
        family_of_row.append(blended if is_part else configuration.method)
    return np.array(family_of_row, dtype=np.str_)


def control_of(configuration: Named) -> Control | None:
    """Return the control that a configuration is a point of; None for methods and for full plain fine-tuning."""
    if not is_plain(configuration.method):
        return None
    if is_mixed(configuration):
        return "mix"
    if configuration.coefficients.get(SCALE, 1.0) != 1.0:
        return "scale"
    return "checkpoint" if CHECKPOINT in configuration.label else None


def is_mixed(configuration: Named) -> bool:
    """Say whether a configuration is mixed with the base model when it is evaluated."""
    return configuration.coefficients.get(MIX, 1.0) != 1.0


def measure(table: ScoreTable, base_M: Floats | None = None) -> Measurements:
    """Return the measurements of a table's configurations with a finished trial, in the table's order.

    Args:
        base_M: scores of the untouched base model, where the controls' lines start; None if one is missing.
    """
    finished = table.rows(table.num_seeds_C > 0)
    return measurements(
        finished.gains_CSM,
        finished.method_C,
        training_C=[training_of(configuration) for configuration in finished.configurations],
        count_CSM=finished.count_CSM,
        ranges=finished.ranges,
        lines=lines_of(finished.configurations, None if base_M is None else finished.oriented(base_M)),
    )


def base_values(table: ScoreTable, base_scores: Mapping[str, float]) -> Floats | None:
    """Return base_M, the untouched base model's score in each objective; None if one is missing."""
    values_M = np.array([base_scores.get(objective.name, np.nan) for objective in table.objectives])
    return values_M if np.isfinite(values_M).all() else None


def training_of(configuration: Configuration) -> str:
    """Return an id of the training that a configuration is read from, derived from its knobs if not recorded."""
    if configuration.training:
        return configuration.training
    if not any(name in configuration.coefficients for name in READOUTS) and not is_plain(configuration.method):
        return configuration.id
    kept = sorted((name, str(value)) for name, value in configuration.coefficients.items() if name not in READOUTS)
    return f"{configuration.method} {kept}"


def lines_of(configurations: Sequence[Configuration], base_M: Floats | None = None) -> list[Line]:
    """Find the lines: configurations of a method that differ only in numeric coefficients.

    If several coefficients vary, but each configuration differs from enough others in only one of them, as in a grid or
    with the two controls, then each row along one coefficient is a line. Otherwise all varying coefficients also span
    one surface.

    Args:
        base_M: gains of the base model, the point where the knobs of the controls are 0.
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[int]] = {}
    values = [_completed(configuration, configurations) for configuration in configurations]
    for row, configuration in enumerate(configurations):
        words = tuple(sorted((name, str(value)) for name, value in values[row].items() if not _is_number(value)))
        names = tuple(sorted((name, "") for name, value in values[row].items() if _is_number(value)))
        groups.setdefault((configuration.method, words + names), []).append(row)
    lines = []
    for (method, _), rows in groups.items():
        numbers = {name for row in rows for name, value in values[row].items() if _is_number(value)}
        knobs = sorted(name for name in numbers if len({values[row][name] for row in rows}) > 1)
        for name_of_line, members in _single_lines(rows, knobs, values):
            starts = is_plain(method) and name_of_line in READOUTS and base_M is not None
            lines.append(_line(members, [name_of_line], values, base_M if starts else None))
        covered = {row for _, members in _single_lines(rows, knobs, values) for row in members}
        if len(knobs) > 1 and covered != set(rows):
            lines.append(_line(rows, knobs, values, None))
    return lines


def _is_number(value: float | str) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _completed(configuration: Configuration, configurations: Sequence[Configuration]) -> dict[str, float | str]:
    """Return the coefficients; full plain fine-tuning is an end of each control's line, even if its record omits it."""
    values = dict(configuration.coefficients)
    if is_plain(configuration.method):
        siblings = [each.coefficients for each in configurations if each.method == configuration.method]
        for name in (SCALE, MIX):
            if any(name in each for each in siblings):
                values.setdefault(name, 1.0)
        steps = [float(each[CHECKPOINT]) for each in siblings if CHECKPOINT in each]
        if steps:
            values.setdefault(CHECKPOINT, max(steps) + 1)
    return values


def _single_lines(
    rows: Sequence[int], knobs: Sequence[str], values: Sequence[Coefficients]
) -> list[tuple[str, list[int]]]:
    """Return (knob, rows) for each line along one knob that has enough values."""
    lines = []
    for knob in knobs:
        beside: dict[tuple[tuple[str, float | str], ...], list[int]] = {}
        for row in rows:
            rest = tuple(sorted((name, values[row][name]) for name in knobs if name != knob))
            beside.setdefault(rest, []).append(row)
        lines += [
            (knob, members)
            for members in beside.values()
            if len({values[row][knob] for row in members}) >= SHORTEST
            or (knob in READOUTS and len({values[row][knob] for row in members}) >= SHORTEST - 1)
        ]
    return lines


def _line(rows: Sequence[int], knobs: Sequence[str], values: Sequence[Coefficients], start_M: Floats | None) -> Line:
    knobs_KD = np.array([[float(values[row][knob]) for knob in knobs] for row in rows])
    return Line(np.array(rows), knobs_KD, start_M)
