"""Compare two sweeps, paired over the seeds that both have.

Shape legend: C configurations, S seeds, M objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.findings.arms import families, is_plain, lines_of, training_of
from analysis.findings.findings import worst_corner_of
from analysis.statistics.arrays import Floats, Integers
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.compare import Difference, Front, compare_fronts
from analysis.statistics.measurements import Measurements, measurements
from analysis.tables.scores import Configuration, ScoreTable
from settings.common.errors import UserError

WHOLE = "whole frontier"


@dataclass(frozen=True)
class SweepComparison:
    """The differences between the frontiers of two sweeps.

    Attributes:
        seeds: those that both sweeps have.
        objectives: names, in the order of the worst corner.
        worst_corner: the corner from which hypervolumes are measured, as scores.
        rows: "whole frontier" and each method of both sweeps -> first minus second, p-values adjusted together.
        only_in_one: methods that only one of the sweeps has.
    """

    seeds: tuple[int, ...]
    objectives: tuple[str, ...]
    worst_corner: tuple[float, ...]
    rows: Mapping[str, Difference]
    only_in_one: tuple[str, ...]


def compare_sweeps(
    names: tuple[str, str], tables: tuple[ScoreTable, ScoreTable], bases: Sequence[Mapping[str, float]] = ()
) -> SweepComparison:
    """Estimate the differences in hypervolume between the frontiers of two sweeps, and of each method that both have.

    Draws of the bootstrap depend on the order of rows, so the pair is always computed in one order: exchanging the
    arguments exchanges signs, to the last digit.

    Args:
        names: the sweeps' names.
        tables: of the same objectives, on one setting or on two that differ only in their training rows.
        bases: scores of the base models, for the worst corner of an unbounded objective.

    Raises UserError: different objectives, not two or three; a sweep in which no configuration has finished two of the
    common seeds.
    """
    _check_alike(names, tables)
    seeds = tuple(sorted(set(tables[0].seeds) & set(tables[1].seeds)))
    parts = [_over_seeds(table, seeds) for table in tables]
    for name, part in zip(names, parts, strict=True):
        if not (part.num_seeds_C > 1).any():
            seeds_of = zip(names, (", ".join(map(str, table.seeds)) for table in tables), strict=True)
            have = "; ".join(f"{sweep}: {numbers}" for sweep, numbers in seeds_of)
            raise UserError(
                f"{name!r} has no configuration with finished trials of two seeds that both sweeps have ({have})"
            )
    order = sorted((0, 1), key=lambda side: (_content(parts[side]), names[side]))
    methods = [set(families(part.configurations).tolist()) for part in parts]
    both = sorted(methods[0] & methods[1])
    ordered = [parts[side] for side in order]
    worst_corner_M = worst_corner_of(_join(ordered), [bases[side] for side in order] if bases else ())
    differences = _differences(
        ordered, [f"{names[side]}[{side}]" for side in order], (WHOLE, *both), ordered[0].oriented(worst_corner_M)
    )
    if order != [0, 1]:
        differences = [-each for each in differences]
    return SweepComparison(
        seeds,
        tuple(objective.name for objective in tables[0].objectives),
        tuple(worst_corner_M.tolist()),
        dict(zip((WHOLE, *both), differences, strict=True)),
        tuple(sorted(methods[0] ^ methods[1])),
    )


def _content(part: ScoreTable) -> tuple[Any, ...]:
    """Return a sort key of a table that depends on its numbers, not on its name."""
    ids = [configuration.id for configuration in part.configurations]
    return ids, part.values_CSM.tobytes(), part.count_CSM.tobytes()


def _differences(
    parts: Sequence[ScoreTable], names: Sequence[str], labels: Sequence[str], worst_corner_M: Floats
) -> list[Difference]:
    """Return, for each label, first minus second; a label is a method or the whole frontier."""
    same = _same_rows(parts)
    first, second = parts
    own = [row for row in range(len(second.configurations)) if row not in same]
    place_C = np.zeros(len(second.configurations), dtype=int)
    place_C[own] = len(first.configurations) + np.arange(len(own))
    place_C[list(same)] = list(same.values())
    methods = [families(part.configurations) for part in parts]
    places = [np.arange(len(first.configurations)), place_C]
    nothing = np.empty((0, len(worst_corner_M)))
    fronts = {}
    for label in labels:
        for name, family_C, at_C in zip(names, methods, places, strict=True):
            rows_C = np.zeros(len(first.configurations) + len(own), dtype=bool)
            rows_C[at_C[(family_C == label) | (label == WHOLE)]] = True
            fronts[f"{name}: {label}"] = Front(rows_C, nothing)
    pairs = [(f"{names[0]}: {label}", f"{names[1]}: {label}") for label in labels]
    return compare_fronts(Bootstrap(_measure_together(parts, own, place_C)), fronts, worst_corner_M, pairs)


def _same_rows(parts: Sequence[ScoreTable]) -> dict[int, int]:
    """Map rows of the second table to rows of the first that are the same trials, on the same curves: they cancel.

    Plain fine-tuning reads no proxy, so with equal scores its trials are the same on settings that differ in theirs.
    """
    trials = [
        [
            (
                str(sorted(each.coefficients.items())) if is_plain(each.method) else each.id,
                each.method,
                part.values_CSM[row].tobytes(),
            )
            for row, each in enumerate(part.configurations)
        ]
        for part in parts
    ]
    keys = [
        [frozenset(ids[row] for row in line.rows_K) for line in lines_of(part.configurations)]
        for part, ids in zip(parts, trials, strict=True)
    ]
    same = set(trials[0]) & set(trials[1])
    apart = set(keys[0]) ^ set(keys[1])
    while changed := [line for line in {*keys[0], *keys[1]} if line & same and (line in apart or not line <= same)]:
        same = same.difference(*changed)
    place = {trial: row for row, trial in enumerate(trials[0])}
    return {row: place[trial] for row, trial in enumerate(trials[1]) if trial in same}


def _measure_together(parts: Sequence[ScoreTable], own: Sequence[int], place_C: Integers) -> Measurements:
    """Measure two tables as one. Each has its own lines and variances; a training that both read counts as one.

    Args:
        own: rows of the second table that the first does not have.
        place_C: where each row of the second table is.
    """
    first, second = parts[0], parts[1].rows(np.isin(np.arange(len(place_C)), own))
    lines = lines_of(first.configurations)
    moved = [replace(line, rows_K=place_C[line.rows_K]) for line in lines_of(parts[1].configurations)]
    lines += [line for line in moved if (line.rows_K >= len(first.configurations)).any()]
    both = list(enumerate((first, second)))
    return measurements(
        np.concatenate([part.gains_CSM for _, part in both]),
        [f"{side}/{method}" for side, part in both for method in part.method_C],
        training_C=[
            each.training or f"{side}/{training_of(each)}" for side, part in both for each in part.configurations
        ],
        count_CSM=np.concatenate([part.count_CSM for _, part in both]),
        ranges=first.ranges,
        lines=lines,
    )


def to_json(names: tuple[str, str], comparison: SweepComparison) -> dict[str, Any]:
    """Return the comparison as JSON data."""
    return {
        "first": names[0],
        "second": names[1],
        "seeds": list(comparison.seeds),
        "objectives": list(comparison.objectives),
        "worst_corner": list(comparison.worst_corner),
        "differences": {label: difference.to_json() for label, difference in comparison.rows.items()},
        "only_in_one": list(comparison.only_in_one),
    }


def _check_alike(names: tuple[str, str], tables: tuple[ScoreTable, ScoreTable]) -> None:
    signs = [[(each.name, each.higher_is_better) for each in table.objectives] for table in tables]
    if signs[0] != signs[1]:
        texts = [", ".join(name for name, _ in sign) for sign in signs]
        raise UserError(
            f"sweeps {names[0]!r} and {names[1]!r} differ in their objectives: {texts[0]} and {texts[1]}; name scores"
            " that both have with --objectives"
        )
    if len(signs[0]) not in (2, 3):
        raise UserError(f"a comparison needs two or three objectives, the sweeps have {len(signs[0])}")


def _over_seeds(table: ScoreTable, seeds: Sequence[int]) -> ScoreTable:
    columns = [table.seeds.index(seed) for seed in seeds]
    part = replace(
        table, seeds=tuple(seeds), values_CSM=table.values_CSM[:, columns], count_CSM=table.count_CSM[:, columns]
    )
    return part.rows(part.num_seeds_C > 0)


def _join(parts: Sequence[ScoreTable]) -> ScoreTable:
    """Join all configurations in one table, for code that looks only at scores."""
    configurations: tuple[Configuration, ...] = sum((part.configurations for part in parts), ())
    return replace(
        parts[0],
        configurations=configurations,
        values_CSM=np.concatenate([part.values_CSM for part in parts]),
        excluded=sum((part.excluded for part in parts), ()),
        cost_C2=np.concatenate([part.cost_C2 for part in parts]),
        count_CSM=np.concatenate([part.count_CSM for part in parts]),
    )
