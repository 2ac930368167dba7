"""The bootstrap by hand and by simulation: statistics, bands, and that density and ties change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.compare import Front, compare_fronts, estimate_hypervolume
from analysis.statistics.measurements import Line, measurements
from analysis.statistics.pareto import hypervolumes
from tests.studies.noisy_fronts import Cell, Truth

NOTHING = np.empty((0, 2))


def test_a_linear_statistic_by_hand() -> None:
    """The mean of one configuration of one method: no bias, and the t-interval of its own seeds."""
    bootstrap = Bootstrap(measurements([[[1.0, 1.0], [2.0, 3.0], [3.0, 5.0]]], ["a"]), replicates=200_000)
    statistic = bootstrap.statistic(lambda points_BPM: points_BPM[:, 0, 0])
    assert statistic.estimate == pytest.approx(2.0, abs=0.005)
    assert statistic.error == pytest.approx(1 / np.sqrt(3), rel=0.01)
    assert statistic.freedom >= 1


def test_seeds_without_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        Bootstrap(measurements([[[1.0, 1.0]], [[2.0, 2.0]]], ["a", "b"]))
    with pytest.raises(ValueError, match="configuration 1 has no trial"):
        measurements([[[1.0, 1.0], [2.0, 2.0]], [[np.nan] * 2] * 2], ["a", "b"])


def test_a_front_without_noise_is_its_own_band() -> None:
    values = np.repeat([[[0.0, 1.0]], [[1.0, 0.0]]], 3, axis=1)
    bootstrap = Bootstrap(measurements(values, ["a", "a"]), replicates=50)
    band = bootstrap.band()
    assert band.low_RM.tolist() == band.high_RM.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    statistic = bootstrap.statistic(lambda points_BPM: hypervolumes(points_BPM, [-1, -1]))
    assert (statistic.estimate, statistic.low, statistic.high) == (3.0, 3.0, 3.0)


def test_a_curve_has_the_area_of_its_polygon() -> None:
    """(0, 1), (.5, .5), (1, 0) without noise: on a line the triangle's .5, as three points the staircase's .25."""
    values = np.repeat([[[0.0, 1.0]], [[0.5, 0.5]], [[1.0, 0.0]]], 3, axis=1)
    everything = Front(np.ones(3, dtype=bool), NOTHING)
    line = Line(np.arange(3), np.array([[0.1], [1.0], [10.0]]))
    on_a_line = Bootstrap(measurements(values, ["a"] * 3, lines=[line]), replicates=50)
    assert estimate_hypervolume(on_a_line, everything, [0, 0]).estimate == pytest.approx(0.5, abs=1e-3)
    alone = Bootstrap(measurements(values, ["a"] * 3), replicates=50)
    assert estimate_hypervolume(alone, everything, [0, 0]).estimate == pytest.approx(0.25)


def searched(number: int, random: np.random.Generator, start: int) -> tuple[np.ndarray, Line]:
    """One method on the quarter circle, three seeds, standard deviation .03."""
    knob = np.linspace(0.08, 0.92, number)
    mean = 0.9 * np.column_stack([np.cos(knob * np.pi / 2), np.sin(knob * np.pi / 2)])
    return mean[:, None] + 0.03 * random.normal(size=(number, 3, 2)), Line(start + np.arange(number), knob[:, None])


@pytest.mark.slow
def test_density_does_not_matter() -> None:
    """Two methods on one curve, searched at 8 and at 40 places: equal on average, and found different at most as often.

    With finite fronts the denser one's hypervolume is .03 larger, and 20 to 38 % of such pairs are called different.
    """
    random, both, clear = np.random.default_rng(0), [], []
    for repetition in range(60):
        few, line_1 = searched(8, random, 0)
        many, line_2 = searched(40, random, 8)
        methods = np.repeat([0, 1], [8, 40])
        measured = measurements(np.concatenate([few, many]), methods, lines=[line_1, line_2])
        fronts = {str(method): Front(methods == method, NOTHING) for method in (0, 1)}
        (difference,) = compare_fronts(Bootstrap(measured, 200, repetition), fronts, [0, 0])
        both.append(difference.statistic.estimate)
        clear.append(difference.clear)
    assert abs(np.mean(both)) < 0.005
    assert np.mean(clear) <= 0.1


def test_skewed_noise_does_not_take_sides() -> None:
    """Outliers point down: weights by each mean's own variance would favour the lucky ones, and add .007."""
    truth = Truth(Cell("odd noise", 24, methods=1, seeds=5, deviation=0.03, tail="skewed"))
    random, everything = np.random.default_rng(2), Front(np.ones(24, dtype=bool), NOTHING)
    bootstraps = (Bootstrap(truth.draw(random), 100, repetition) for repetition in range(25))
    estimates = [estimate_hypervolume(bootstrap, everything, [0, 0]).estimate for bootstrap in bootstraps]
    assert np.mean(estimates) == pytest.approx(truth.volume(), abs=0.004)


def test_equal_methods_are_not_better_together() -> None:
    """Nine methods on one curve: together they have the hypervolume of each; the union of their means has .02 more."""
    random, estimates, unions = np.random.default_rng(1), [], []
    truth = hypervolumes(_quarter(2001), [0, 0])[0]
    for repetition in range(15):
        drawn = [searched(12, random, 12 * method) for method in range(9)]
        values, lines = np.concatenate([each for each, _ in drawn]), [line for _, line in drawn]
        bootstrap = Bootstrap(measurements(values, np.repeat(np.arange(9), 12), lines=lines), 200, repetition)
        estimates.append(estimate_hypervolume(bootstrap, Front(np.ones(108, dtype=bool), NOTHING), [0, 0]).estimate)
        unions.append(hypervolumes(bootstrap.mean_PM[None], [0, 0])[0])
    assert np.mean(estimates) == pytest.approx(truth, abs=0.008)
    assert np.mean(unions) > truth + 0.015


def _quarter(number: int) -> np.ndarray:
    knob = np.linspace(0.08, 0.92, number)
    return 0.9 * np.column_stack([np.cos(knob * np.pi / 2), np.sin(knob * np.pi / 2)])[None]
