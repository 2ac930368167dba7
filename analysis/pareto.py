"""Dominance and hypervolume. Larger is better in every objective; see `analysis.scores` for the sign.

Shape suffixes: N points, M objectives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def non_dominated(points_NM: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    a dominates b when a >= b in every objective and a > b in at least one. Exactly equal points do not dominate each
    other: both are kept, or both are not.

    Args:
        points_NM: N may be 0.

    Returns:
        bool_N.

    Raises ValueError: not two-dimensional; nan or infinity, naming the row (from 0).
    """
    points = _checked(points_NM)
    other, point = points[:, None, :], points[None, :, :]
    dominates_NN = (other >= point).all(axis=2) & (other > point).any(axis=2)
    return np.logical_not(dominates_NN.any(axis=0))


def hypervolume(points_NM: ArrayLike, reference_M: ArrayLike) -> float:
    """Volume of the region that the points dominate and that is better than the reference; exact, M = 2 or 3.

    By sweeping the last objective downwards: between two neighbouring values, the slice is the region dominated by
    the points above, in one objective less (Fonseca, Paquete and Lopez-Ibanez 2006, "An improved dimension-sweep
    algorithm for the hypervolume indicator", without its data structures: O(N log N) for M = 2, O(N^2 log N) for 3).

    Args:
        points_NM: dominated points and ties change nothing; a point that is not strictly better than the reference in
            every objective contributes nothing. N may be 0, which gives 0.
        reference_M: the worst corner.

    Returns:
        The volume, in the product of the objectives' units.

    Raises ValueError: M is not 2 or 3; nan or infinity.
    """
    points, reference = _checked(points_NM), np.asarray(reference_M, dtype=np.float64)
    if reference.shape not in ((2,), (3,)) or points.shape[1] != reference.size:
        raise ValueError(
            f"hypervolume needs points [N, M] and a reference [M], M = 2 or 3, got {points.shape} and {reference.shape}"
        )
    if not np.isfinite(reference).all():
        raise ValueError(f"the reference of a hypervolume must be finite, got {reference.tolist()}")
    points = points[(points > reference).all(axis=1)]
    if not len(points):
        return 0.0
    return _area(points, reference) if reference.size == 2 else _volume(points, reference)


def _area(points_N2: Floats, reference_2: Floats) -> float:
    """From the largest x down, each strip is as wide as the gap to the next x and as high as the best y so far."""
    sorted_N2 = points_N2[np.argsort(-points_N2[:, 0], kind="stable")]
    width_N = sorted_N2[:, 0] - np.append(sorted_N2[1:, 0], reference_2[0])
    height_N = np.maximum.accumulate(sorted_N2[:, 1]) - reference_2[1]
    return float(width_N @ height_N)


def _volume(points_N3: Floats, reference_3: Floats) -> float:
    """From the largest z down, each slab is as thick as the gap to the next z and has the area of the points so far."""
    sorted_N3 = points_N3[np.argsort(-points_N3[:, 2], kind="stable")]
    thickness_N = sorted_N3[:, 2] - np.append(sorted_N3[1:, 2], reference_3[2])
    areas = (_area(sorted_N3[: count + 1, :2], reference_3[:2]) for count in range(len(sorted_N3)))
    return float(sum(thickness * area for thickness, area in zip(thickness_N, areas, strict=True) if thickness))


def _checked(points_NM: ArrayLike) -> Floats:
    points = np.asarray(points_NM, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"points must have the shape [N, M], got {points.shape}")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"row {row} of the points is not finite: {points[row].tolist()}")
    return points
