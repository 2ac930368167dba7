"""Which methods have no value near an end of the controls' curves, where then only the controls have points.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from analysis.findings.arms import control_of, definition_of, families, is_plain
from analysis.statistics.arrays import Floats, nan_mean
from analysis.tables.scores import ScoreTable

NEAR = 0.15  # part of the way between base model and plain fine-tuning that counts as near an end
End = Literal["the base model", "plain fine-tuning"]


def far_from(end: End, table: ScoreTable, base_M: Floats) -> dict[str, tuple[str, float]]:
    """Return the methods without a configuration near an end in all objectives, each with its nearest one.

    The way from the base model, 0, to plain fine-tuning, 1, is measured in each objective; a configuration's distance
    is the largest of its objectives'. Where plain fine-tuning does not differ from the base model nothing is far.

    Args:
        base_M: scores of the untouched base model.

    Returns:
        method -> the label of its nearest configuration, and the distance of that.
    """
    mean_CM = table.oriented(nan_mean(table.gains_CSM, axis=1))  # back from gains to scores
    rows, family_C = table.configurations, families(table.configurations)
    far = {}
    for method in sorted(set(family_C.tolist())):
        definition = definition_of(method)
        whole = [
            number
            for number, row in enumerate(rows)
            if is_plain(row.method) and definition_of(row.method) == definition and control_of(row) is None
        ]
        span_M = mean_CM[whole[0]] - base_M if whole else np.zeros_like(base_M)
        if is_plain(method) or not np.abs(span_M).min(initial=np.inf) > 0:
            continue
        own = [int(row) for row in np.flatnonzero(family_C == method) if np.isfinite(mean_CM[row]).all()]
        place_CM = (mean_CM[own] - base_M) / span_M - (end == "plain fine-tuning")
        if own and (distance_C := np.abs(place_CM).max(axis=1)).min() > NEAR:
            nearest = int(distance_C.argmin())
            far[method] = (rows[own[nearest]].label, float(distance_C[nearest]))
    return far
