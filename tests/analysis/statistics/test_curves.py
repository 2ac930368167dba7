"""Curves over a knob: against a spline of scipy's, and that they tell noise from bends."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from analysis.statistics import curves
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.measurements import Line, measurements


def bootstrap_of(mean: np.ndarray, knob: np.ndarray, deviation: float, seed: int = 0) -> Bootstrap:
    noise = deviation * np.random.default_rng(seed).normal(size=(len(mean), 4, mean.shape[1]))
    line = Line(np.arange(len(mean)), knob[:, None])
    return Bootstrap(measurements(mean[:, None] + noise, ["a"] * len(mean), lines=[line]), replicates=200)


def test_without_noise_it_is_the_natural_cubic_spline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bends alone, and no noise: the universal kriging of |r|^3 is the natural cubic spline through the places."""
    monkeypatch.setattr(curves, "KINKS", (0.0,))
    x = np.array([0.0, 0.2, 0.5, 0.7, 1.0])
    y = np.array([0.1, 0.5, 0.4, 0.8, 0.3])
    t = np.linspace(0, 1, 31)
    weights, _ = curves._krige(x[:, None], t[:, None], y, np.zeros((5, 5)))
    np.testing.assert_allclose(weights @ y, CubicSpline(x, y, bc_type="natural")(t), atol=1e-5)


def test_a_straight_line_is_kept_and_its_noise_averaged() -> None:
    """Twenty places on a line: the curve is nearer to it than the means are, by half at least."""
    knob = np.linspace(0, 1, 20)
    mean = np.column_stack([knob, 1 - knob])
    errors, smoothed = [], []
    for seed in range(10):
        bootstrap = bootstrap_of(mean, knob, 0.05, seed)
        errors.append(np.abs(bootstrap.measured.mean_CM - mean).mean())
        smoothed.append(np.abs(bootstrap.mean_CM - mean).mean())
    assert np.mean(smoothed) < 0.55 * np.mean(errors)


def test_a_bend_that_is_larger_than_the_noise_is_kept() -> None:
    knob = np.linspace(0, 1, 12)
    mean = 0.9 * np.column_stack([np.cos(knob * 1.4), np.sin(knob * 1.4)])
    assert np.abs(bootstrap_of(mean, knob, 0.005).mean_CM - mean).max() < 0.01


def test_a_trial_that_collapsed_does_not_bend_the_curve() -> None:
    """One of three trials at the sixth of twelve places on a line loses half: its mean falls by .09 and by .08."""
    knob = np.linspace(0, 1, 12)
    mean = np.column_stack([knob, 1 - knob])
    values = mean[:, None] + 0.01 * np.random.default_rng(0).normal(size=(12, 3, 2))
    values[6, 2] /= 2
    line = Line(np.arange(12), knob[:, None])
    bootstrap = Bootstrap(measurements(values, ["a"] * 12, lines=[line]), replicates=2)
    assert (mean - bootstrap.measured.mean_CM)[6].min() > 0.06
    assert np.abs(bootstrap.mean_CM - mean).max() < 0.02


def test_two_places_are_no_curve() -> None:
    bootstrap = bootstrap_of(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0.0, 1.0]), 0.01)
    assert bootstrap.curves == ()
    assert bootstrap.mean_PM.tolist() == bootstrap.measured.mean_CM.tolist()


def test_what_happens_in_a_gap_is_not_known() -> None:
    """The draws spread more between two distant places than at them."""
    knob = np.array([0.0, 0.05, 0.1, 0.9, 0.95, 1.0])
    mean = np.column_stack([np.sqrt(knob), 1 - knob**2])
    bootstrap = bootstrap_of(mean, knob, 0.005)
    spread = bootstrap.draws_BPM[:, :, 0].std(axis=0)
    (curve,) = bootstrap.curves
    between = (curve.places_K[2] + curve.places_K[3]) // 2
    assert spread[between] > 2 * spread[curve.places_K].max()


def test_several_knobs_span_a_surface() -> None:
    """Sixteen random places of two knobs, a plane: the means come nearer to it."""
    random = np.random.default_rng(0)
    knobs = random.random((16, 2))
    mean = np.column_stack([knobs.sum(axis=1), 1 - knobs[:, 0]])
    values = mean[:, None] + 0.05 * random.normal(size=(16, 3, 2))
    bootstrap = Bootstrap(measurements(values, ["a"] * 16, lines=[Line(np.arange(16), knobs)]), replicates=50)
    assert np.abs(bootstrap.mean_CM - mean).mean() < 0.8 * np.abs(values.mean(axis=1) - mean).mean()


def test_a_configuration_is_between_its_line_and_its_own_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A straight line, offsets of variance o and noise of variance n, both independent.

    Generalised least squares is then least squares, and the best guess of a configuration is line + o / (o + n) (mean -
    line). With o = 0.06^2 and n = 0.03^2 that is four fifths of the way.
    """
    monkeypatch.setattr(curves, "KINKS", (0.0,))
    monkeypatch.setattr(curves, "BENDS", (1e-6,))
    x, y = np.array([0.0, 0.1, 0.4, 0.7, 1.0]), np.array([0.0, 0.3, 0.2, 0.9, 1.0])
    line = np.polyval(np.polyfit(x, y, 1), x)
    x_KD = x[:, None]
    weights, _ = curves._krige(x_KD, x_KD, y, 0.03**2 * np.eye(5), offsets=(0.06,))
    np.testing.assert_allclose(weights @ y, line + 0.8 * (y - line), atol=1e-6)
    weights, _ = curves._krige(x_KD, x_KD, y, 0.03**2 * np.eye(5))
    np.testing.assert_allclose(weights @ y, line, atol=1e-6)


def test_without_noise_configurations_are_where_they_were_measured() -> None:
    x_KD, y = np.linspace(0, 1, 7)[:, None], np.array([0.0, 0.3, 0.2, 0.9, 1.0, 0.7, 0.8])
    weights, left = curves._krige(x_KD, x_KD, y, np.zeros((7, 7)), curves.OFFSETS)
    np.testing.assert_allclose(weights @ y, y, atol=1e-6)
    assert np.abs(left).max() < 1e-6


def test_the_probability_of_being_on_the_front_is_the_same_each_time() -> None:
    knob = np.linspace(0, 1, 6)
    mean = np.column_stack([0.1 * knob, 0.9 - 0.1 * knob])
    bootstrap = bootstrap_of(mean, knob, 0.05)
    first = bootstrap.on_front()
    assert 0 < first.min() < 1
    assert first.tolist() == bootstrap.on_front().tolist()


def test_each_bend_stands_for_its_step_of_a_half_t_prior() -> None:
    """Two bends, .3, which is the scale s, and .1, that nothing else tells apart.

    The density of the half-t distribution with 7 degrees of freedom is in proportion to (1 + (b / s)^2 / 7)^-4:
    (8 / 7)^-4 and (64 / 63)^-4. A step of the grid is in proportion to b, three times as wide for the first. Together
    3 (64 / 72)^4 = 3 (8 / 9)^4 = 4096 / 2187.
    """
    strengths = curves._Strengths.of(np.array([0.0, 1.0]), (0.0,))
    weight_H = np.exp(strengths.prior_H)[strengths.kinks_H == 0]
    assert weight_H[curves.BENDS.index(0.3)] / weight_H[curves.BENDS.index(0.1)] == pytest.approx(4096 / 2187)
