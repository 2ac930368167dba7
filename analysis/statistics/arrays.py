"""What all modules of statistics share: array types, means that skip missing values, numbers as data and as text.

Shape legend: N means, M objectives.
"""

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


def round_means(means_NM: ArrayLike) -> Floats:
    """Round means, so that those of the same scores in another order are equal, for dominance and ties; nan stays nan.

    Each number keeps `DIGITS` digits, and one below the median size of its column the decimals of that.
    """
    rounded_NM = np.array(means_NM, dtype=np.float64)
    for column_N in rounded_NM.T:
        size_N = np.abs(column_N[np.isfinite(column_N)])
        if not size_N.any():
            continue
        scale_N = np.maximum(np.abs(column_N), np.median(size_N[size_N > 0]))
        with np.errstate(invalid="ignore", over="ignore"):
            step_N = 10.0 ** (np.ceil(np.log10(scale_N)) - DIGITS)
            kept_N = np.round(column_N / step_N) * step_N
        column_N[:] = np.where(np.isfinite(kept_N) & (step_N > 0), kept_N, column_N)
    return rounded_NM


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
