"""Scored models: intervals over questions by hand, files, and what is said of them against a frontier."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from analysis.figures.frontier import frontier_figure
from analysis.findings.frontier import Estimate, frontier
from analysis.findings.named_points import (
    NamedPoint,
    estimate_over_questions,
    named_file,
    read_named,
    standing,
)
from analysis.tables.scores import TrialRecord
from settings.common.errors import UserError
from sweeps.results.scoring import Scored, keep
from tests.support.made_up_trials import OBJECTIVES, TRIALS, configuration, record, table


def point(task: float, alignment: float, name: str = "mine") -> NamedPoint:
    scores = {"task": Estimate(task, task - 0.1, task + 0.1), "alignment": Estimate(alignment, math.nan, math.nan)}
    return NamedPoint(name, "made up", scores, {"seed": 0})


def test_a_loss_has_students_interval_over_questions() -> None:
    """Four questions: mean 2.5, standard error sqrt(5/3 / 4), t of 3 degrees."""
    estimate = estimate_over_questions([1.0, 2.0, 3.0, 4.0, None], "abcde", (0.0, None))
    half = stats.t.ppf(0.975, 3) * math.sqrt(5 / 3 / 4)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    assert estimate.basis == "questions"


def test_rows_with_one_prompt_are_one_question() -> None:
    """Each of two answers twice: as two questions, t of 1 degree; its error sqrt(2 (0.5^2 + 0.5^2) 2^2) / 4."""
    estimate = estimate_over_questions([1.0, 1.0, 2.0, 2.0], "aabb", (None, None))
    half = stats.t.ppf(0.975, 1) * math.sqrt(2 * (1.0 + 1.0)) / 4
    assert (estimate.low, estimate.high) == pytest.approx((1.5 - half, 1.5 + half))
    alone = estimate_over_questions([1.0, 1.0, 2.0, 2.0], "abcd", (None, None))
    assert alone.high - alone.low < estimate.high - estimate.low


def test_a_share_stays_within_its_ends_and_nothing_is_no_score() -> None:
    estimate = estimate_over_questions([1.0] * 20, range(20), (0.0, 1.0))
    assert estimate.mean == 1.0 and 0.7 < estimate.low < 1.0 and estimate.high == 1.0
    assert math.isnan(estimate_over_questions([None, None], "ab", (0.0, 1.0)).mean)


def test_points_come_back_from_their_files(tmp_path: Path) -> None:
    for name, setting in (("b", "made up"), ("a", "made up"), ("c", "another")):
        data = {**point(0.5, 0.5, name).to_json(), "setting": setting}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    named = read_named(tmp_path, "made up")
    assert [each.name for each in named] == ["a", "b"]
    assert named[0].scores["task"].low == pytest.approx(0.4) and math.isnan(named[0].scores["alignment"].low)
    assert named[0].facts == {"seed": 0} and read_named(tmp_path / "nowhere", None) == []
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(UserError, match=r"d\.json cannot be read as a scored model"):
        read_named(tmp_path, None)


def test_one_model_on_two_settings_is_two_files_and_older_files_are_read(tmp_path: Path) -> None:
    """A file of an older version, without the setting in its name, gives way to a newer one about the same."""

    def write(path: Path, task: float, setting: str) -> None:
        path.write_text(json.dumps({**point(task, 0.5).to_json(), "setting": setting}))

    files = [named_file(tmp_path, "mine", setting) for setting in ("first", "second")]
    assert len(set(files)) == 2
    write(tmp_path / "mine.json", 0.1, "first")
    assert [each.scores["task"].mean for each in read_named(tmp_path, "first")] == [0.1]
    for file, task, setting in zip(files, (0.2, 0.3), ("first", "second"), strict=True):
        write(file, task, setting)
    means = {setting: [p.scores["task"].mean for p in read_named(tmp_path, setting)] for setting in ("first", "second")}
    assert means == {"first": [0.2], "second": [0.3]}
    assert len(read_named(tmp_path, None)) == 2


def test_keeping_scores_on_one_setting_leaves_those_on_another(tmp_path: Path) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    (folder / "mine.json").write_text(json.dumps(point(0.1, 0.5).to_json()))
    other = replace(point(0.3, 0.5), setting="another")
    keep([Scored(other, {})], tmp_path)
    assert {each.setting for each in read_named(folder, None)} == {"made up", "another"}
    (file,) = keep([Scored(point(0.2, 0.5), {})], tmp_path)
    assert file.is_file() and not (folder / "mine.json").exists()
    assert [each.scores["task"].mean for each in read_named(folder, "made up")] == [0.2]


def test_what_is_better_is_named() -> None:
    """The frontier is plain (.9, .1), KL (.8, .6) and, with controls, one of them (.85, .5)."""

    def scaled(scale: float, task: float, alignment: float) -> list[TrialRecord]:
        return [record(configuration("plain", adapter_scale=scale), seed, task, alignment) for seed in (0, 1)]

    points = frontier(table([*TRIALS, *scaled(0.5, 0.7, 0.5), *scaled(0.9, 0.85, 0.5)]))
    for task, alignment, words in (
        (
            0.6,
            0.4,
            "; dominated by plain adapter_scale=0.9 and plain adapter_scale=0.5, and by 2 ",
        ),
        (
            0.6,
            0.4,
            "configurations of the frontier (plain adapter_scale=0.9 and kl beta=1.0); dominated: another",
        ),
        (0.82, 0.4, "; dominated by plain adapter_scale=0.9, and by 1 configuration of the frontier (plain"),
        (0.3, 0.55, "; dominated by no control, and by 1 configuration of the frontier (kl beta=1.0); dominated: "),
        (0.95, 0.9, "; dominated by no control, and by no configuration of the frontier"),
    ):
        assert words in standing(point(task, alignment), points, OBJECTIVES)
    assert standing(point(0.6, 0.4), frontier(table(TRIALS)), OBJECTIVES).endswith(
        "; dominated by 1 configuration of the frontier (kl beta=1.0); dominated: another is as good in every objective"
        " and better in at least one; no control has been evaluated"
    )
    front = [each for scale in (0.2, 0.3, 0.4) for each in scaled(scale, 0.8 + scale / 10, 0.6 - scale / 10)]
    first = "plain adapter_scale=0.4, plain adapter_scale=0.3, plain adapter_scale=0.2"
    assert f"4 configurations of the frontier ({first} and 1 more)" in standing(
        point(0.6, 0.4), frontier(table([*TRIALS, *front])), OBJECTIVES
    )


def test_the_figure_shows_its_name_inside_the_axes() -> None:
    """Of two models the one that lacks a score is not drawn; the other lies beyond all trials."""
    lacking = NamedPoint("lacking", "made up", {"task": Estimate(0.5, 0.4, 0.6)}, {})
    figure = frontier_figure(table(TRIALS), named=[point(0.2, 0.99), lacking])
    axes = figure.axes[0]
    texts = {text.get_text() for text in axes.texts}
    assert "mine" in texts and "lacking" not in texts
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert left < 0.99 < right and bottom < 0.2 < top
    assert any("scored model" in str(handle.get_text()) for handle in figure.axes[0].get_legend().get_texts())
