"""The choice under bounds: probabilities and the bar by formula, and in the long run no more violations than said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.choice import Bound, choose
from analysis.statistics.intervals import intervals_by_method
from analysis.statistics.measurements import Measurements, measurements
from analysis.statistics.ranges import Ranges


def alone(values_CSM: np.ndarray, replicates: int = 1000) -> Bootstrap:
    """A bootstrap of points without lines, each of another method."""
    return Bootstrap(measurements(values_CSM, np.arange(len(values_CSM))), replicates)


def test_the_probability_is_students() -> None:
    """20 configurations whose seeds lie .1 apart, in any order, lend each other that variance: 40 degrees of freedom.

    Written out: t_40((mean - bound) / sqrt(.1^2 / 3)).
    """
    random = np.random.default_rng(0)
    mean_C = np.linspace(0.35, 0.65, 20)
    offsets = [[random.permutation([-0.1, 0.0, 0.1]) for _ in range(2)] for _ in mean_C]
    values = mean_C[:, None, None] + np.moveaxis(np.array(offsets), 1, 2)
    choice = choose(alone(values, 4000), [Bound(1, 0.5)], best=0)
    expected_C = stats.t.cdf((mean_C - 0.5) / np.sqrt(0.1**2 / 3), df=40)
    assert np.abs(choice.probability_CL[:, 0] - expected_C).max() < 0.02
    upper = choose(alone(values, 4000), [Bound(1, 0.5, at_least=False)], best=0)
    assert upper.probability_C.tolist() == pytest.approx((1 - choice.probability_C).tolist())


def test_of_several_bounds_what_is_lacking_adds_up() -> None:
    random = np.random.default_rng(1)
    values = 0.5 + 0.1 * random.standard_normal((12, 3, 3))
    bounds = [Bound(1, 0.45), Bound(2, 0.4)]
    choice = choose(alone(values), bounds, best=0)
    separate = [choose(alone(values), [bound], best=0).probability_C for bound in bounds]
    assert choice.probability_C.tolist() == pytest.approx(np.maximum(separate[0] + separate[1] - 1, 0).tolist())


def test_the_bar_is_that_of_all_configurations_which_may_keep_the_bound() -> None:
    """Of 20 independent ones at the bound the luckiest seems to keep it with .95^(1/20); far ones do not count."""
    random = np.random.default_rng(2)
    noise = random.standard_normal((20, 3, 2))
    noise -= noise.mean(axis=1, keepdims=True)
    bar = choose(alone(0.5 + 0.1 * noise, 8000), [Bound(1, 0.5)], best=0).bar
    assert bar == pytest.approx(0.95 ** (1 / 20), abs=0.002)
    far = 0.5 + 0.1 * noise
    far[1:, :, 1] -= 5
    assert choose(alone(far, 8000), [Bound(1, 0.5)], best=0).bar == pytest.approx(0.95, abs=0.01)


def agreeing(questions: int = 20) -> Measurements:
    """Eight configurations of one method, three seeds each: the first is right in all answers, the others in none."""
    values = np.zeros((8, 3, 2))
    values[:, :, 0] = 0.5
    values[0, :, 1] = 1.0
    counts = np.full_like(values, questions)
    return measurements(values, np.zeros(8), count_CSM=counts, ranges=Ranges.of([(0, 1), (0, 1)]))


def test_seeds_that_agree_are_as_sure_as_their_questions_allow() -> None:
    """60 of 60 right, of a true share of .975 a chance of .975^60 = .22. The score test has it at 1.24 errors:

    (1 - .975) / sqrt(.975 * .025 / 60) = 1.2403, and of 16 degrees that is P = .884; without it P would be .967.
    """
    choice = choose(Bootstrap(agreeing(), 2000), [Bound(1, 0.975)], best=0)
    assert choice.probability_C[0] == pytest.approx(stats.t.cdf(1.2403, 16), abs=0.005)
    assert choice.row is None
    upper = choose(Bootstrap(agreeing(), 2000), [Bound(1, 0.025, at_least=False)], best=0)
    assert upper.probability_C[1:].tolist() == pytest.approx([choice.probability_C[0]] * 7, abs=0.005)


@pytest.mark.parametrize("questions", [10, 20, 200])
def test_a_bound_at_the_end_of_a_points_own_interval_is_kept_as_probably_as_that_says(questions: int) -> None:
    """The end of a 95 % interval is kept with .975; without spread no curve or bootstrap makes it surer."""
    measured = agreeing(questions)
    low = float(intervals_by_method(measured).low_CM[0, 1])
    choice = choose(Bootstrap(measured, 2000), [Bound(1, low)], best=0)
    assert choice.probability_C[0] == pytest.approx(0.975, abs=0.003)


def test_none_is_chosen_where_none_keeps_the_bound() -> None:
    random = np.random.default_rng(3)
    values = 0.5 + 0.02 * random.standard_normal((6, 3, 2))
    values[4, :, 1] += 0.15
    choice = choose(alone(values), [Bound(1, 0.7)], best=0)
    assert choice.row is None
    assert choice.closest == 4
    assert np.isnan(choice.gain)


def test_violations_and_the_expected_gain_in_the_long_run() -> None:
    """Six configurations just miss the bound and are best in the task; six keep it, and are equal in the task.

    Without the bar one of the six would be taken in a quarter of the sweeps, and the task as measured is .02 too good.
    """
    truth = np.array([[0.8, 0.4999]] * 6 + [[0.6, 0.7]] * 6)
    random = np.random.default_rng(4)
    violations, naive, missed = 0, [], []
    for _ in range(150):
        values = truth[:, None] + 0.03 * random.standard_normal((12, 3, 2))
        choice = choose(alone(values, 300), [Bound(1, 0.5)], best=0)
        assert choice.row is not None
        violations += truth[choice.row, 1] < 0.5
        naive.append(choice.naive - truth[choice.row, 0])
        missed.append(choice.gain - truth[choice.row, 0])
    assert violations / 150 < 0.1  # .05, and 2.8 standard errors of it
    assert np.mean(naive) > 0.015
    assert abs(np.mean(missed)) < 0.01
