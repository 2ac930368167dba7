"""Configurations with equal means share an entry, with numbers that claim no more than any of them."""

from __future__ import annotations

import math
from dataclasses import replace

from analysis.findings.frontier import Estimate, FrontierPoint, frontier
from analysis.findings.named_points import NamedPoint, standing
from analysis.findings.ties import entries
from tests.support.made_up_trials import OBJECTIVES, configuration, record, table


def point(method: str, label: str, task: Estimate, p_front: float, seconds: float) -> FrontierPoint:
    counts = {"invalid": 1, "failed": 0, "stopped": 0}
    scores = {"task": task, "alignment": Estimate(0.5, 0.4, 0.6)}
    return FrontierPoint(method, f"{method}{label}", label, {}, 3, counts, scores, 100.0, seconds, True, p_front)


def test_a_tie_has_the_widest_interval_the_highest_chance_and_the_lowest_cost() -> None:
    first = point("kl", "beta=1", Estimate(0.9, 0.8, 0.95), 0.3, 5.0)
    second = point("mixed", "share=1", Estimate(0.9, 0.85, 0.99), 0.4, math.nan)
    third = point("mixed", "share=2", Estimate(0.9, math.nan, math.nan, "none"), math.nan, 2.0)
    (tie,) = entries([first, second, third])
    merged = tie.point
    assert tie.title == "kl beta=1 = mixed (2)"
    assert merged.scores["task"] == Estimate(0.9, 0.8, 0.99)
    assert (merged.p_front, merged.seconds, merged.excluded["invalid"]) == (0.4, 2.0, 3)
    alone = entries([third])[0].point
    assert alone.scores["task"].basis == "none"


def test_what_is_equal_in_the_objectives_looked_at_ties() -> None:
    same = point("kl", "beta=1", Estimate(0.9, 0.8, 0.95), 0.3, 5.0)
    other = replace(same, configuration="x", scores={**same.scores, "alignment": Estimate(0.7, 0.6, 0.8)})
    assert [len(entry.members) for entry in entries([same, other])] == [1, 1]
    assert [len(entry.members) for entry in entries([same, other], ["task"])] == [2]


def test_a_mean_that_is_equal_but_for_the_last_bit_is_dominated() -> None:
    """299 of 360 answers, in two orders over seeds: sums of floats differ, and the worse task has no star."""
    shares = {"a": (99, 101, 99), "b": (100, 100, 99)}
    assert len({sum(hits / 120 for hits in each) for each in shares.values()}) == 2
    rows = [
        record(configuration(name), seed, task, hits / 120)
        for name, task in (("a", 0.9), ("b", 0.89))
        for seed, hits in enumerate(shares[name])
    ]
    points = {point.method: point for point in frontier(table(rows))}
    assert points["a"].on_front and not points["b"].on_front
    named = NamedPoint("mine", "made up", points["b"].scores, {})
    assert "; dominated by 1 configuration of the frontier (a); " in standing(named, list(points.values()), OBJECTIVES)


def test_sums_that_differ_in_the_last_bit_are_equal_and_no_result_equals_nothing() -> None:
    """0.1 + 0.2 + 0.3 in two orders; two configurations whose trials all failed stay two."""
    rows = [record(configuration("a"), seed, value, 0.5) for seed, value in enumerate((0.1, 0.2, 0.3))]
    rows += [record(configuration("b"), seed, value, 0.5) for seed, value in enumerate((0.3, 0.2, 0.1))]
    rows += [record(configuration(name), 0, status="failed") for name in ("c", "d")]
    assert [len(entry.members) for entry in entries(frontier(table(rows)))] == [2, 1, 1]
