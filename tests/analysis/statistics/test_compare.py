"""Differences between fronts, Holm, advice, controls and honest selection: by hand, and against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.findings.arms import control_of
from analysis.findings.controls import compare_with_controls
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.compare import Front, advise_seeds, compare_fronts, estimate_hypervolume, holm, relative_to
from analysis.statistics.measurements import Line, measurements
from analysis.tables.scores import Configuration

NOTHING = np.empty((0, 2))


def fronts(*rows: list[bool]) -> dict[str, Front]:
    return {str(number): Front(np.array(row), NOTHING) for number, row in enumerate(rows)}


def test_holm_by_hand() -> None:
    """Sorted .01, .02, .04: 3 x .01, 2 x .02, 1 x .04 and no smaller than the one before; 1 at most."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def noisy(means: list[list[float]], seeds: int = 5, deviation: float = 0.01, shared: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(1)
    effect = shared**0.5 * random.normal(size=(1, seeds, 2))
    rest = (1 - shared) ** 0.5 * random.normal(size=(len(means), seeds, 2))
    return np.array(means)[:, None, :] + deviation * (effect + rest)


def test_a_clear_difference() -> None:
    """Boxes .8 x .8 and .5 x .5 over the origin: .64 - .25 = .39, and the first dominates."""
    bootstrap = Bootstrap(measurements(noisy([[0.8, 0.8], [0.5, 0.5]]), ["a", "b"]))
    (difference,) = compare_fronts(bootstrap, fronts([True, False], [False, True]), [0, 0])
    assert difference.statistic.estimate == pytest.approx(0.39, abs=0.03)
    assert difference.statistic.low < 0.39 < difference.statistic.high
    assert (difference.dominates, difference.dominated, difference.clear) == (1.0, 0.0, True)
    assert difference.seeds == 2


def test_all_differences_seen_from_one() -> None:
    """a - b = .39, so b minus a is -.39; of the pair without a nothing is said."""
    bootstrap = Bootstrap(measurements(noisy([[0.8, 0.8], [0.5, 0.5], [0.3, 0.3]]), ["0", "1", "2"]))
    differences = compare_fronts(bootstrap, fronts(*np.eye(3, dtype=bool).tolist()), [0, 0])
    relative = relative_to("0", differences)
    assert set(relative) == {"1", "2"}
    assert (relative["1"].estimate, relative["1"].low) == (
        -differences[0].statistic.estimate,
        -differences[0].statistic.high,
    )
    assert relative_to("2", differences)["1"] == differences[2].statistic


def test_common_seeds_are_paired() -> None:
    """A seed effect that both share cancels: the difference is known better than either hypervolume."""
    bootstrap = Bootstrap(
        measurements(noisy([[0.8, 0.8], [0.79, 0.79]] * 4, shared=0.95, deviation=0.05), ["a", "b"] * 4)
    )
    pair = fronts([True, False] * 4, [False, True] * 4)
    (difference,) = compare_fronts(bootstrap, pair, [0, 0])
    alone = estimate_hypervolume(bootstrap, pair["0"], [0, 0])
    assert difference.statistic.error < 0.5 * alone.error


def test_identical_fronts_do_not_differ() -> None:
    bootstrap = Bootstrap(measurements(noisy([[0.8, 0.8], [0.3, 0.9]]), ["a", "a"]))
    (difference,) = compare_fronts(bootstrap, fronts([True, True], [True, True]), [0, 0])
    assert (difference.statistic.estimate, difference.statistic.error, difference.p_value) == (0.0, 0.0, 1.0)
    assert (difference.dominates, difference.dominated) == (0.0, 0.0)


def test_detectable_difference_and_seeds() -> None:
    """Four times the seeds: half the error, so about half the detectable difference."""
    arc = [[math.cos(angle), math.sin(angle)] for angle in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)]
    lines = [Line(6 * side + np.arange(6), np.arange(6.0)[:, None]) for side in (0, 1)]
    few, many = (
        compare_fronts(
            Bootstrap(measurements(noisy(arc + arc, seeds), ["a"] * 6 + ["b"] * 6, lines=lines)),
            fronts([True] * 6 + [False] * 6, [False] * 6 + [True] * 6),
            [0, 0],
        )[0]
        for seeds in (5, 20)
    )
    assert many.detectable / few.detectable == pytest.approx(0.5, abs=0.15)
    assert few.detectable > 2.8 * few.statistic.error


def test_anchors_belong_to_a_front() -> None:
    bootstrap = Bootstrap(measurements(noisy([[0.5, 0.5]]), ["a"]))
    front = Front(np.array([True]), np.array([[0.0, 1.0], [1.0, 1.0]]))
    assert estimate_hypervolume(bootstrap, front, [0, 0]).estimate == pytest.approx(1.0)


def test_advice_names_what_is_not_settled() -> None:
    """Two near ties and one point far ahead in the second objective: only the ties are unsettled, by each other."""
    values = noisy([[0.8, 0.5], [0.801, 0.501], [0.1, 0.9]], deviation=0.02)
    bootstrap = Bootstrap(measurements(values, ["a"] * 3))
    advice = advise_seeds(bootstrap, bootstrap.on_front())
    assert {each.row for each in advice} <= {0, 1}
    assert advice
    assert all(each.rival in (0, 1) and each.rival != each.row for each in advice)
    assert all(each.add is None or each.add >= 1 for each in advice)


def configurations() -> list[Configuration]:
    def plain(label: str, **coefficients: float) -> Configuration:
        return Configuration(
            f"plain {label}", "plain", label, {"adapter_scale": 1.0, "checkpoint_step": 8} | coefficients
        )

    return [
        plain(""),
        plain("adapter_scale=0.5", adapter_scale=0.5),
        plain("checkpoint_step=4", checkpoint_step=4),
        Configuration("good", "good", "", {}),
        Configuration("bad", "bad", "", {}),
    ]


def test_controls_are_recognised() -> None:
    assert [control_of(row) for row in configurations()] == [None, "scale", "checkpoint", None, None]


def test_a_method_must_beat_both_controls() -> None:
    """Scaled (.5, .5), checkpoint (.7, .7). good (.9, .9) beats both; bad (.6, .6) beats the scaled adapter alone."""
    values = noisy([[1.0, 0.0], [0.5, 0.5], [0.7, 0.7], [0.9, 0.9], [0.6, 0.6]])
    methods = [row.method for row in configurations()]
    bad, good = compare_with_controls(Bootstrap(measurements(values, methods)), configurations(), [0.0, 1.0], [0, 0])
    assert set(good.beats) == {"checkpoint", "scale"}
    assert "good pushes the frontier" in good.text
    assert bad.beats == ("scale",)
    assert bad.loses == ("checkpoint",)
    assert "bad is not shown to push the frontier: it loses to the checkpoints of plain fine-tuning" in bad.text
    assert good.against["scale"].statistic.estimate == pytest.approx(0.81 - 0.25, abs=0.03)


def test_without_controls_nothing_is_claimed() -> None:
    rows = configurations()[3:]
    verdicts = compare_with_controls(
        Bootstrap(measurements(noisy([[0.9, 0.9], [0.6, 0.6]]), ["good", "bad"])), rows, None, [0, 0]
    )
    assert "no control has been evaluated" in verdicts[0].text
    assert verdicts[0].beats == ()
