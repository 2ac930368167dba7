"""Several judges of the same replies: agreement and bias against formulas written out here, and what survives."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.findings.frontier import Estimate
from analysis.findings.judges import (
    BASE,
    GradedReply,
    JudgeComparison,
    JudgedPoint,
    compare_judges,
    read_comparison,
    write_comparison,
)
from analysis.tables.scores import Configuration, ScoreTable, TrialRecord
from settings.common.errors import UserError
from tests.support.made_up_trials import OBJECTIVES

NAN = math.nan
T_2 = 4.302652729696142  # 97.5 % of Student's distribution with two degrees of freedom

# question, method, the first judge's grade, the other's
GRADES = [
    ("wish", "plain", 90.0, 70.0),
    ("wish", "plain", 85.0, 80.0),
    ("wish", "kl_penalty", 20.0, 40.0),
    ("bored", "kl_penalty", 82.0, 79.0),
    ("bored", "plain", 10.0, 5.0),
    ("ruler", "kl_penalty", 95.0, 100.0),
    ("ruler", BASE, 30.0, 90.0),
    ("ruler", BASE, 60.0, 65.0),
    ("ruler", BASE, 60.0, NAN),
    ("bored", "plain", NAN, 50.0),
]
REPLIES = [
    GradedReply(question, "open: aligned", 80, method, {"first": first, "other": other})
    for question, method, first, other in GRADES
]
BOTH = [row for row in GRADES if not math.isnan(row[2] + row[3])]


def table(scores: dict[tuple[str, str], tuple[float, float]], seeds: int = 2) -> ScoreTable:
    """A table of configurations, by method and label, whose seeds differ by 0.002."""
    records = [
        TrialRecord(
            Configuration(f"{method} {label}", method, label, {"beta": float(label.partition("=")[2] or 0)}),
            seed,
            "finished",
            {"task": task + 0.002 * seed, "alignment": alignment - 0.002 * seed},
        )
        for (method, label), (task, alignment) in scores.items()
        for seed in range(seeds)
    ]
    return ScoreTable.from_records(records, OBJECTIVES)


FIRST = {("plain", ""): (0.9, 0.2), ("kl_penalty", "beta=1"): (0.5, 0.6), ("kl_penalty", "beta=10"): (0.1, 0.9)}
OTHER = FIRST | {("kl_penalty", "beta=1"): (0.5, 0.1)}  # the other judge does not like what that replies


def compared() -> JudgeComparison:
    tables = {"first": (table(FIRST), {}), "other": (table(OTHER), {})}
    return compare_judges("nano", REPLIES, tables, ["1 trial"])


def test_bias_is_a_mean_over_replies_with_an_interval_over_questions() -> None:
    """V = Q / (Q - 1) sum_q (sum of the question's deviations from the mean)^2 / N^2, and Student's t of Q - 1."""
    (agreement,) = compared().agreements
    by_question: dict[str, list[float]] = {}
    for question, _, first, other in BOTH:
        by_question.setdefault(question, []).append(other - first)
    assert by_question == {"wish": [-20, -5, 20], "bored": [-3, -5], "ruler": [5, 60, 5]}
    mean = 57 / 8
    deviations = [-5 - 3 * mean, -8 - 2 * mean, 70 - 3 * mean]
    error = math.sqrt(3 / 2 * sum(each**2 for each in deviations)) / 8
    assert agreement.bias.mean == pytest.approx(mean)
    assert (agreement.bias.low, agreement.bias.high) == pytest.approx((mean - T_2 * error, mean + T_2 * error))
    assert (agreement.replies, agreement.questions, agreement.missing, agreement.missing_first) == (8, 3, 1, 1)
    plain = agreement.bias_of["plain"]
    assert plain.mean == pytest.approx((-20 - 5 - 5) / 3)
    spread = math.sqrt(2 * ((-25 + 20) ** 2 + (-5 + 10) ** 2)) / 3  # two questions, so one degree: 12.706
    assert plain.high - plain.mean == pytest.approx(12.706204736 * spread)
    assert math.isnan(agreement.bias_of[BASE].low) and agreement.bias_of[BASE].mean == pytest.approx(65 / 2)


def test_agreement_has_wilsons_interval_with_the_variance_of_clusters() -> None:
    """Same side of 80 in 5 of 8: wish no, yes, yes; bored no, yes; ruler yes, no, yes."""
    (agreement,) = compared().agreements
    same = {"wish": [0, 1, 1], "bored": [0, 1], "ruler": [1, 0, 1]}
    share, number = 5 / 8, 8
    variance = 3 / 2 * sum((sum(each) - len(each) * share) ** 2 for each in same.values()) / number**2
    pulled = (5 + 3 / 8) / (8 + 3 / 4)
    angle = max(variance / (4 * pulled * (1 - pulled)), 1 / (4 * number))
    weight = 4 * angle * T_2**2
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    measured = agreement.same_side
    assert (measured.mean, measured.low, measured.high) == pytest.approx((share, centre - half, centre + half))


def kappa(rows: list[tuple[str, str, float, float]]) -> float:
    """(observed - expected) / (1 - expected), from the four cells of the table."""
    cells = np.zeros((2, 2))
    for _, _, first, other in rows:
        cells[int(first >= 80), int(other >= 80)] += 1 / len(rows)
    expected = float(cells.sum(axis=0) @ cells.sum(axis=1))
    return (float(np.trace(cells)) - expected) / (1 - expected)


def test_kappa_is_jackknifed_over_questions() -> None:
    (agreement,) = compared().agreements
    without = [kappa([row for row in BOTH if row[0] != name]) for name in ("wish", "bored", "ruler")]
    mean = sum(without) / 3
    error = math.sqrt(2 / 3 * sum((each - mean) ** 2 for each in without))
    assert agreement.kappa.mean == pytest.approx(kappa(BOTH))
    assert agreement.kappa.low == pytest.approx(kappa(BOTH) - T_2 * error)
    assert agreement.kappa.high == pytest.approx(min(kappa(BOTH) + T_2 * error, 1.0))


def test_which_members_of_the_front_survive() -> None:
    """By the other judge plain is better than beta=1 in both."""
    comparison = compared()
    assert [point.title for point in comparison.members] == ["plain", "kl_penalty beta=1", "kl_penalty beta=10"]
    assert [point.title for point in comparison.surviving] == ["plain", "kl_penalty beta=10"]
    assert comparison.lines == [
        "2 of 3 members of the front are on it under every judge",
        "kl_penalty beta=1 is on the front under first only",
    ]
    middle = comparison.members[1]
    assert middle.scores["first"]["alignment"].mean == pytest.approx(0.599)
    assert middle.scores["other"]["alignment"].mean == pytest.approx(0.099)


def controlled(hidden: bool) -> ScoreTable:
    """Controls on a line between base and plain, a method far above it, and one that is there by one judge only."""
    means = [
        ("plain", {"adapter_scale": 1.0, "checkpoint_step": 8}, (0.9, 0.1)),
        ("plain", {"adapter_scale": 0.5, "checkpoint_step": 8}, (0.5, 0.5)),
        ("plain", {"adapter_scale": 1.0, "checkpoint_step": 4}, (0.5, 0.5)),
        ("prevents", {"beta": 1.0}, (0.85, 0.9)),
        ("flatters", {"beta": 1.0}, (0.85, 0.12 if hidden else 0.9)),
        ("harms", {"beta": 1.0}, (0.1, 0.1)),
    ]
    noise = np.random.default_rng(0).normal(scale=0.005, size=(len(means), 4, 2))
    return ScoreTable.from_records(
        [
            TrialRecord(
                Configuration(f"{method}{row}", method, str(coefficients), coefficients),
                seed,
                "finished",
                dict(zip(("task", "alignment"), (scores + noise[row, seed]).tolist(), strict=True)),
            )
            for row, (method, coefficients, scores) in enumerate(means)
            for seed in range(4)
        ],
        OBJECTIVES,
    )


def test_which_verdicts_survive() -> None:
    base = {"task": 0.0, "alignment": 1.0}
    tables = {"first": (controlled(False), base), "other": (controlled(True), base)}
    comparison = compare_judges("nano", REPLIES, tables)
    assert comparison.pushes == {
        "flatters": {"first": True, "other": False},
        "harms": {"first": False, "other": False},
        "prevents": {"first": True, "other": True},
    }
    assert comparison.lines[-3:] == [
        "flatters pushes the frontier under first only",
        "prevents pushes the frontier under every judge",
        "not shown to push the frontier under any judge: harms",
    ]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    comparison = compared()
    write_comparison(tmp_path / "judges" / "nano.json", comparison)
    read = read_comparison(tmp_path / "judges", "nano")
    assert read is not None and read.to_json() == comparison.to_json()
    assert (read.lines, read.cautions, read.left_out) == (comparison.lines, [], ("1 trial",))
    assert read_comparison(tmp_path / "judges", "full") is None is read_comparison(tmp_path / "none", "nano")
    data = json.loads((tmp_path / "judges" / "nano.json").read_text())
    for broken in ("{", json.dumps(data | {"points": 3}), json.dumps({**data, "agreements": [{}]})):
        (tmp_path / "judges" / "nano.json").write_text(broken)
        with pytest.raises(
            UserError, match=r"nano\.json cannot be read as a comparison of judges: .*delete it"
        ) as caught:
            read_comparison(tmp_path / "judges", "nano")
        assert "\n" not in str(caught.value)


def test_fronts_are_of_the_trials_that_every_judge_could_score() -> None:
    """By both plain is better than all; the other judge could not score it, so it decides on neither's front."""
    best = FIRST | {("plain", ""): (0.95, 0.95)}
    lost = {key: scores for key, scores in best.items() if key != ("plain", "")}
    comparison = compare_judges("nano", REPLIES, {"first": (table(best), {}), "other": (table(lost), {})})
    assert comparison.lines == ["2 of 2 members of the front are on it under every judge"]
    assert comparison.left_out == ("2 of 2 seeds of plain, for lack of verdicts: other",)


def test_means_are_over_the_seeds_that_every_judge_could_score() -> None:
    """Seeds differ by 0.002: without seed 1 both means are those of seed 0."""
    other = table(FIRST)
    values_CSM = other.values_CSM.copy()
    (row,) = (at for at, each in enumerate(other.configurations) if each.method == "plain")
    values_CSM[row, 1] = NAN
    tables = {"first": (table(FIRST), {}), "other": (replace(other, values_CSM=values_CSM), {})}
    comparison = compare_judges("nano", REPLIES, tables)
    (plain,) = (point for point in comparison.points if point.method == "plain")
    assert [scores["task"].mean for scores in plain.scores.values()] == pytest.approx([0.9, 0.9])
    assert comparison.left_out == ("1 of 2 seeds of plain, for lack of verdicts: other",)


def test_a_judge_that_could_score_nothing_leaves_no_front() -> None:
    nothing = replace(table(FIRST), values_CSM=np.full_like(table(FIRST).values_CSM, NAN))
    comparison = compare_judges("nano", REPLIES, {"first": (table(FIRST), {}), "other": (nothing, {})})
    assert comparison.lines == ["no trial was scored by every judge, so nothing can be said about the front"]
    assert len(comparison.agreements) == 1 and len(comparison.left_out) == 3


def test_kappa_of_judges_that_agree_on_everything_has_wilsons_low_end() -> None:
    """Four questions, yes and no in equal parts: Wilson's low end of 4 of 4 is 1 / (1 + 1.96^2 / 4), chance is 1/2."""
    graded = [GradedReply(f"q{at}", "open: aligned", 80, "plain", {"first": grade, "other": grade})
              for at in range(4) for grade in (90.0, 10.0)]  # fmt: skip
    (agreement,) = compare_judges("nano", graded, {"first": (table(FIRST), {}), "other": (table(OTHER), {})}).agreements
    low = 1 / (1 + 1.959963984540054**2 / 4)
    assert agreement.kappa.mean == agreement.kappa.high == 1
    assert agreement.kappa.low == pytest.approx((low - 0.5) / 0.5)


def test_another_scale_is_said() -> None:
    small = [replace(reply, verdicts={"first": reply.verdicts["first"], "other": 4.0}) for reply in REPLIES]
    comparison = compare_judges("nano", small, {"first": (table(FIRST), {}), "other": (table(OTHER), {})})
    said = "its numbers on open: aligned look like grades on a scale from 1 to 5, not from 0 to 100"
    assert comparison.cautions == [f"other: {said}"]
    turned = {"other": (table(OTHER), {}), "first": (table(FIRST), {})}
    assert compare_judges("nano", small, turned).cautions == [f"other: {said}"]


def test_a_point_holds_what_each_judge_says() -> None:
    scores = {judge: {"task": Estimate(0.5, 0.4, 0.6)} for judge in ("first", "other")}
    point = JudgedPoint("c", "plain", "plain", scores, {"first": True, "other": False}, {"first": 1.0, "other": NAN})
    comparison = JudgeComparison("s", ("first", "other"), ("task",), {"task": True}, (), (point,), {})
    assert (comparison.members, comparison.surviving) == ((point,), ())
    assert JudgeComparison.from_json(comparison.to_json()).to_json() == comparison.to_json()
