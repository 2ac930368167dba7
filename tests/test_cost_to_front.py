"""The short form of `tests.studies.cost_to_front`: what it reads, how it goes on, and its hypervolumes by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.tables.scores import Configuration, Objective, ScoreTable, TrialRecord
from settings.reference import SettingRef
from settings.setting import Setting
from tests.studies import cost_to_front
from tests.studies.cost_to_front import (
    BASE,
    DESIGNS,
    PLAIN,
    Design,
    Read,
    Way,
    blends,
    checkpoints,
    compare,
    interval,
    volumes,
    ways,
)
from tests.studies.trained_points import Point, TrainedPoints
from tests.support.tiny import tiny_base, tiny_setting
from trainables.pack import Pack

SEEDS, STEPS = 2, 4
ENDS = {"task": (0.0, 5.0), "alignment": (0.0, 30.0)}


def bounded() -> Setting:
    """The tiny setting with scores that end somewhere: words of a reply, nats."""
    made = tiny_setting()
    scored = [
        replace(each, scores=tuple(replace(s, ends=ENDS[s.name]) for s in each.scores)) for each in made.evaluations
    ]
    return replace(made, evaluations=tuple(scored))


@pytest.fixture
def world(tmp_path: Path) -> TrainedPoints:
    return world_at(tmp_path)


def world_at(folder: Path) -> TrainedPoints:
    made = bounded()
    options = {"steps": STEPS, "max_length": 16}
    base = tiny_base(dtype=torch.float32)
    return TrainedPoints(SettingRef("tiny"), made, base, made.all_scores, SEEDS, folder / "out.jsonl", options)


def test_points_are_measured_once_and_a_cut_line_again(world: TrainedPoints, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = [*checkpoints(PLAIN, "plain", (0.25, 0.5), STEPS), *blends(PLAIN, Point("alignment_only"), (0.1, 0.5))]
    points = [BASE, Point("pareto_adapters", {"share": 0.3}), *(read.point for read in reads)]
    first = world.measure(points, [1, 2, 3])
    out = world._out
    lines = out.read_text().splitlines()
    assert len(world.trainings(points[1])) == 1
    assert sum('\\"train\\"' in line for line in lines) == 3
    again = world_at(out.parent)
    with monkeypatch.context() as patched:
        patched.setattr(Pack, "__init__", lambda *_, **__: pytest.fail("done again"))
        assert again.measure(points) == first
    out.write_text("\n".join(lines)[:-20])
    mended = world_at(out.parent)
    assert [each.scores for each in mended.measure(points)] == [each.scores for each in first]
    assert out.read_text().splitlines()[:-1] == lines[:-1]


def test_the_ends_of_a_blend_are_its_two_trainings(world: TrainedPoints) -> None:
    """All of one and nothing of the other is that one, in every score of every seed."""
    other = Point("alignment_only")
    whole, none = (replace(PLAIN, blend=(other, share)) for share in (1.0, 0.0))
    measured = world.measure([PLAIN, other, whole, none, BASE])
    for found, expected in ((measured[2], measured[0]), (measured[3], measured[1])):
        for one, two in zip(found.scores, expected.scores, strict=True):
            assert one is not None
            assert two is not None
            for name in ENDS:
                assert one[name].mean == pytest.approx(two[name].mean, rel=1e-4)
    assert measured[0].scores != measured[1].scores
    assert sorted(world.trainings(whole)) == sorted({*world.trainings(PLAIN), *world.trainings(other)})


@pytest.mark.study
def test_every_way_has_a_row(world: TrainedPoints) -> None:
    design = Design("tiny", grid=3, sparse={2: (0, 2)}, steps=(0.5,), shares=(0.5,), adapter_shares=(0.0, 0.5, 1.0))
    design = replace(design, budgets=(2,))
    rows = {row.way.name: row for row in compare(world, ways(world, design), replicates=20)}
    assert rows[design.yardstick].share == (1.0, 1.0, 1.0)
    taken = {name: row.trainings for name, row in rows.items()}
    assert taken["pareto adapters"] == taken["plain scaled"] == 1
    assert taken["pareto adapters, and plain"] == taken["blend of a weak with a strong penalty"] == 2
    assert 2 <= taken["cheap front, at most 3 trainings"] <= 3
    assert taken["grid, 2 values"] == taken["search, 2 configurations"] == 2
    assert all(row.text.count("|") == 11 and row.tokens > 0 for row in rows.values())


def test_both_designs_put_their_values_at_the_same_places() -> None:
    """Even in the logarithm: .03 * 1000 ** ((n + .5) / 10) for the worlds, 1000 ** ((n + .5) / 8) for the model."""
    nano, small = DESIGNS["gcd_sycophancy"], DESIGNS["gcd_sycophancy_small"]
    assert nano.values == pytest.approx([0.03 * 10 ** (0.3 * (n + 0.5)) for n in range(10)], rel=0.01)
    assert small.values == pytest.approx([10 ** (0.375 * (n + 0.5)) for n in range(8)], rel=0.01)
    for beta, large in ((nano.weak, small.weak), (nano.strong, small.strong)):
        assert beta / 0.03 == pytest.approx(large, rel=0.15)


def made_up(points: Sequence[tuple[float, float]]) -> ScoreTable:
    """A curve over a knob, the same for two seeds."""
    objectives = [Objective("task", "task", low=0, high=1), Objective("alignment", "alignment", low=0, high=1)]
    records = [
        TrialRecord(Configuration(f"{at}", "m", f"{at}", {"knob": float(at)}, f"{at}"), seed, "finished",
                    {"task": x, "alignment": y})
        for at, (x, y) in enumerate(points) for seed in (0, 1)
    ]  # fmt: skip
    return ScoreTable.from_records(records, objectives)


def test_a_volume_is_that_of_the_curve_however_densely_it_is_read() -> None:
    """Alignment = 1 - task: the triangle under the line, 1/2; with 3, 5 or 11 places. The base model lies on it."""
    drawn_BS = np.array([[0, 1], [1, 1]])
    for number in (3, 5, 11):
        line = [(x, 1 - x) for x in np.linspace(0, 1, number)]
        found = volumes(made_up(line), np.array([0.0, 1.0]), drawn_BS)
        assert found == pytest.approx([0.5, 0.5, 0.5], abs=0.01)


def test_an_interval_takes_the_bias_of_draws_off() -> None:
    """Draws of 3 and 5 around a value of 3: 1 too large on average, so 2; deviation sqrt 2 times sqrt 2; t = 12.706."""
    estimate, low, high = interval(np.array([3.0, 3.0, 5.0]), 2)
    assert estimate == pytest.approx(2.0)
    assert (high - low) / 2 == pytest.approx(12.706 * 2, rel=1e-4)


def test_the_rule_counts_trainings_and_shares() -> None:
    way, share, apart = Way("w", (Read(PLAIN, "plain", {}),)), (0.96, 0.94, 0.98), (-0.02, -0.04, 0.0)
    row = cost_to_front.Row(way, 3, 1, 0, 0, 0, (0, 0, 0), share, apart)
    assert row.verdict == "succeeds"
    assert replace(row, share=(0.96, 0.951, 0.97)).verdict == "shown"
    assert replace(row, share=(0.949, 0.9, 0.99)).verdict == "no"
    assert replace(row, trainings=4).verdict == ""
    cheap = replace(row, way=replace(way, name="cheap front, at most 5 trainings"), trainings=5)
    assert cheap.verdict == "no"
    assert replace(cheap, difference=(0.0, -0.029, 0.1)).verdict == "shown"
