"""Which methods have no value near an end of the controls' curves: the base model, and plain fine-tuning.

Shape legend: C configurations, M objectives, K configurations of a method.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from analysis.findings.arms import control_of, definition_of, families, is_plain
from analysis.statistics.arrays import Bools, Floats, nan_mean
from analysis.tables.scores import ScoreTable

NEAR = 0.15  # part of the way between base model and plain fine-tuning that counts as near an end
SEEN = 0.1  # least difference of the ends, in parts of the range of an objective's means, that has a way between them
End = Literal["the base model", "plain fine-tuning"]


def far_from(end: End, table: ScoreTable, base_M: Floats) -> dict[str, tuple[str, float]] | None:
    """Return the methods without a configuration near an end in all objectives, each with its nearest one.

    The way from the base model, 0, to plain fine-tuning, 1, is measured in each objective; a configuration's distance
    is the largest of its objectives'.

    Args:
        base_M: scores of the untouched base model.

    Returns:
        method -> the label of its nearest configuration, and the distance of that; None where there is no way: without
        plain fine-tuning, or if it equals the base model in an objective.
    """
    far, is_known = {}, False
    for method, rows_K, gained_M, way_KM in _ways(table, base_M):
        if not gained_M.all():
            continue
        is_known = True
        distance_K = np.abs(way_KM - (end == "plain fine-tuning")).max(axis=1)
        nearest = int(distance_K.argmin())
        if distance_K[nearest] > NEAR:
            far[method] = (table.configurations[rows_K[nearest]].label, float(distance_K[nearest]))
    return far if is_known else None


def unreached(end: End, table: ScoreTable, base_M: Floats) -> list[str]:
    """Return the methods that nowhere come as far as an end of the controls' curves, so that these alone have points.

    A method reaches plain fine-tuning if a configuration gains as much in all that plain fine-tuning gains, and the
    base model if one loses as little in all that plain fine-tuning loses, whatever its other scores. Objectives in
    which the ends hardly differ are left out.

    Args:
        base_M: scores of the untouched base model.
    """
    missing = []
    for method, _, gained_M, way_KM in _ways(table, base_M, SEEN):
        if end == "plain fine-tuning":
            side_M, reached_KM = gained_M > 0, way_KM >= 1 - NEAR
        else:
            side_M, reached_KM = gained_M < 0, way_KM <= NEAR
        if side_M.any() and not reached_KM[:, side_M].all(axis=1).any():
            missing.append(method)
    return missing


def _ways(table: ScoreTable, base_M: Floats, least: float = 0.0) -> Iterator[tuple[str, list[int], Floats, Floats]]:
    """Yield each method with the rows of its configurations, what plain fine-tuning gains, and how far these have come.

    What it gains is 0 where it is at most `least` of the range of the objective's means; the way is nan there.
    """
    gain_CM, base_gain_M = nan_mean(table.gains_CSM, axis=1), table.oriented(base_M)
    finished_C: Bools = np.asarray(np.isfinite(gain_CM).all(axis=1))
    rows, family_C = table.configurations, families(table.configurations)
    for method in sorted(set(family_C.tolist())):
        definition = definition_of(method)
        whole = [
            number
            for number, row in enumerate(rows)
            if finished_C[number]
            and is_plain(row.method)
            and definition_of(row.method) == definition
            and control_of(row) is None
        ]
        rows_K = np.flatnonzero((family_C == method) & finished_C).tolist()
        if is_plain(method) or not whole or not rows_K:
            continue
        gained_M = gain_CM[whole[0]] - base_gain_M
        range_M = np.ptp(np.vstack([gain_CM[finished_C], base_gain_M]), axis=0)
        gained_M = np.where(np.abs(gained_M) > least * range_M, gained_M, 0.0)
        way_KM = np.full((len(rows_K), len(gained_M)), np.nan)
        np.divide(gain_CM[rows_K] - base_gain_M, gained_M, out=way_KM, where=gained_M != 0)
        yield method, rows_K, gained_M, way_KM
