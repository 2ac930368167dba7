"""How much of a front can be had for how many trainings? Hypervolume against trainings, tokens and seconds.

    python -m tests.studies.cost_to_front --setting bad_medical_advice --seeds 10 --out FILE.jsonl

Written down before the first run. The yardstick is a grid of ten values of `kl_penalty`'s beta, spread evenly over the
logarithm of its range, .03 to 30: ten trainings a seed. A way *succeeds* in a nano world when it reaches 95 % of the
grid's hypervolume with at most three trainings a seed, in 10 seeds; it is *shown* to when the lower end of the 95 %
interval does. A way holds when it succeeds on `bad_medical_advice` and on `gcd_sycophancy`.

`Search(front="cheap")` may train half of the grid, and is *shown* to be enough where the 95 % interval of its volume
minus the grid's, paired over seeds, lies above -.03; that, too, was written before it was run.

The ways: fewer values of the grid; the search that sweeps use, which is told of each configuration before it proposes
the next; the cheap front, which is told of both ends and their blends before it fills gaps; checkpoints of plain
fine-tuning and of a strong penalty; the adapters of both scaled; blends of plain with alignment alone, and of a weak
with a strong penalty; the decoding mix of the plain model, where the project has it; and `pareto_adapters`, ten shares
of one training, in three forms. All values were chosen before the run: weak is beta = .1,
strong is 10, and the adapters' weight is 3, so that their shares of .1 to .9 weigh the losses as betas of .3 to 27 do.

On the real language model (`--setting gcd_sycophancy_small`) the same rule, with 3 seeds, a grid of eight values over
1 to 1000, where `settings.gcd_sycophancy.small` shows the penalty to work, and fewer points of each way. Weak is 3,
strong is 300, each as far from its end of the range as above; the adapters' weight is 100, or .3 where they weigh
cross-entropies, at which up-weighting works there. This was written, too, before it was run.

The hypervolume is that of verdicts, which does not depend on how densely a knob is read: of curves over the knobs
(`analysis.statistics.curves`), a way's several curves together, and the base model, which costs nothing. Seeds are
drawn with replacement, the same for all ways, and all points of a seed move together: points of one training are one
draw. Intervals are t-intervals of S - 1 degrees of freedom around an estimate whose bias, what another noise would add,
is taken off. Points that a search or a cheap front chose were chosen once, by the means of all seeds; draws of the
seeds leave them where they are, so that their intervals have nothing of the luck of that choice. Tokens and seconds are
those of all seeds: seconds of training, and of evaluating every point.

Shape legend: C configurations, S seeds, M objectives, B replicates, P points of curves, K anchors, W ways.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from sweeps.space import MethodSpace, between, vary
from sweeps.sweep import Sweep, setting
from tests.studies.trained_points import Point, TrainedPoints
from trainables.bases.load_base import load_base

ENOUGH, MOST_TRAININGS = 0.95, 3
LEAST = -0.03  # the difference to the grid that the interval of a cheap front is above
REPLICATES = 2000
PLAIN = Point("plain")
BASE = Point("")


@dataclass(frozen=True)
class Design:
    """What is compared on a setting.

    Attributes:
        setting, scale, options: the setting.
        trial: options of every trial, where they are not the setting's own.
        space: the penalty's knob, over its range.
        grid: how many of its values are the yardstick.
        sparse: how many values of the grid are another way -> their places in it.
        weak, strong: betas of the trainings that are blended, and of the strong one that is read in other ways.
        steps: shares of the training at which checkpoints are read.
        shares: of adapters that are scaled or blended.
        mixes: strengths of the decoding mix.
        adapter_shares: at which Pareto adapters are read.
        weight, cross_entropy_weight: of theirs, by their alignment loss.
        cheap: most trainings of cheap fronts.
        budgets: configurations of searches.
    """

    setting: str
    scale: str = "nano"
    options: Mapping[str, Any] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    space: MethodSpace = field(default_factory=lambda: vary("kl_penalty"))
    grid: int = 10
    sparse: Mapping[int, Sequence[int]] = field(default_factory=lambda: {5: (0, 2, 4, 6, 8), 3: (1, 5, 8)})
    weak: float = 0.1
    strong: float = 10.0
    steps: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    shares: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    mixes: Sequence[float] = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.25)
    adapter_shares: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.9, 1.0)
    weight: float = 3.0
    cross_entropy_weight: float = 3.0
    cheap: Sequence[int] = (3, 5)
    budgets: Sequence[int] = (3, 5, 10)

    @property
    def yardstick(self) -> str:
        """The name of the way that all are compared with."""
        return f"grid, {self.grid} values"

    @property
    def values(self) -> list[float]:
        """The values of the grid, spread evenly over the logarithm of the range."""
        return [float(self.space.at([(number + 0.5) / self.grid])["beta"]) for number in range(self.grid)]

    @property
    def forms(self) -> Mapping[str, Mapping[str, Any]]:
        """The forms of Pareto adapters by name."""
        return {
            "pareto adapters": {"weight": self.weight},
            "pareto adapters, cross-entropy": {
                "weight": self.cross_entropy_weight,
                "alignment": "cross_entropy",
            },
            "pareto adapters, conditioned": {"weight": self.weight, "form": "conditioned"},
        }


DESIGNS: Mapping[str, Design] = {
    "bad_medical_advice": Design(
        "bad_medical_advice", trial={"alignment_batch_size": 32}
    ),  # as in the table of all methods
    "gcd_sycophancy": Design("gcd_sycophancy"),
    "gcd_sycophancy_small": Design(
        "gcd_sycophancy",
        scale="small",
        options={"claims_per_topic": 5, "reworded": False},
        space=vary("kl_penalty", beta=between(1.0, 1000.0)),
        grid=8,
        sparse={3: (1, 4, 6)},
        weak=3.0,
        strong=300.0,
        steps=(0.2, 0.4, 0.6, 0.8),
        shares=(0.2, 0.4, 0.6, 0.8),
        mixes=(0.2, 0.4, 0.6, 0.8, 1.0),
        adapter_shares=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        weight=100.0,
        cross_entropy_weight=0.3,
        cheap=(3,),
        budgets=(),
    ),
}
WORLDS = ("bad_medical_advice", "gcd_sycophancy")


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


def searched(world: TrainedPoints, space: MethodSpace, budget: int) -> Iterator[Read]:
    """Yield the values that the sweeps' search proposes, each after all before it were told."""
    arm = Arm(world.ref, space, budget, f"{world.setting.name}/kl_penalty")
    proposer = Proposer(arm, world.objectives, seed=0, round_size=1)
    while (proposal := proposer.next()) is not None:
        read = penalty(float(proposal.values["beta"]))
        proposer.tell(proposal.number, world.outcomes(read.point))
        yield read


def filled(world: TrainedPoints, space: MethodSpace, budget: int) -> Iterator[Read]:
    """Yield what a cheap front reads: both ends, their blends, and the values that it puts into gaps."""
    key = f"{world.setting.name}/kl_penalty"
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


def checkpoints(point: Point, curve: str, shares: Sequence[float], steps: int) -> list[Read]:
    """Return the checkpoints of a training at shares of it, and its end."""
    at = sorted({max(1, round(share * steps)) for share in shares} - {steps})
    kept = [Read(replace(point, knobs={"checkpoint_step": step}), curve, {"checkpoint_step": step}) for step in at]
    return [*kept, Read(point, curve, {"checkpoint_step": steps})]


def scaled(point: Point, curve: str, shares: Sequence[float]) -> list[Read]:
    """Return a training's adapter scaled, and as it is."""
    parts = [Read(replace(point, knobs={"adapter_scale": s}), curve, {"adapter_scale": s}) for s in shares]
    return [*parts, Read(point, curve, {"adapter_scale": 1.0})]


def blends(one: Point, other: Point, shares: Sequence[float]) -> tuple[Read, ...]:
    """Return the blends of two trainings, and both."""
    mixed = [Read(replace(one, blend=(other, share)), "blend", {"share": share}) for share in shares]
    return (Read(other, "blend", {"share": 0.0}), *mixed, Read(one, "blend", {"share": 1.0}))


def ways(world: TrainedPoints, design: Design) -> list[Way]:
    """Return all ways; what they read twice, and what the search proposes, is trained."""
    grid = [penalty(beta) for beta in design.values]
    strong, weak = (Point("kl_penalty", {"beta": beta}) for beta in (design.strong, design.weak))
    listed = [Way(design.yardstick, tuple(grid))]
    listed += [Way(f"grid, {n} values", tuple(grid[at] for at in places)) for n, places in design.sparse.items()]
    stopped = [
        *checkpoints(PLAIN, "plain", design.steps, world.steps),
        *checkpoints(strong, "strong penalty", design.steps, world.steps),
    ]
    world.measure([read.point for read in grid])
    world.measure([read.point for read in stopped], [*ends_of(stopped)])
    shares = design.shares
    smaller, smaller_strong = scaled(PLAIN, "plain", shares), scaled(strong, "strong penalty", shares)
    listed += [
        Way("checkpoints of plain", tuple(stopped[: len(stopped) // 2])),
        Way("checkpoints of plain and of a strong penalty", tuple(stopped)),
        Way("plain scaled", tuple(smaller)),
        Way("plain and a strong penalty scaled", (*smaller, *smaller_strong)),
        Way("blend of plain with alignment alone", blends(PLAIN, Point("alignment_only"), shares)),
        Way("blend of a weak with a strong penalty", blends(weak, strong, shares)),
        Way("blend of plain with a strong penalty", blends(PLAIN, strong, shares)),
    ]
    mixes = [Point("plain", knobs={"decoding_mix": mix} if mix != 1.0 else {}) for mix in design.mixes]
    reads = [Read(point, "mix", {"mix": mix}) for point, mix in zip(mixes, design.mixes, strict=True)]
    listed.append(Way("decoding mix of plain", tuple(reads)))
    plain = Read(PLAIN, "plain", {})
    for name, values in design.forms.items():
        adapters = [(Point("pareto_adapters", {**values, "share": share}), share) for share in design.adapter_shares]
        reads = [Read(point, name, {"share": share}) for point, share in adapters]
        listed += [Way(name, tuple(reads)), Way(f"{name}, and plain", (*reads, plain))]
    for most in design.cheap:
        listed.append(Way(f"cheap front, at most {most} trainings", tuple(filled(world, design.space, most))))
    tried = list(searched(world, design.space, max(design.budgets))) if design.budgets else []
    return listed + [Way(f"search, {budget} configurations", tuple(tried[:budget])) for budget in design.budgets]


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
    """Return a row for each way, compared with the first."""
    base = world.measure([BASE])[0].scores[0]
    assert base is not None
    drawn_BS = np.random.default_rng(0).integers(world.seeds, size=(replicates, world.seeds))
    tables = [table_of(world, way) for way in listed]
    base_M = tables[0].oriented(np.array([base[score.name].mean for score in world.objectives]))
    volumes_WB = np.stack([volumes(table, base_M, drawn_BS) for table in tables])
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
            share=interval(values_B / volumes_WB[0], world.seeds),
            difference=interval(values_B - volumes_WB[0], world.seeds),
        )
        rows.append(row)
    return rows


def points_of(design: Design, seeds: int, out: Path, options: Mapping[str, Any]) -> TrainedPoints:
    """Return the points of a setting, of which the objectives are those of its sweeps."""
    ref = setting(design.setting, scale=design.scale, **design.options)
    (case,) = Sweep("cost_to_front", (ref,), ("plain",), seeds=1).cases
    base = load_base(case.setting.base_model)
    trial = {**design.trial, **options}
    return TrainedPoints(case.ref, case.setting, base, case.objectives, seeds, out, trial)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each setting."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.cost_to_front", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--setting", choices=sorted(DESIGNS), action="append", help="default: both nano worlds")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, help="steps of every training; default: the setting's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines; results in it are kept")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: an interval takes two")
    torch.set_num_threads(options.threads)
    for name in options.setting or WORLDS:
        usual = {} if options.steps is None else {"steps": options.steps}
        design = DESIGNS[name]
        world = points_of(design, options.seeds, options.out, usual)
        rows = compare(world, ways(world, design))
        sys.stdout.write(f"\n{name}, {options.seeds} seeds\n\n{HEAD}" + "".join(f"{row.text}\n" for row in rows))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
