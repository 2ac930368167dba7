"""How much of a front can be had for how many trainings? Hypervolume against trainings, tokens and seconds.

    python -m tests.studies.cost_to_front --setting bad_medical_advice --seeds 10 --out FILE.jsonl

Written down before the first run. The yardstick is a grid of ten values of `kl_penalty`'s beta, spread evenly over the
logarithm of its range, .03 to 30: ten trainings a seed. A way *succeeds* in a nano world when it reaches 95 % of the
grid's hypervolume with at most three trainings a seed, in 10 seeds; it is *shown* to when the lower end of the 95 %
interval does. A way holds when it succeeds on `bad_medical_advice` and on `gcd_sycophancy`.

`Search(front="cheap")` may train half of the grid, and is *shown* to do where the 95 % interval of its hypervolume
minus the grid's, paired over seeds, lies above -.03; that, too, was written before it was run.

The ways: fewer values of the grid; the search that sweeps use, which is told of each configuration before it proposes
the next; the cheap front, which is told of both ends and their blends before it fills gaps; checkpoints of plain
fine-tuning and of a strong penalty; the adapters of both scaled; blends of plain with alignment alone, and of a weak
with a strong penalty; the decoding mix of the plain model, where the project has it; and `pareto_adapters`, ten shares
of one training, in three forms. All values were chosen before the run: weak is beta = .1,
strong is 10, and the adapters' weight is 3, so that their shares of .1 to .9 weigh the losses as betas of .3 to 27 do.

The hypervolume is that of verdicts, which does not depend on how densely a knob is read: of curves over the knobs
(`analysis.statistics.curves`), a way's several curves together, and the base model, which costs nothing. Seeds are
drawn with replacement, the same for all ways, and all points of a seed move together: points of one training are one
draw. Intervals are t-intervals of S - 1 degrees of freedom around an estimate whose bias, what another noise would add,
is taken off. Tokens and seconds are those of all seeds: seconds of training, and of evaluating every point.

Shape legend: C configurations, S seeds, M objectives, B replicates, P points of curves, K anchors, W ways.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit

from analysis.findings.arms import measure
from analysis.statistics.arrays import Floats
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.pareto import hypervolumes
from analysis.tables.scores import Configuration, ScoreTable, TrialRecord
from sweeps.case import Arm
from sweeps.controls import BLENDS, blends_of
from sweeps.description import describe_score
from sweeps.search.gaps import GapProposer
from sweeps.search.proposer import Proposer
from sweeps.space import vary
from sweeps.sweep import Sweep, setting
from tests.studies.trained_points import Point, TrainedPoints
from trainables.bases.load_base import load_base
from trainables.trial import TRIAL_KNOBS

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "bad_medical_advice": {"alignment_batch_size": 32},  # as in the table of all methods
    "gcd_sycophancy": {},
}
YARDSTICK = "grid, 10 values"
GRID = 10
SPARSE = {"grid, 5 values": (0, 2, 4, 6, 8), "grid, 3 values": (1, 5, 8)}  # places in the grid
ENOUGH, MOST_TRAININGS = 0.95, 3
WEAK, STRONG = {"beta": 0.1}, {"beta": 10.0}
STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the training, at which checkpoints are read
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MIXES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.25)
ADAPTER_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.9, 1.0)
FORMS: Mapping[str, Mapping[str, Any]] = {
    "pareto adapters": {},
    "pareto adapters, cross-entropy": {"alignment": "cross_entropy"},
    "pareto adapters, conditioned": {"form": "conditioned"},
}
WEIGHT = 3.0
CHEAP, LEAST = (
    (3, 5),
    -0.03,
)  # trainings of a cheap front; the difference to the grid that its interval is above
REPLICATES = 2000
PLAIN = Point("plain")
BASE = Point("")


@dataclass(frozen=True)
class Read:
    """A point, and where it lies on a way's curves.

    Attributes:
        curve: which.
        knobs: its place there; empty where it lies on none.
    """

    point: Point
    curve: str
    knobs: Mapping[str, float]


@dataclass(frozen=True)
class Way:
    """A way to a front: the points that it reads."""

    name: str
    reads: tuple[Read, ...]


def penalty(beta: float) -> Read:
    """Return a value of the penalty's knob."""
    return Read(Point("kl_penalty", {"beta": beta}), "kl_penalty", {"beta": beta})


def grid_values() -> list[float]:
    """Return the ten values."""
    space = vary("kl_penalty")
    return [float(space.at([(number + 0.5) / GRID])["beta"]) for number in range(GRID)]


def searched(world: TrainedPoints, budget: int) -> Iterator[Read]:
    """Yield the values that the sweeps' search proposes, each after all before it were told."""
    arm = Arm(world.ref, vary("kl_penalty"), budget, f"{world.setting.name}/kl_penalty")
    proposer = Proposer(arm, world.objectives, seed=0, round_size=1)
    while (proposal := proposer.next()) is not None:
        read = penalty(float(proposal.values["beta"]))
        proposer.tell(proposal.number, world.outcomes(read.point))
        yield read


def filled(world: TrainedPoints, budget: int) -> Iterator[Read]:
    """Yield what a cheap front reads: both ends, their blends, and the values that it puts into gaps."""
    space, key = vary("kl_penalty"), f"{world.setting.name}/kl_penalty"
    listed = blends_of(space)
    readouts = Proposer(Arm(world.ref, listed, len(BLENDS), f"{key} blends"), world.objectives, 0, len(BLENDS))
    proposer = GapProposer(Arm(world.ref, space, budget, key), world.objectives, 0, readouts)
    low, high = (penalty(float(space.at([end])["beta"])).point for end in (0.0, 1.0))
    while True:
        if (proposal := proposer.next()) is not None:
            read = penalty(float(proposal.values["beta"]))
            proposer.tell(proposal.number, world.outcomes(read.point))
        elif (proposal := readouts.next()) is not None:
            share = float(proposal.values["w"])
            read = Read(replace(low, blend=(high, share)), "blend", {"share": share})
            readouts.tell(proposal.number, world.outcomes(read.point))
        else:
            return
        yield read


def checkpoints(point: Point, curve: str, steps: int) -> list[Read]:
    """Return the checkpoints of a training, and its end."""
    at = sorted({max(1, round(share * steps)) for share in STEPS} - {steps})
    kept = [Read(replace(point, knobs={"checkpoint_step": step}), curve, {"checkpoint_step": step}) for step in at]
    return [*kept, Read(point, curve, {"checkpoint_step": steps})]


def scaled(point: Point, curve: str) -> list[Read]:
    """Return a training's adapter scaled, and as it is."""
    parts = [Read(replace(point, knobs={"adapter_scale": s}), curve, {"adapter_scale": s}) for s in SHARES]
    return [*parts, Read(point, curve, {"adapter_scale": 1.0})]


def blends(one: Point, other: Point, curve: str) -> list[Read]:
    """Return the blends of two trainings, and both."""
    between = [Read(replace(one, blend=(other, share)), curve, {"share": share}) for share in SHARES]
    return [Read(other, curve, {"share": 0.0}), *between, Read(one, curve, {"share": 1.0})]


def ways(world: TrainedPoints, budgets: Sequence[int]) -> list[Way]:
    """Return all ways; what they read twice, and what the search proposes, is trained.

    Args:
        budgets: configurations of the search.
    """
    grid = [penalty(beta) for beta in grid_values()]
    strong, weak = Point("kl_penalty", STRONG), Point("kl_penalty", WEAK)
    found = [Way(YARDSTICK, tuple(grid))]
    found += [Way(name, tuple(grid[at] for at in places)) for name, places in SPARSE.items()]
    ends = [*checkpoints(PLAIN, "plain", world.steps), *checkpoints(strong, "strong penalty", world.steps)]
    world.measure([read.point for read in grid])
    world.measure([read.point for read in ends], [*ends_of(ends)])
    found += [
        Way("checkpoints of plain", tuple(ends[: len(ends) // 2])),
        Way("checkpoints of plain and of a strong penalty", tuple(ends)),
        Way("plain scaled", tuple(scaled(PLAIN, "plain"))),
        Way("plain and a strong penalty scaled", (*scaled(PLAIN, "plain"), *scaled(strong, "strong penalty"))),
        Way("blend of plain with alignment alone", tuple(blends(PLAIN, Point("alignment_only"), "blend"))),
        Way("blend of a weak with a strong penalty", tuple(blends(weak, strong, "blend"))),
        Way("blend of plain with a strong penalty", tuple(blends(PLAIN, strong, "blend"))),
    ]
    if "decoding_mix" in TRIAL_KNOBS:
        mixes = [Read(replace(PLAIN, knobs={"decoding_mix": mix}), "mix", {"mix": mix}) for mix in MIXES if mix != 1.0]
        found.append(Way("decoding mix of plain", (*mixes, Read(PLAIN, "mix", {"mix": 1.0}))))
    plain = Read(PLAIN, "plain", {})
    for name, values in FORMS.items():
        trained = {"weight": WEIGHT, **values}
        reads = [Read(Point("pareto_adapters", {**trained, "share": s}), name, {"share": s}) for s in ADAPTER_SHARES]
        found += [Way(name, tuple(reads)), Way(f"{name}, and plain", (*reads, plain))]
    found += [Way(f"cheap front, at most {each} trainings", tuple(filled(world, each))) for each in CHEAP]
    tried = list(searched(world, max(budgets)))
    return found + [Way(f"search, {budget} configurations", tuple(tried[:budget])) for budget in budgets]


def ends_of(reads: Sequence[Read]) -> Iterator[int]:
    """Yield the updates after which some reads stop."""
    yield from sorted({int(read.point.knobs.get("checkpoint_step", 0)) for read in reads} - {0})


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        volume: the hypervolume, with its interval.
        share: of that of the yardstick, with its interval.
        difference: to that of the yardstick, with its interval.
    """

    way: Way
    trainings: int
    points: int
    tokens: int
    training_seconds: float
    evaluation_seconds: float
    volume: tuple[float, float, float]
    share: tuple[float, float, float]
    difference: tuple[float, float, float]

    @property
    def verdict(self) -> str:
        """Whether the way succeeds by the rules above."""
        if self.way.name.startswith("cheap front"):
            return "shown" if self.difference[1] > LEAST else "no"
        if self.trainings > MOST_TRAININGS:
            return ""
        return "shown" if self.share[1] >= ENOUGH else "succeeds" if self.share[0] >= ENOUGH else "no"

    @property
    def text(self) -> str:
        """The row in Markdown."""
        listed = (self.volume, self.share, self.difference)
        volume, share, apart = (f"{each[0]:.3f} [{each[1]:.3f}, {each[2]:.3f}]" for each in listed)
        took = f"{self.tokens / 1000:.0f}k | {self.training_seconds:.0f} | {self.evaluation_seconds:.0f}"
        numbers = f"{self.trainings} | {self.points} | {took} | {volume} | {share} | {apart}"
        return f"| {self.way.name} | {numbers} | {self.verdict} |"


HEAD = (
    "| way | trainings a seed | points | tokens | s to train | s to evaluate | hypervolume | of the grid's"
    " | minus the grid's | by the rule |\n|---|---|---|---|---|---|---|---|---|---|\n"
)


def table_of(world: TrainedPoints, way: Way) -> ScoreTable:
    """Return the scores of a way's points as tables of sweeps have them."""
    objectives = [describe_score(score) for score in world.objectives]
    names = [objective.name for objective in objectives]
    records = []
    for read, measured in zip(way.reads, world.measure([read.point for read in way.reads]), strict=True):
        training = str(sorted(world.trainings(read.point)))
        label = ", ".join(f"{name}={value:g}" for name, value in read.knobs.items())
        configuration = Configuration(read.point.key, read.curve, label, dict(read.knobs), training)
        for seed, scores in enumerate(measured.scores):
            means = {name: scores[name].mean for name in names} if scores else {}
            counts = {name: scores[name].n for name in names} if scores else {}
            record = TrialRecord(configuration, seed, "finished" if scores else "invalid", means, counts=counts)
            records.append(record.counted_for(names))
    return ScoreTable.from_records(records, objectives)


def volumes(table: ScoreTable, base_M: Floats, drawn_BS: Any) -> Floats:
    """Return the hypervolume of a way as measured, then with each draw of the seeds, `[1 + B]`."""
    measured = measure(table, base_M)
    bootstrap = Bootstrap(measured, replicates=2)
    gains_BCSM = np.moveaxis(measured.gains_CSM[:, drawn_BS], 1, 0)
    with np.errstate(invalid="ignore"):
        changes_BCM = np.nan_to_num(np.nanmean(gains_BCSM, axis=2) - measured.mean_CM)
    changes_BCM = np.concatenate([np.zeros_like(changes_BCM[:1]), changes_BCM])
    low_M, high_M = table.ranges.low_M, table.ranges.high_M
    points_BPM = np.clip(bootstrap.points_moved_by(changes_BCM), low_M, high_M)
    groups = bootstrap.groups_of(np.ones(len(measured.gains_CSM), dtype=bool))
    points_N, joined_N = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    base_BKM = np.broadcast_to(base_M, (len(points_BPM), 1, len(base_M)))
    front_BNM = np.concatenate([points_BPM[:, points_N], base_BKM], axis=1)
    return hypervolumes(front_BNM, low_M, np.append(joined_N, False))


def interval(values_B: Floats, seeds: int) -> tuple[float, float, float]:
    """Return an estimate and its interval from a value as measured and with each draw of the seeds.

    The mean over draws is larger than the value by what noise adds to it, which is taken off. The deviation of draws is
    too small by sqrt((S - 1) / S).
    """
    plain, drawn_B = float(values_B[0]), values_B[1:]
    estimate = 2 * plain - float(drawn_B.mean())
    half = float(stdtrit(seeds - 1, 0.975)) * float(drawn_B.std(ddof=1)) * math.sqrt(seeds / (seeds - 1))
    return estimate, estimate - half, estimate + half


def compare(world: TrainedPoints, listed: Sequence[Way], replicates: int = REPLICATES) -> list[Row]:
    """Return a row for each way."""
    base = world.measure([BASE])[0].scores[0]
    assert base is not None
    drawn_BS = np.random.default_rng(0).integers(world.seeds, size=(replicates, world.seeds))
    tables = [table_of(world, way) for way in listed]
    base_M = tables[0].oriented(np.array([base[score.name].mean for score in world.objectives]))
    volumes_WB = np.stack([volumes(table, base_M, drawn_BS) for table in tables])
    (grid,) = (at for at, way in enumerate(listed) if way.name == YARDSTICK)
    rows = []
    for way, values_B in zip(listed, volumes_WB, strict=True):
        points = [read.point for read in way.reads]
        trained = {identity for point in points for identity in world.trainings(point)}
        costs = [world.cost(identity) for identity in sorted(trained)]
        row = Row(
            way,
            trainings=len(trained),
            points=len(points),
            tokens=sum(cost.tokens for cost in costs),
            training_seconds=sum(cost.seconds for cost in costs),
            evaluation_seconds=sum(measured.seconds for measured in world.measure(points)),
            volume=interval(values_B, world.seeds),
            share=interval(values_B / volumes_WB[grid], world.seeds),
            difference=interval(values_B - volumes_WB[grid], world.seeds),
        )
        rows.append(row)
    return rows


def nano(name: str, seeds: int, out: Path, options: Mapping[str, Any]) -> TrainedPoints:
    """Return the points of a nano setting, of which the objectives are those of its sweeps."""
    (case,) = Sweep("cost_to_front", (setting(name, scale="nano"),), ("plain",), seeds=1).cases
    return TrainedPoints(
        case.ref, case.setting, load_base(case.setting.base_model), case.objectives, seeds, out, options
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each setting."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.cost_to_front", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--setting", choices=sorted(SETTINGS), action="append", help="both without it")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, help="of every training, instead of the setting's own number")
    parser.add_argument("--budgets", type=int, nargs="+", default=[3, 5, 10], help="configurations of the search")
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines; what it has is not done again")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: an interval takes two")
    torch.set_num_threads(1)
    for name in options.setting or sorted(SETTINGS):
        usual = {} if options.steps is None else {"steps": options.steps}
        world = nano(name, options.seeds, options.out, {**SETTINGS[name], **usual})
        rows = compare(world, ways(world, options.budgets))
        sys.stdout.write(f"\n{name}, {options.seeds} seeds\n\n{HEAD}" + "".join(f"{row.text}\n" for row in rows))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
