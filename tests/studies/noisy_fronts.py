"""Frontiers with a known truth, and the many ways in which their scores may be noisy.

A method's configurations lie on a curve at known values of its knob, several methods on curves one below the other.
Truth is the curves, not the places at which they were searched.

Shape legend: C configurations, S seeds, M objectives, F points of a fine curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from scipy.special import betaincinv, ndtr

from analysis.statistics.arrays import Floats, Integers
from analysis.statistics.measurements import Line, Measurements, measurements
from analysis.statistics.pareto import hypervolumes
from analysis.statistics.ranges import Ranges

OUTER = 0.9  # radius of the best curve
UNSCALED = ("ceiling", "single", "all or nothing")  # shapes that all methods have alike
FINE = 2001  # points of a curve that stand for the truth
NEAR = 0.004  # of the knob, between near-duplicates
SHARED_BY_READOUTS = 0.5  # of the variance of what is read from one training

Shape = Callable[[Floats], Floats]


def _arc(u_F: Floats) -> Floats:
    angle_F = (0.08 + 0.84 * u_F) * math.pi / 2
    return np.column_stack([np.cos(angle_F), np.sin(angle_F)])


def _quarter(u_F: Floats) -> Floats:
    """The whole quarter: from plain fine-tuning on the first axis to the base model on the second."""
    return np.column_stack([np.cos(u_F * math.pi / 2), np.sin(u_F * math.pi / 2)])


def _kink(u_F: Floats) -> Floats:
    return np.column_stack([np.interp(u_F, [0, 0.5, 1], [1, 0.9, 0.1]), np.interp(u_F, [0, 0.5, 1], [0.1, 0.85, 1])])


def _third(u_F: Floats) -> Floats:
    """An arc whose third objective is best in the middle."""
    return np.column_stack([_arc(u_F), 0.5 + 0.4 * np.sin(u_F * math.pi)])


def _logistic(x_F: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x_F)))


SHAPES: Mapping[str, Shape] = {
    "arc": _arc,
    "sigmoid": lambda u_F: _arc(1 / (1 + np.exp(-12 * (u_F - 0.5)))),
    "kink": _kink,
    "bent inwards": lambda u_F: np.column_stack([(1 - u_F) ** 1.5, u_F**1.5]),
    "three objectives": _third,
    "controls": _quarter,
    "single": lambda u_F: np.column_stack([np.full(len(u_F), 0.98), np.full(len(u_F), 0.6)]),
    "all or nothing": lambda u_F: np.column_stack([np.full(len(u_F), 0.6), np.where(u_F < 1, 0.0, 0.975)]),
    "ceiling": lambda u_F: np.column_stack([_logistic(12 * (0.9 - u_F)), _logistic(12 * (u_F - 0.25))]),
}


@dataclass(frozen=True)
class Cell:
    """One way that scores may be noisy.

    Attributes:
        regime: what it is an example of.
        places: values of each method's knob; the second method has `other_places`, if not 0.
        duplicates: near-duplicates of each place.
        methods: how many.
        apart: how far each curve lies below the one before it; "shrunk" by this share of its radius.
        absolute: whether `apart` is a length instead.
        seeds: common to all.
        unequal: whether every second configuration lacks the last seed, and every fourth the last two.
        deviation: standard deviation of a trial's score over seeds, root mean square over the configurations.
        uneven: whether the deviation grows from a half to one and a half of that along the configurations.
        noisy: how many times as noisy the middle configuration of each method is.
        items: questions of a share; 0 is a score without that noise.
        shared: the part of the seeds' variance that all configurations have in common.
        correlation: of the noise of the objectives.
        tail: "normal", "heavy" (Student's with 3 degrees) or "skewed" (exponential).
        collapsing: probability that a trial loses half of its scores.
        bad_seed: probability that a seed makes all its trials lose that.
        shape: of the curves.
    """

    regime: str
    places: int = 8
    other_places: int = 0
    duplicates: int = 1
    methods: int = 1
    apart: float = 0.0
    absolute: bool = False
    seeds: int = 3
    unequal: bool = False
    deviation: float = 0.02
    uneven: bool = False
    noisy: float = 1.0
    items: int = 0
    shared: float = 0.0
    correlation: float = 0.0
    tail: str = "normal"
    collapsing: float = 0.0
    bad_seed: float = 0.0
    shape: str = "arc"

    @property
    def key(self) -> str:
        """What tells the cell from others: its regime, and all that is not as usual."""
        usual = asdict(replace(Cell(self.regime)))
        facts = {name: value for name, value in asdict(self).items() if name != "regime" and value != usual[name]}
        return f"{self.regime}: " + ", ".join(f"{name}={value}" for name, value in facts.items())


@dataclass(frozen=True)
class Truth:
    """A cell's curves, and where they were searched.

    Attributes:
        cell: the cell.
    """

    cell: Cell

    @cached_property
    def radii(self) -> list[float]:
        """How far each method's curve reaches."""
        cell = self.cell
        if cell.absolute:
            return [OUTER - cell.apart * rank for rank in range(cell.methods)]
        return [OUTER * (1 - cell.apart * rank) for rank in range(cell.methods)]

    @cached_property
    def knobs(self) -> list[Floats]:
        """The knob values of each method, on [0, 1]."""
        knobs = []
        for rank in range(self.cell.methods):
            number = self.cell.other_places if rank == 1 and self.cell.other_places else self.cell.places
            centre = np.linspace(0, 1, number) if number > 1 else np.array([0.5])
            offsets = NEAR * (np.arange(self.cell.duplicates) - (self.cell.duplicates - 1) / 2)
            knobs.append(np.clip((centre[:, None] + offsets).ravel(), 0, 1))
        return knobs

    @cached_property
    def method_C(self) -> Integers:
        """Each configuration's method."""
        return np.repeat(np.arange(self.cell.methods), [len(knob) for knob in self.knobs])

    @cached_property
    def mean_CM(self) -> Floats:
        """The configurations' true means."""
        return np.concatenate([self.curve(rank, knob) for rank, knob in enumerate(self.knobs)])

    def curve(self, rank: int, u_F: Floats) -> Floats:
        """Return a method's curve at knob values."""
        points_FM = SHAPES[self.cell.shape](u_F)
        return points_FM if self.cell.shape in UNSCALED else points_FM * self.radii[rank]

    def fine(self, rank: int) -> Floats:
        """Return a method's curve as many points."""
        return self.curve(rank, np.linspace(0, 1, FINE if self.mean_CM.shape[1] == 2 else FINE // 10))

    def volume(self, rank: int | None = None) -> float:
        """Return the true hypervolume of one method's curve, or of all."""
        if self.cell.places == 1:
            chosen = self.mean_CM if rank is None else self.mean_CM[self.method_C == rank]
            return float(hypervolumes(chosen[None], np.zeros(chosen.shape[1]))[0])
        curves = [self.fine(each) for each in (range(self.cell.methods) if rank is None else [rank])]
        joined = np.concatenate([np.arange(len(curve)) < len(curve) - 1 for curve in curves])
        return float(hypervolumes(np.concatenate(curves)[None], np.zeros(curves[0].shape[1]), joined)[0])

    def lines(self) -> list[Line]:
        """Return what the analysis is told of the knobs: nothing where words part the configurations."""
        if self.cell.shape == "all or nothing":
            return []
        rows = [np.flatnonzero(self.method_C == rank) for rank in range(self.cell.methods)]
        return [Line(rows_K, knob[:, None]) for rows_K, knob in zip(rows, self.knobs, strict=True)]

    def draw(self, random: np.random.Generator) -> Measurements:
        """Draw one repetition."""
        values_CSM = scores(self.cell, self.mean_CM, random)
        items = self.cell.items
        if self.cell.unequal:
            values_CSM[::2, -1] = np.nan
            values_CSM[::4, -2] = np.nan
        return measurements(
            values_CSM,
            self.method_C,
            count_CSM=np.where(np.isnan(values_CSM), np.nan, items) if items else None,
            ranges=Ranges.of([(0, 1)] * values_CSM.shape[2]) if items else None,
            lines=self.lines(),
        )


def scores(cell: Cell, mean_CM: Floats, random: np.random.Generator) -> Floats:
    """Draw values_CSM."""
    num_configurations, num_objectives = mean_CM.shape
    correlation_MM = np.full((num_objectives, num_objectives), cell.correlation)
    np.fill_diagonal(correlation_MM, 1.0)
    root_MM = np.linalg.cholesky(correlation_MM)
    effect_SM = _standard(cell, random, (cell.seeds, num_objectives)) @ root_MM.T
    rest_CSM = _standard(cell, random, (num_configurations, cell.seeds, num_objectives)) @ root_MM.T
    spread_C = np.linspace(0.5, 1.5, num_configurations) if cell.uneven else np.ones(num_configurations)
    if cell.noisy != 1:
        spread_C[cell.places // 2 :: cell.places] = cell.noisy
    else:
        spread_C /= math.sqrt(float((spread_C**2).mean()))
    noise_CSM = math.sqrt(cell.shared) * effect_SM + math.sqrt(1 - cell.shared) * rest_CSM
    deviation_C11 = cell.deviation * spread_C[:, None, None]
    if cell.items:
        share_CSM = _beta(mean_CM[:, None, :], deviation_C11, noise_CSM)
        return np.asarray(random.binomial(cell.items, share_CSM) / cell.items)
    values_CSM = mean_CM[:, None, :] + deviation_C11 * noise_CSM
    lost_CS = random.random((num_configurations, cell.seeds)) < cell.collapsing
    lost_CS |= random.random(cell.seeds) < cell.bad_seed
    return np.where(lost_CS[:, :, None], values_CSM / 2, values_CSM)


def _beta(mean_C1M: Floats, deviation_C11: Floats, noise_CSM: Floats) -> Floats:
    """Turn normal noise into shares of exactly these means; the deviation is that of a share of one half."""
    room_C1M = mean_C1M * (1 - mean_C1M)
    variance_C1M = 4 * deviation_C11**2 * room_C1M
    certain_C1M = variance_C1M <= 0
    size_C1M = room_C1M / np.where(certain_C1M, 1.0, variance_C1M) - 1
    safe_C1M = np.where(certain_C1M, 0.5, mean_C1M)
    size_C1M = np.where(certain_C1M, 1.0, size_C1M)
    drawn_CSM = betaincinv(safe_C1M * size_C1M, (1 - safe_C1M) * size_C1M, ndtr(noise_CSM))
    return np.asarray(np.where(certain_C1M, mean_C1M, drawn_CSM))


def _standard(cell: Cell, random: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Draw noise of mean 0 and variance 1."""
    if cell.tail == "heavy":
        return np.asarray(random.standard_t(3, shape) / math.sqrt(3))
    if cell.tail == "skewed":
        return np.asarray(1 - random.standard_exponential(shape))
    return random.standard_normal(shape)


def cells() -> Iterator[Cell]:
    """Yield every cell of the full table."""
    yield from _apart()
    for duplicates, seeds, deviation in product((1, 2, 3, 5), (3, 5), (0.02, 0.06)):
        yield Cell("near-duplicates", duplicates=duplicates, seeds=seeds, deviation=deviation, methods=2)
    for places, other, seeds, deviation in product((4, 12, 40), (8, 24), (3, 10), (0.02, 0.06)):
        yield Cell("density", places, other, methods=2, seeds=seeds, deviation=deviation)
    for methods, seeds, deviation in product((4, 9), (3, 5), (0.02, 0.06)):
        yield Cell("equal methods", 12, methods=methods, seeds=seeds, deviation=deviation)
        yield Cell("1 % apart", 12, methods=methods, apart=0.01, seeds=seeds, deviation=deviation)
    for items, seeds, deviation in product((20, 50, 200), (3, 5), (0.0, 0.02)):
        yield Cell("ceilings", 12, methods=2, items=items, seeds=seeds, deviation=deviation, shape="ceiling")
    for items, seeds in product((20, 50, 200), (3, 5)):
        yield Cell("ceilings", 1, methods=2, items=items, seeds=seeds, deviation=0.0, shape="single")
    for noisy, seeds in product((3.0, 5.0), (3, 5)):
        yield Cell("one noisy configuration", noisy=noisy, seeds=seeds, methods=2)
    for seeds, unequal in ((2, False), (3, True), (5, True)):
        for deviation in (0.02, 0.06):
            yield Cell("few or unequal seeds", seeds=seeds, unequal=unequal, deviation=deviation, methods=2)
    for tail, seeds, places in product(("heavy", "skewed"), (3, 5), (8, 24)):
        yield Cell("odd noise", places, tail=tail, seeds=seeds, deviation=0.03, methods=2)
    for correlation, seeds in product((-0.8, -0.4, 0.4, 0.8), (3, 5)):
        yield Cell("correlated objectives", correlation=correlation, seeds=seeds, deviation=0.03, methods=2)
    for seeds, deviation in product((3, 5), (0.02, 0.06)):
        yield Cell("three objectives", 12, methods=2, seeds=seeds, deviation=deviation, shape="three objectives")
    for shape, places in product(("sigmoid", "kink", "bent inwards"), (8, 24)):
        yield Cell("shapes", places, methods=2, shape=shape, deviation=0.03)
    for seeds, places in product((3, 5), (8, 24)):
        yield Cell("collapsing trials", places, methods=2, seeds=seeds, collapsing=0.02)
    yield Cell("a seed that collapses", methods=2, seeds=5, bad_seed=0.1)


def _apart() -> Iterator[Cell]:
    """Yield the cells whose curves lie 10 % apart: 8 configurations of one method, or 24 of three."""
    options = ((1, 3), (3, 5, 10), (0.02, 0.06), (False, True), (0, 50, 300), (0.0, 0.5), (0.0, 0.5))
    for methods, seeds, deviation, uneven, items, shared, correlation in product(*options):
        yield Cell(
            "apart",
            methods=methods,
            apart=0.1,
            absolute=True,
            seeds=seeds,
            deviation=deviation,
            uneven=uneven,
            items=items,
            shared=shared,
            correlation=correlation,
        )
