"""Dominance against enumeration, hypervolume against hand values and moocore."""

from __future__ import annotations

import itertools

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.statistics import pareto
from analysis.statistics.pareto import attainment_surface, fronts, hypervolume, hypervolumes, non_dominated

# Few distinct values, so that ties in one and in all objectives are common.
POINTS = st.integers(1, 4).flatmap(
    lambda m: st.lists(st.lists(st.integers(-2, 2), min_size=m, max_size=m), min_size=1, max_size=14)
)


def enumerated(points: list[list[int]]) -> list[bool]:
    """The definition, pair by pair."""

    def dominates(a: list[int], b: list[int]) -> bool:
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))

    return [not any(dominates(rival, point) for rival in points) for point in points]


def test_front_by_hand() -> None:
    """(1,3), (2,2) and (3,1) trade; (2,1) and (1,2) are worse than (2,2); the twin of (2,2) stays with it."""
    points = [[1, 3], [2, 2], [3, 1], [2, 1], [1, 2], [2, 2]]
    assert non_dominated(points).tolist() == [True, True, True, False, False, True]


@given(POINTS)
def test_front_is_the_enumerated_one(points: list[list[int]]) -> None:
    assert non_dominated(points).tolist() == enumerated(points)


@given(POINTS)
def test_a_front_exists_and_dropping_the_rest_changes_nothing(points: list[list[int]]) -> None:
    keep = non_dominated(points)
    assert keep.any()
    assert non_dominated(np.array(points)[keep]).all()


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_of_many_sets_are_those_of_each(objectives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where memory is for one set at a time; with ties, as small integers have them."""
    sets_BNM = np.random.default_rng(0).integers(0, 5, size=(50, 12, objectives)).astype(float)
    expected = [enumerated(points) for points in sets_BNM.tolist()]
    assert fronts(sets_BNM).tolist() == expected
    monkeypatch.setattr(pareto, "CHUNK", 1)
    assert fronts(sets_BNM).tolist() == expected


def test_front_edge_cases() -> None:
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert non_dominated([[0.0, 1.0], [-0.0, 1.0]]).tolist() == [True, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_with_its_row(bad: float) -> None:
    points = [[0.0, 1.0], [2.0, 3.0], [1.0, bad]]
    with pytest.raises(ValueError, match="row 2 "):
        non_dominated(points)
    with pytest.raises(ValueError, match="row 2 "):
        hypervolume(points, [0, 0])


@pytest.mark.parametrize("points", [[1.0, 2.0], [[]], [[[1.0]]]])
def test_shapes_are_checked(points: list[object]) -> None:
    with pytest.raises(ValueError, match="shape"):
        non_dominated(points)


def test_area_by_hand() -> None:
    """(3,1), (2,2), (1,3) over (0,0): 3 + 2 + 1 = 6, one unit less for each staircase step. (1,1) is inside."""
    assert hypervolume([[3, 1], [1, 1], [2, 2], [1, 3]], [0, 0]) == 6.0
    assert hypervolume([[3, 1], [2, 2], [1, 3]], [-1, 0]) == 9.0


def test_volume_by_hand() -> None:
    """Boxes 2x1x1 and 1x2x1 share 1x1x1, so 2 + 2 - 1 = 3; (1,1,2) adds 1 on top."""
    assert hypervolume([[2, 1, 1], [1, 2, 1]], [0, 0, 0]) == 3.0
    assert hypervolume([[2, 1, 1], [1, 2, 1], [1, 1, 2]], [0, 0, 0]) == 4.0


def test_points_on_or_below_the_reference_contribute_nothing() -> None:
    """(5, 0) lies on the border y = 0, (9, -1) below it; infinitely thin boxes have no area."""
    assert hypervolume([[1, 1], [5, 0], [9, -1]], [0, 0]) == 1.0
    assert hypervolume([[5, 0], [0, 5]], [0, 0]) == 0.0
    assert hypervolume(np.empty((0, 2)), [0, 0]) == 0.0


def union_of_boxes(points: list[list[int]]) -> int:
    """Unit cells above (-2, ..., -2) that some point covers, counted one by one."""
    cells = itertools.product(range(-2, 2), repeat=len(points[0]))
    return sum(any(all(low < x for low, x in zip(cell, point, strict=True)) for point in points) for cell in cells)


@given(POINTS.filter(lambda points: len(points[0]) in (2, 3)))
def test_hypervolume_is_the_union_of_boxes(points: list[list[int]]) -> None:
    assert hypervolume(points, [-2] * len(points[0])) == union_of_boxes(points)


@pytest.mark.parametrize("num_objectives", [2, 3])
@pytest.mark.parametrize("decimals", [1, 12])
def test_hypervolume_is_moocores(num_objectives: int, decimals: int) -> None:
    """One decimal makes ties; about half of the points are not better than the corner."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 20, 60):
        points = rng.normal(size=(size, num_objectives)).round(decimals)
        corner = rng.normal(size=num_objectives).round(decimals) - 0.5
        expected = moocore.hypervolume(points, ref=corner, maximise=True)
        assert hypervolume(points, corner) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("num_objectives", [2, 3])
def test_many_sets_at_once(num_objectives: int) -> None:
    points = np.random.default_rng(1).normal(size=(7, 9, num_objectives)).round(1)
    corner = [-0.4] * num_objectives
    assert hypervolumes(points, corner).tolist() == [hypervolume(chunk, corner) for chunk in points]


def test_attainment_surface_by_hand() -> None:
    """Three sets: {(1,3),(3,1)}, {(2,2)}, {(0,4)}. Two of them attain up to (1,2), (0,3) and (2,1)."""
    sets = [[[1, 3], [3, 1]], [[2, 2]], [[0, 4]]]
    assert attainment_surface(sets, 0.5).tolist() == [[0, 3], [1, 2], [2, 1]]
    assert attainment_surface(sets, 0.01).tolist() == [[0, 4], [1, 3], [2, 2], [3, 1]]
    assert attainment_surface(sets, 1.0).tolist() == [[0, 2]]
    assert attainment_surface([[[1, 1]], np.empty((0, 2))], 1.0).tolist() == []


@pytest.mark.parametrize("decimals", [0, 12])
@pytest.mark.parametrize("num_sets", [1, 2, 3, 7])
def test_attainment_surface_is_moocores(num_sets: int, decimals: int) -> None:
    rng = np.random.default_rng(num_sets)
    sets = [rng.normal(size=(rng.integers(1, 12), 2)).round(decimals) * 1.0 for _ in range(num_sets)]
    labels = np.repeat(np.arange(num_sets), [len(points) for points in sets])
    for percent in (1, 50, 100):
        expected = -moocore.eaf(np.column_stack([-np.concatenate(sets)]), labels, percentiles=[percent])[:, :2]
        expected = expected[np.argsort(expected[:, 0])]
        np.testing.assert_allclose(attainment_surface(sets, percent / 100), expected, rtol=0, atol=1e-12)


def test_attainment_surface_refuses() -> None:
    for sets, share in (([], 0.5), ([[[1, 1]]], 0.0), ([[[1, 1]]], 1.1)):
        with pytest.raises(ValueError, match="a set and a share"):
            attainment_surface(sets, share)
    with pytest.raises(ValueError, match="row 0"):
        attainment_surface([[[1, np.nan]]])


@given(POINTS.filter(lambda points: len(points[0]) in (2, 3)))
def test_dominated_points_add_nothing(points: list[list[int]]) -> None:
    corner = [-3] * len(points[0])
    front = np.array(points)[non_dominated(points)]
    assert hypervolume(front, corner) == hypervolume(points, corner)


@pytest.mark.parametrize(
    ("points", "corner"),
    [([[1.0]], [0.0]), ([[1.0] * 4], [0.0] * 4), ([[1.0, 1.0]], [0.0] * 3), ([[1.0, 1.0]], [0.0, np.nan])],
)
def test_hypervolume_refuses(points: list[list[float]], corner: list[float]) -> None:
    with pytest.raises(ValueError, match=r"M = 2 or 3|must be finite"):
        hypervolume(points, corner)
