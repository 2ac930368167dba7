"""Dominance, hypervolume and attainment. Larger is better in every objective.

Shape legend: N points, M objectives, B sets of points, S sets of a surface, K points of another set or corners of a
surface.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from analysis.statistics.arrays import Bools, Floats, Integers

CHUNK = 2**22  # numbers in an array of comparisons


def non_dominated(points_NM: ArrayLike) -> Bools:
    """Find the points that no other point dominates.

    a dominates b when a >= b in every objective and a > b in at least one. Exactly equal points do not dominate each
    other: both are kept, or both are not.

    Args:
        points_NM: N may be 0.

    Returns:
        bool_N.

    Raises ValueError: not two-dimensional; nan or infinity, naming the row (from 0).
    """
    return fronts(_checked(points_NM)[None])[0]


def fronts(points_BNM: Floats) -> Bools:
    """Apply `non_dominated` to many sets of equally many finite points at once: O(N log N) for M = 2, else O(N^2).

    Returns:
        bool_BN.
    """
    num_sets, number, objectives = points_BNM.shape
    if objectives == 2:
        return _fronts_of_pairs(points_BNM)
    pieces = min(num_sets, 1 + num_sets * number**2 * objectives // CHUNK)
    return np.concatenate([np.logical_not(dominated(chunk, chunk)) for chunk in np.array_split(points_BNM, pieces)])


def _fronts_of_pairs(points_BN2: Floats) -> Bools:
    """Scan from the largest x down; keep a point if its y is the best at its x and better than at every larger x."""
    order_BN = np.argsort(-points_BN2[:, :, 1], axis=1, kind="stable")
    by_x_BN = np.argsort(-np.take_along_axis(points_BN2[:, :, 0], order_BN, axis=1), axis=1, kind="stable")
    order_BN = np.take_along_axis(order_BN, by_x_BN, axis=1)  # at equal x, the largest y comes first
    x_BN, y_BN = (np.take_along_axis(points_BN2[:, :, axis], order_BN, axis=1) for axis in (0, 1))
    starts_BN = np.ones(x_BN.shape, dtype=bool)
    starts_BN[:, 1:] = x_BN[:, 1:] != x_BN[:, :-1]
    first_BN = np.maximum.accumulate(np.where(starts_BN, np.arange(x_BN.shape[1]), 0), axis=1)
    best_BN = np.pad(np.maximum.accumulate(y_BN, axis=1), ((0, 0), (1, 0)), constant_values=-np.inf)
    beyond_BN = np.take_along_axis(best_BN, first_BN, axis=1)  # the best y of larger x
    stays_BN = (y_BN > beyond_BN) & (y_BN == np.take_along_axis(y_BN, first_BN, axis=1))
    front_BN = np.empty_like(stays_BN)
    np.put_along_axis(front_BN, order_BN, stays_BN, axis=1)
    return front_BN


def dominated(points_BNM: Floats, others_BKM: Floats, strictly: bool = True) -> Bools:
    """Find, in many sets, the points that one of the others dominates.

    Unless `strictly`, it is enough that another point is at least as good in every objective.

    Returns:
        bool_BN.
    """
    point, other = points_BNM[:, :, None, :], others_BKM[:, None, :, :]
    covers_BNK: Bools = np.all(other >= point, axis=3)
    if strictly:
        covers_BNK &= np.any(other > point, axis=3)
    return np.asarray(np.any(covers_BNK, axis=2))


def hypervolume(points_NM: ArrayLike, worst_corner_M: ArrayLike) -> float:
    """Compute the exact volume of the region between the worst corner and what the points dominate; M = 2 or 3.

    Args:
        points_NM: dominated points and ties change nothing; a point that is not strictly better than the corner in
            every objective contributes nothing. N may be 0, which gives 0.
        worst_corner_M: the corner from which the region is measured.

    Returns:
        The volume, in the product of the objectives' units.

    Raises ValueError: M is not 2 or 3; nan or infinity.
    """
    points = _checked(points_NM)
    return float(hypervolumes(points[None], worst_corner_M)[0])


def hypervolumes(points_BNM: ArrayLike, worst_corner_M: ArrayLike, joined_N: Bools | None = None) -> Floats:
    """Compute `hypervolume` for many sets of equally many points at once.

    Points may follow a curve. Then the straight line between two neighbours also belongs to the set, if both are on
    the front and no other point comes between them. So the area hardly depends on the number of points of the curve. In
    three objectives, Richardson extrapolation (Richardson 1911) is used instead: the volume that is lost with every
    second point of a curve is added once more.

    The last objective is swept downwards: between two neighbouring values, the slice is the region dominated by
    the points above, in one objective less (Fonseca, Paquete and Lopez-Ibanez 2006, "An improved dimension-sweep
    algorithm for the hypervolume indicator", without its data structures: O(N log N) for M = 2, O(N^2 log N) for 3).

    Args:
        joined_N: whether a point and the next one are neighbours on a curve; None means that none are.

    Returns:
        volume_B.

    Raises ValueError: M is not 2 or 3; nan or infinity.
    """
    points, corner = np.asarray(points_BNM, dtype=np.float64), np.asarray(worst_corner_M, dtype=np.float64)
    if corner.shape not in ((2,), (3,)) or points.ndim != 3 or points.shape[2] != corner.size:
        raise ValueError(
            f"hypervolume needs points [..., N, M] and a worst corner [M], M = 2 or 3, got {points.shape} and"
            f" {corner.shape}"
        )
    if not np.isfinite(corner).all() or not np.isfinite(points).all():
        raise ValueError(
            f"the points and the worst corner of a hypervolume must be finite, got the corner {corner.tolist()}"
        )
    inside_BN1 = (points > corner).all(axis=2, keepdims=True)
    lifted_BNM = np.where(inside_BN1, points - corner, 0.0)  # a point at the corner dominates nothing
    if corner.size == 2:
        return _areas(lifted_BNM, joined_N)
    volume_B = _volumes(lifted_BNM)
    if joined_N is None or not joined_N.any():
        return volume_B
    return 2 * volume_B - _volumes(lifted_BNM[:, _every_second(joined_N)])


def _every_second(joined_N: Bools) -> Bools:
    """Return bool_N: every second point of each curve, its ends, and all points that are on no curve."""
    number = len(joined_N)
    first_N = ~np.pad(joined_N, (1, 0))[:number]
    place_N = np.arange(number) - np.maximum.accumulate(np.where(first_N, np.arange(number), 0))
    return np.asarray((place_N % 2 == 0) | ~joined_N)


def _areas(points_BN2: Floats, joined_N: Bools | None = None) -> Floats:
    """Sum strips from the largest x down, each as wide as the gap to the next x and as high as the best y so far."""
    order_BN = np.argsort(-points_BN2[:, :, 0], axis=1, kind="stable")
    x_BN, y_BN = (np.take_along_axis(points_BN2[:, :, axis], order_BN, axis=1) for axis in (0, 1))
    width_BN = x_BN - np.pad(x_BN[:, 1:], ((0, 0), (0, min(1, x_BN.shape[1]))))
    best_BN = np.maximum.accumulate(y_BN, axis=1)
    areas_B = np.asarray((width_BN * best_BN).sum(axis=1), dtype=np.float64)
    if joined_N is None or not joined_N.any():
        return areas_B
    return areas_B + _triangles(order_BN, x_BN, y_BN, best_BN, joined_N)


def _triangles(order_BN: Integers, x_BN: Floats, y_BN: Floats, best_BN: Floats, joined_N: Bools) -> Floats:
    """Sum the triangles between the staircase and the lines that join neighbours on the front; sorted as in `_areas`.

    A point at (0, 0) lies outside the worst corner, and nothing joins it.
    """
    on_front_BN = y_BN > np.pad(best_BN[:, :-1], ((0, 0), (1, 0)))
    place_BN = np.where(on_front_BN, np.arange(x_BN.shape[1]), -1)
    before_BN = np.pad(np.maximum.accumulate(place_BN, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    row_K, place_K = np.nonzero(on_front_BN & (before_BN >= 0))
    before_K = before_BN[row_K, place_K]
    here_K, there_K = order_BN[row_K, place_K], order_BN[row_K, before_K]
    neighbours_K = (np.abs(here_K - there_K) == 1) & joined_N[np.minimum(here_K, there_K)]
    row_K, place_K, before_K = row_K[neighbours_K], place_K[neighbours_K], before_K[neighbours_K]
    width_K = x_BN[row_K, before_K] - x_BN[row_K, place_K]
    height_K = y_BN[row_K, place_K] - y_BN[row_K, before_K]
    return np.asarray(np.bincount(row_K, weights=width_K * height_K / 2, minlength=len(x_BN)), dtype=np.float64)


def _volumes(points_BN3: Floats) -> Floats:
    """Sum slabs from the largest z down, each as thick as the gap to the next z, with the area of the points so far."""
    order_BN = np.argsort(-points_BN3[:, :, 2], axis=1, kind="stable")
    sorted_BN3 = np.take_along_axis(points_BN3, order_BN[:, :, None], axis=1)
    number = points_BN3.shape[1]
    thickness_BN = sorted_BN3[:, :, 2] - np.pad(sorted_BN3[:, 1:, 2], ((0, 0), (0, min(1, number))))
    volume_B = np.zeros(len(points_BN3))
    for count in range(number):
        volume_B += thickness_BN[:, count] * _areas(sorted_BN3[:, : count + 1, :2])
    return volume_B


def attainment_surface(sets: Sequence[ArrayLike], share: float = 0.5) -> Floats:
    """Compute the front of what at least this share of the sets attain; two objectives.

    A set attains a point if one of its own points is at least as good in both objectives. With one set per seed and a
    share of one half this is the median attainment surface (Fonseca and Fleming 1996, "On the performance assessment
    and comparison of stochastic multiobjective optimizers").

    Args:
        sets: points_N2 each; one without points attains nothing.
        share: in (0, 1]; the required number of sets is rounded up.

    Returns:
        corners_K2 of the surface, none dominating another, the first objective ascending.

    Raises ValueError: no set, a share out of range, not two objectives, nan or infinity.
    """
    checked = [_checked(np.asarray(points, dtype=np.float64).reshape(-1, 2)) for points in sets]
    if not checked or not 0 < share <= 1:
        raise ValueError(f"an attainment surface needs a set and a share in (0, 1], got {len(checked)} and {share}")
    needed = math.ceil(share * len(checked) - 1e-9)
    x_K = np.unique(np.concatenate([points[:, 0] for points in checked]))
    height_SK = np.array([_heights(points, x_K) for points in checked])
    height_K = np.sort(height_SK, axis=0)[len(checked) - needed]
    corners_K2 = np.column_stack([x_K, height_K])[np.isfinite(height_K)]
    return corners_K2[non_dominated(corners_K2)] if len(corners_K2) else corners_K2


def _heights(points_N2: Floats, x_K: Floats) -> Floats:
    """Find the best second objective among points whose first is at least x; -inf if there are none."""
    reaches_KN = points_N2[None, :, 0] >= x_K[:, None]
    return np.asarray(np.where(reaches_KN, points_N2[None, :, 1], -np.inf).max(axis=1, initial=-np.inf))


def staircase(points_N2: Floats, left: float, bottom: float) -> Floats:
    """Return corners_K2 of the boundary of the dominated region, from the left edge to the bottom; larger is better."""
    front = points_N2[non_dominated(points_N2)]
    front = np.unique(front, axis=0)
    corners = []
    before = left
    for x, y in front.tolist():
        corners += [(before, y), (x, y)]
        before = x
    return np.array([*corners, (before, bottom)])


def _checked(points_NM: ArrayLike) -> Floats:
    points = np.asarray(points_NM, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"points must have the shape [N, M], got {points.shape}")
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"row {row} of the points is not finite: {points[row].tolist()}")
    return points
