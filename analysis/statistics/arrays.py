"""What all modules of statistics share: array types, means that skip missing values, numbers as data and as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int_]
DIGITS = 9  # to which equal means agree; sums in another order differ in their last bits


def nan_mean(values: ArrayLike, axis: int = 0) -> Floats:
    """Average over an axis, skipping nan; nan where nothing is left."""
    array = np.asarray(values, dtype=np.float64)
    count = (~np.isnan(array)).sum(axis=axis)
    return np.asarray(np.where(count > 0, np.nansum(array, axis=axis) / np.maximum(count, 1), np.nan))


def settled(means_NM: ArrayLike) -> Floats:
    """Round means, so that those of the same scores in another order are equal, for dominance and ties; nan stays nan.

    Each column keeps `DIGITS` digits of its largest number.
    """
    settled_NM = np.array(means_NM, dtype=np.float64)
    for column_N in settled_NM.T:
        largest = np.abs(column_N[np.isfinite(column_N)]).max(initial=0.0)
        if largest > 0:
            column_N[:] = np.round(column_N, DIGITS - math.ceil(math.log10(largest)))
    return settled_NM


def mean(values: Sequence[float]) -> float:
    """Average numbers; nan if there are none."""
    return sum(values) / len(values) if values else math.nan


def finite_or_none(value: float) -> float | None:
    """Return a number for JSON, which has no nan and no infinity: these become None."""
    return value if math.isfinite(value) else None


def number_text(value: float | None, digits: int = 3) -> str:
    """Format a number with `digits` decimals; "-" for None and nan."""
    return "-" if value is None or math.isnan(value) else f"{value:z.{digits}f}"


def check_confidence(confidence: float) -> None:
    """Raise ValueError unless a confidence lies in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
