"""The components of noise: by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics.measurements import measurements
from analysis.statistics.noise import estimate_noise
from analysis.statistics.ranges import Ranges


def drawn(num_seeds: int, shared: float, missing: bool = False, size: int = 40) -> np.ndarray:
    """values_CS2 of one method, standard deviation 1, objectives correlated .5 in both components."""
    random = np.random.default_rng(0)
    root = np.linalg.cholesky([[1, 0.5], [0.5, 1]])
    effect = random.normal(size=(1, num_seeds, 2)) @ root.T
    values = shared**0.5 * effect + (1 - shared) ** 0.5 * random.normal(size=(size, num_seeds, 2)) @ root.T
    if missing:
        values[random.random(values.shape[:2]) < 0.2] = np.nan
    return values


@pytest.mark.parametrize("missing", [False, True])
def test_components_are_found(missing: bool) -> None:
    """Many seeds: the shared and the residual covariance are those of the simulation, with gaps, too."""
    noise = estimate_noise(measurements(drawn(400, shared=0.3, missing=missing), ["a"] * 40))
    expected = np.array([[1, 0.5], [0.5, 1]])
    np.testing.assert_allclose(noise.shared_MM, 0.3 * expected, atol=0.06)
    np.testing.assert_allclose(noise.residual_MM, 0.7 * expected, atol=0.06)
    np.testing.assert_allclose(noise.scale_CM, 1.0, atol=0.1)


def test_components_by_hand() -> None:
    """Residuals (-1, 1) and (-1, 1): all shared. (-1, 1) and (1, -1): the products are negative, so nothing is."""
    alike = estimate_noise(measurements([[[0.0, 0.0], [2.0, 2.0]], [[5.0, 1.0], [7.0, 3.0]]], ["a", "a"]))
    np.testing.assert_allclose(alike.shared_MM, np.ones((2, 2)))
    np.testing.assert_allclose(alike.residual_MM, np.zeros((2, 2)), atol=1e-12)
    np.testing.assert_allclose(alike.scale_CM, np.sqrt(2) * np.ones((2, 2)))
    against = estimate_noise(measurements([[[0.0, 0.0], [2.0, 2.0]], [[7.0, 3.0], [5.0, 1.0]]], ["a", "a"]))
    np.testing.assert_allclose(against.shared_MM, np.zeros((2, 2)), atol=1e-12)


@pytest.mark.parametrize(("lost", "outlying"), [(0.3, True), (0.15, False)])
def test_a_trial_that_collapsed_is_an_outlier(lost: float, outlying: bool) -> None:
    """Four configurations of (-.01, 0, .01) around their means, and a fifth of which one trial has lost `lost`.

    Residuals are divided by sqrt(1 - 1/3) = .81650. Those of the four are 0 once and .012247 twice; the fifth's are
    lost / 3 twice and 2 lost / 3, divided alike: .12247 and .24495 for .3. The median of the 11 that are not 0 is
    .012247, or 1.4826 times as much as a standard deviation: .018158. Eight of these are .14526, between .12247, the
    largest for .15, and .24495. The two other trials of the fifth are equal.
    """
    values = np.array([[mean - 0.01, mean, mean + 0.01] for mean in (0.2, 0.3, 0.4, 0.5)] + [[0.6, 0.6, 0.6 - lost]])
    noise = estimate_noise(measurements(np.stack([values, values], axis=2), ["a"] * 5))
    assert noise.outlying_CM.tolist() == [[False, False]] * 4 + [[outlying, outlying]]
    variance_K = np.diagonal(noise.covariance(np.arange(5), alike=True)[0])
    usual = (noise.scale_CM[: 4 + (not outlying), 0] ** 2).mean() / 3
    np.testing.assert_allclose(variance_K[:4], usual)
    assert (variance_K[4] > 2 * usual) == outlying


def test_seeds_that_scatter_are_no_outliers() -> None:
    """As in a steep window of a knob: one configuration at .2, .5 and .9 among quiet ones. Nor is one of two seeds."""
    quiet = [[mean - 0.01, mean, mean + 0.01] for mean in (0.2, 0.3, 0.4, 0.5)]
    for scattered in ([0.2, 0.5, 0.9], [0.2, 0.9, np.nan]):
        values = np.array([*quiet, scattered])
        noise = estimate_noise(measurements(np.stack([values, values], axis=2), ["a"] * 5))
        assert not noise.outlying_CM.any()


def test_an_outlier_is_found_among_seeds_that_agree() -> None:
    """The seeds of four configurations differ by .001 at most; one trial of the fifth has lost half."""
    values = np.array([[mean, mean + 0.001, mean] for mean in (0.2, 0.3, 0.4, 0.5)] + [[0.6, 0.6, 0.3]])
    noise = estimate_noise(measurements(np.stack([values, values], axis=2), ["a"] * 5))
    assert noise.outlying_CM.any(axis=1).tolist() == [False] * 4 + [True]


def test_draws_have_the_estimated_covariance() -> None:
    """Of one configuration scale^2 / n; of two with all seeds in common, the shared part of it."""
    values = drawn(3, shared=0.5, size=6)
    values[0, 2] = np.nan
    noise = estimate_noise(measurements(values, ["a"] * 6))
    errors = noise.draw(np.random.default_rng(1), 40_000)
    variance = errors.var(axis=0)
    np.testing.assert_allclose(variance[0], noise.scale_CM[0] ** 2 / 2, rtol=0.05)
    np.testing.assert_allclose(variance[1], noise.scale_CM[1] ** 2 / 3, rtol=0.05)
    shared = (errors[:, 1, 0] * errors[:, 2, 0]).mean()
    assert shared == pytest.approx(noise.shared_MM[0, 0] * noise.scale_CM[1, 0] * noise.scale_CM[2, 0] / 3, rel=0.1)


def test_what_is_read_from_one_training_shares_its_noise() -> None:
    """Half of the variance of ten trainings, each read four times, is the training's, and none of it the seed's."""
    random = np.random.default_rng(3)
    training = np.repeat(np.arange(10), 4)
    effect = random.normal(size=(10, 300, 2))[training]
    noise = estimate_noise(measurements(effect + random.normal(size=effect.shape), ["a"] * 40, training_C=training))
    np.testing.assert_allclose(noise.training_MM, 0.5 * np.eye(2), atol=0.06)
    np.testing.assert_allclose(noise.shared_MM, np.zeros((2, 2)), atol=0.06)
    errors = noise.draw(np.random.default_rng(0), 20_000)[:, :, 0] / noise.scale_CM[0, 0] * np.sqrt(300)
    assert np.corrcoef(errors[:, 0], errors[:, 1])[0, 1] == pytest.approx(0.5, abs=0.06)
    assert np.corrcoef(errors[:, 0], errors[:, 4])[0, 1] == pytest.approx(0.0, abs=0.06)


def test_a_share_is_never_known_better_than_its_questions_allow() -> None:
    """Three seeds with 20 of 20: the variance of one trial's angle is 1 / 80; without questions nothing is random."""
    sure = np.ones((3, 3, 1))
    counted = measurements(sure, ["a"] * 3, count_CSM=np.full(sure.shape, 20), ranges=Ranges.of([(0, 1)]))
    assert estimate_noise(counted).scale_CM.ravel().tolist() == pytest.approx([80**-0.5] * 3)
    assert estimate_noise(measurements(sure, ["a"] * 3)).scale_CM.tolist() == [[0.0]] * 3


def test_the_covariance_is_that_of_the_draws() -> None:
    """Of two readouts of one training and a third configuration, with a missing trial."""
    random = np.random.default_rng(4)
    effect = random.normal(size=(6, 5, 2))[[0, 0, 1, 1, 2, 3]] + random.normal(size=(1, 5, 2))
    values = effect + 0.5 * random.normal(size=effect.shape)
    values[1, 0] = np.nan
    noise = estimate_noise(measurements(values, ["a"] * 6, training_C=[0, 0, 1, 1, 2, 3]))
    rows = np.array([0, 1, 4])
    errors = noise.draw(np.random.default_rng(0), 100_000)[:, rows]
    for objective, expected in enumerate(noise.covariance(rows)):
        np.testing.assert_allclose(np.cov(errors[:, :, objective], rowvar=False), expected, atol=0.02 * expected.max())
    assert noise.training_MM[0, 0] > 0.1
