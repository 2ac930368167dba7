"""Honest selection: by hand, and that what it reports is neither luck nor loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.measurements import Measurements, measurements
from analysis.statistics.pareto import hypervolume
from analysis.statistics.selection import MOST_HALVINGS, select_by_questions, select_by_seeds
from tests.studies.noisy_fronts import Cell, Truth


def alone(values: np.ndarray | list[list[list[float]]]) -> Bootstrap:
    """A bootstrap of points without lines."""
    measured: Measurements = measurements(values, ["a"] * len(values))
    return Bootstrap(measured, replicates=20)


def test_selection_by_hand() -> None:
    """Two seeds. Chosen by seed 0: the first (1, 1), which seed 1 gives (0, 0); by seed 1: the second, and so on."""
    selected = select_by_seeds(alone([[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]), [-1, -1])
    assert selected is not None
    assert selected.num_halvings == 2
    assert selected.chosen_C.tolist() == [0.5, 0.5]
    assert (selected.optimistic, selected.pessimistic, selected.optimism) == (4.0, 1.0, 3.0)
    assert selected.optimistic_K2.tolist() == [[1.0, 1.0]]
    assert selected.pessimistic_K2.tolist() == [[0.0, 0.0]]


def test_the_other_half_is_summed_in_the_order_of_the_choice() -> None:
    """Seed 0 chooses (.9, .1) and (.1, .9): .09 + .08. Seed 1 has them swapped: widths -.8 and .9, heights .9 and .1.

    -.8 x .9 + .9 x .1 = -.63. Taking seed 1's own best order would be luck again, and give .17.
    """
    selected = select_by_seeds(alone([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]]), [0, 0])
    assert selected is not None
    assert selected.optimistic == pytest.approx(0.17)
    assert selected.pessimistic == pytest.approx(-0.63)


def test_every_halving_of_the_seeds() -> None:
    """Three of five seeds can be chosen in ten ways; one configuration, whose mean both halves share on average."""
    values = np.random.default_rng(2).random((1, 5, 2))
    selected = select_by_seeds(alone(values), [0, 0])
    assert selected is not None
    assert selected.num_halvings == 10
    assert selected.chosen_C.tolist() == [1.0]
    first = [values[:, list(seeds)].mean(axis=1) for seeds in ((0, 1, 2), (2, 3, 4))]
    assert all(hypervolume(points, [0, 0]) > 0 for points in first)


def test_selection_by_questions_and_gaps() -> None:
    """Questions of one objective alone; a configuration with gaps sits out, one seed gives nothing."""
    random = np.random.default_rng(0)
    bootstrap = alone(random.random((4, 3, 3)))
    questions = random.random((4, 30, 3))
    questions[:, :10, 0] = np.nan
    questions[3, 5:] = np.nan
    selected = select_by_questions(bootstrap, questions, [0, 0, 0])
    assert selected is not None
    assert selected.num_halvings == MOST_HALVINGS
    assert selected.chosen_C[3] == 0
    assert selected.optimistic_K2.shape == (0, 2)
    assert select_by_questions(bootstrap, np.full((4, 3, 3), math.nan), [0, 0, 0]) is None
    assert select_by_questions(bootstrap, questions[:, :1], [0, 0, 0]) is None


@pytest.mark.slow
def test_near_duplicates_bring_no_luck() -> None:
    """8 places with 5 near-duplicates each: before, .697 was reported where the truth was .653."""
    truth = Truth(Cell("near-duplicates", duplicates=5, deviation=0.06))
    random, missed = np.random.default_rng(0), []
    for repetition in range(40):
        selected = select_by_seeds(Bootstrap(truth.draw(random), 50, repetition), [0, 0])
        assert selected is not None
        missed.append(selected.pessimistic - truth.volume())
    assert -0.02 <= np.mean(missed) <= 0.006
