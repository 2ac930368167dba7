"""From a table to points, and from points to JSON, CSV and the terminal."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from analysis.findings.frontier import csv_text, front_json, frontier, write_csv, write_json
from analysis.findings.frontier_table import rich_table
from analysis.tables.scores import Objective, TrialRecord
from settings.common.errors import UserError
from settings.common.files import output_file
from tests.support.made_up_trials import ALIGNMENT, KL1, KL10, OBJECTIVES, PLAIN, TRIALS, configuration, record, table


def test_points_by_hand() -> None:
    """Plain has the best task, KL 1 the best alignment, and KL 10 is worse than KL 1 in both."""
    points = frontier(table(TRIALS))
    assert [(point.configuration, point.on_front) for point in points] == [
        (PLAIN.id, True),
        (KL1.id, True),
        (KL10.id, False),
    ]
    assert points[1].scores["task"].mean == pytest.approx(0.8)
    assert points[1].scores["alignment"].mean == pytest.approx(0.6)
    assert (points[1].seeds, points[1].label, points[1].coefficients) == (2, "beta=1.0", {"beta": 1.0})


def test_intervals_pool_the_methods_own_variance() -> None:
    """KL: task squares 4 x .01 over df 2, s^2 = .02; both configurations move alike, so that is worth 2 / (1 + 1) = 1.

    t = 12.7062: half width t sqrt(.02 / 2) = 1.27062. Plain: the same from its own df 1; its alignment does not vary.
    """
    plain, kl, _ = frontier(table(TRIALS))
    assert kl.scores["task"].high - kl.scores["task"].mean == pytest.approx(1.270620, abs=1e-6)
    assert kl.scores["task"].mean - kl.scores["task"].low == pytest.approx(1.270620, abs=1e-6)
    assert plain.scores["task"].high - plain.scores["task"].mean == pytest.approx(1.27062, abs=1e-5)
    assert plain.scores["alignment"].low == plain.scores["alignment"].high == pytest.approx(0.1)


def test_lower_is_better_turns_the_front_but_not_the_numbers() -> None:
    """With a loss in place of the task score, KL 10 (.5) is best, plain (.9) worst in both."""
    loss = Objective("task", "task", higher_is_better=False)
    points = frontier(table(TRIALS, (loss, ALIGNMENT)))
    assert [(point.configuration, point.on_front) for point in points] == [
        (KL10.id, True),
        (KL1.id, True),
        (PLAIN.id, False),
    ]
    assert points[0].scores["task"].mean == pytest.approx(0.5)
    assert points[0].scores["task"].low < points[0].scores["task"].high


def test_one_objective_alone() -> None:
    points = frontier(table(TRIALS), objectives=["alignment"])
    assert [point.configuration for point in points if point.on_front] == [KL1.id]
    assert list(points[0].scores) == ["alignment"]


def test_exact_ties_are_both_on_the_front() -> None:
    twin = configuration("twin")
    points = frontier(table([record(KL1, 0, 0.5, 0.5), record(twin, 0, 0.5, 0.5)]))
    assert [point.on_front for point in points] == [True, True]


def test_a_dead_configuration_is_listed_and_never_on_the_front() -> None:
    dead = configuration("dead")
    points = frontier(table([*TRIALS, record(dead, 0, status="invalid"), record(dead, 1, status="failed")]))
    last = next(point for point in points if point.method == "dead")
    assert (last.seeds, last.on_front) == (0, False)
    assert dict(last.excluded) == {"invalid": 1, "failed": 1, "stopped": 0}
    assert math.isnan(last.scores["task"].mean)


def test_nothing_finished() -> None:
    with pytest.raises(UserError, match=r"no trial has finished yet.*1 failed"):
        frontier(table([record(KL1, 0, status="failed")]))
    with pytest.raises(UserError, match=r"so there is no frontier$"):
        frontier(table([]))


def test_json_has_the_front_alone_and_exactly_these_keys(tmp_path: Path) -> None:
    path = tmp_path / "new" / "frontier.json"
    write_json(path, "demo", frontier(table(TRIALS)))
    data = json.loads(path.read_text())
    assert set(data) == {"sweep", "points"}
    assert data["sweep"] == "demo"
    assert [point["configuration"] for point in data["points"]] == [PLAIN.id, KL1.id]
    keys = {"method", "configuration", "label", "coefficients", "seeds", "tokens", "seconds", "task", "alignment"}
    assert all(set(point) == keys for point in data["points"]), "keys are fixed: leave others out in front_json"
    assert set(data["points"][0]["task"]) == {"mean", "low", "high"}
    assert [entry.name for entry in path.parent.iterdir()] == ["frontier.json"]


def test_json_without_an_interval_has_null() -> None:
    """One seed: "NaN" would not be JSON."""
    data = front_json("demo", frontier(table([record(KL1, 0, 0.5, 0.5)])))
    assert data["points"][0]["task"] == {"mean": 0.5, "low": None, "high": None}
    json.dumps(data, allow_nan=False)


def test_csv_has_every_configuration(tmp_path: Path) -> None:
    dead = configuration("dead, or not", k="a,b")
    points = frontier(table([*TRIALS, record(dead, 0, status="stopped")]))
    write_csv(tmp_path / "frontier.csv", points)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "frontier.csv").read_text())))
    assert [row["on_front"] for row in rows] == ["true", "true", "false", "false"]
    by_id = {row["configuration"]: row for row in rows}
    assert float(by_id[KL1.id]["task_mean"]) == pytest.approx(0.8)
    assert float(by_id[KL1.id]["task_high"]) == pytest.approx(2.070620, abs=1e-6)
    assert (by_id[dead.id]["task_mean"], by_id[dead.id]["stopped"]) == ("", "1")
    assert json.loads(by_id[dead.id]["coefficients"]) == {"k": "a,b"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """The disk is full halfway."""
    path = tmp_path / "frontier.csv"
    path.write_text("old")
    with pytest.raises(UserError, match=r"cannot write .*frontier\.csv: No space left"), output_file(path) as temporary:
        temporary.write_text("ha")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """Who opened the old file goes on reading the old one: the new one takes its name in one move."""
    path = tmp_path / "frontier.csv"
    path.write_text("old")
    with path.open() as reader:
        write_csv(path, frontier(table(TRIALS)))
        assert reader.read() == "old"
    assert path.read_text().startswith("method,")


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_csv(tmp_path / "file" / "frontier.csv", frontier(table(TRIALS)))


def test_an_objective_may_not_hide_a_column() -> None:
    clash = (Objective("seeds", "task"), ALIGNMENT)
    points = frontier(table([TrialRecord(KL1, 0, "finished", {"seeds": 1.0, "alignment": 1.0})], clash))
    with pytest.raises(UserError, match="'seeds'"):
        front_json("demo", points)
    with pytest.raises(UserError, match="'seeds'"):
        csv_text(points)


def shown(trials: Sequence[TrialRecord] = (), objectives: Sequence[Objective] = OBJECTIVES, **options: Any) -> str:
    usual = [*TRIALS, record(configuration("one [bold]seed"), 0, 0.3, 0.2), record(KL10, 2, status="invalid")]
    trials = trials or usual
    console = Console(width=140, file=io.StringIO(), force_terminal=False)
    console.print(rich_table(frontier(table(trials, objectives)), objectives, "demo", width=140, **options))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_equal_points_are_one_row_of_the_front() -> None:
    """Three of KL with the same scores: the first stands for them. Plain has these scores, too: one tie of four."""
    twin = [configuration("kl_penalty", beta=beta) for beta in (1.0, 2.0, 3.0)]
    trials = [record(row, seed, 0.8 + 0.1 * seed, 0.6) for row in (*twin, configuration("plain")) for seed in (0, 1)]
    text = shown(trials)
    assert "kl_penalty (3) = plain" in text
    assert "kl_penalty beta=1.0 and 2 more that equal it" in shown(trials[:6])
    readout = [record(configuration("plain", adapter_scale=0.5), seed, 0.8 + 0.1 * seed, 0.6) for seed in (0, 1)]
    assert "kl_penalty (3) = plain (2)" in shown([*readout, *trials])
    assert text.count("* ") - text.count("* on the frontier") == 1
    assert "equal it" not in shown()


def test_an_interval_beyond_what_a_share_can_be_is_explained() -> None:
    """TRIALS have one from -0.47 to 2.07; within [0, 1] nothing is said."""
    assert "a t-interval may leave the range of its score" in shown()
    narrow = [record(PLAIN, seed, 0.5 + 0.001 * seed, 0.5) for seed in range(3)]
    assert "a t-interval" not in shown(narrow)


def test_an_interval_below_the_end_of_a_loss_is_explained() -> None:
    """Means 2 and 0.02 of losses, which end at 0: only the second's interval reaches below."""
    losses = [replace(each, higher_is_better=False, low=0.0) for each in OBJECTIVES]
    for middle, is_said in ((2.0, False), (0.02, True)):
        trials = [record(PLAIN, seed, middle + 0.015 * (seed - 1), 3.0) for seed in range(3)]
        text = shown(trials, objectives=losses)
        assert ("a t-interval may leave the range of its score" in text) == is_said


def test_what_p_is_worth_is_said_where_it_is_in_doubt() -> None:
    near = [record(KL1, seed, task, 0.5) for seed, task in enumerate((0.4, 0.5, 0.6))]
    near += [record(KL10, seed, task, 0.5) for seed, task in enumerate((0.61, 0.5, 0.42))]
    far = [record(PLAIN, seed, 0.9 + 0.001 * seed, 0.9) for seed in range(3)]
    assert "12 points" not in shown(far)


def test_terminal_table() -> None:
    text = shown()
    assert "task ↑" in text
    assert "0.800 [-0.47, 2.07]" in text
    assert "1 invalid" in text
    assert "0.300 [-]" in text
    assert "[-] one seed: no interval" in text
    assert "one [bold]seed" in text


def test_terminal_table_of_the_front() -> None:
    text = shown(front_only=True)
    assert "beta=1.0" in text
    assert "beta=10.0" not in text
    assert "one seed" not in text


def test_a_share_of_one_seed_has_wilsons_interval() -> None:
    """3 of 10: [.1078, .6032]. A loss has no such interval, nor a share of unknown number."""
    alone = [
        TrialRecord(PLAIN, 0, "finished", {"task": 0.3, "alignment": 1.7}, counts={"task": 10, "alignment": 10}),
        TrialRecord(KL1, 0, "finished", {"task": 0.5, "alignment": 0.5}),
    ]
    points = {point.configuration: point for point in frontier(table(alone))}
    task, loss = points[PLAIN.id].scores["task"], points[PLAIN.id].scores["alignment"]
    assert (task.low, task.high) == pytest.approx((0.107791, 0.603222), abs=1e-6)
    assert task.basis == "questions"
    assert (loss.basis, points[KL1.id].scores["task"].basis) == ("none", "none")
    assert math.isnan(loss.low)
    assert math.isnan(points[KL1.id].p_front)


def test_probability_of_the_front() -> None:
    """Far behind: 0. Two equal means: the luckier one varies. The best in one objective without noise: certain."""
    random = np.random.default_rng(0)
    ahead, twin, behind, best = (configuration("kl", beta=float(beta)) for beta in range(4))
    rows = []
    for seed in range(5):
        for which, task, alignment in ((ahead, 0.6, 0.6), (twin, 0.6, 0.6), (behind, 0.1, 0.1), (best, 0.2, 0.95)):
            noise = 0.02 * random.normal(size=2)
            rows.append(record(which, seed, task + noise[0], alignment + noise[1]))
    probability = {point.configuration: point.p_front for point in frontier(table(rows))}
    assert probability[behind.id] == 0
    assert probability[best.id] == 1
    assert 0.2 < probability[ahead.id] < 0.95
    assert 0.2 < probability[twin.id] < 0.95


def test_the_base_model_has_the_last_row() -> None:
    names = [objective.name for objective in OBJECTIVES]
    text = shown(base={names[0]: 0.125, names[1]: 0.9375, "other": 0.5})
    (row,) = [line for line in text.splitlines() if "base model" in line]
    assert row.split() == ["base", "model", "0.125", "0.938"]
    assert "base model" not in shown()
    assert "base model" not in shown(base={"other": 0.5})


def test_what_two_seeds_are_worth_is_said() -> None:
    two, three = ([record(PLAIN, seed, 0.9, 0.9) for seed in range(number)] for number in (2, 3))
    assert "two seeds say little about the variance" in shown(two)
    assert "two seeds" not in shown(three)
