"""Do nominal 95 % intervals cover 95 %? Frontiers with a known truth, simulated and analysed many times.

    python -m tests.studies.interval_coverage                     the full table (half an hour on one core), as Markdown
    python -m tests.studies.interval_coverage --repetitions 50    a rougher one

Each cell is one way that scores may be noisy. Columns: the share of point intervals, of hypervolume intervals and of
whole bands that hold the truth, and the share of comparisons of two equal methods that call one of them better.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from analysis.statistics.arrays import Floats, Integers
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.compare import Front, compare_fronts, estimate_hypervolume
from analysis.statistics.intervals import intervals_by_method
from analysis.statistics.pareto import hypervolume

WORST_CORNER = (0.0, 0.0)
REPLICATES = 300


@dataclass(frozen=True)
class Cell:
    """One way that scores may be noisy.

    Attributes:
        configurations: 8 of one method, or 24 of three.
        seeds: common to all.
        deviation: standard deviation of a trial's score over seeds, root mean square over the configurations.
        uneven: whether the deviation grows from a half to one and a half of that along the configurations.
        items: questions of a binomial score; 0 is a score without that noise.
        shared: the part of the seeds' variance that all configurations have in common.
        correlation: of a seed's effects on the two objectives.
    """

    configurations: int
    seeds: int
    deviation: float
    uneven: bool
    items: int
    shared: float
    correlation: float


@dataclass(frozen=True)
class Coverage:
    """Shares over the repetitions of a cell."""

    points: float
    hypervolume: float
    band: float
    false_alarms: float


def cells() -> Iterator[Cell]:
    """Yield every combination."""
    options = ((8, 24), (3, 5, 10), (0.02, 0.06), (False, True), (0, 50, 300), (0.0, 0.5), (0.0, 0.5))
    return itertools.starmap(Cell, itertools.product(*options))


def truth(configurations: int) -> tuple[Floats, Integers]:
    """Return mean_C2 and method_C: arcs of eight, of which the outer one is the front."""
    angle_8 = np.linspace(0.08, 0.92, 8) * math.pi / 2
    arc_82 = np.column_stack([np.cos(angle_8), np.sin(angle_8)])
    number = configurations // 8
    return np.concatenate([(0.9 - 0.1 * rank) * arc_82 for rank in range(number)]), np.repeat(np.arange(number), 8)


def draw(cell: Cell, mean_C2: Floats, random: np.random.Generator) -> Floats:
    """Draw values_CS2, the scores of one repetition."""
    root_22 = np.linalg.cholesky([[1.0, cell.correlation], [cell.correlation, 1.0]])
    effect_S2 = random.standard_normal((cell.seeds, 2)) @ root_22.T
    rest_CS2 = random.standard_normal((len(mean_C2), cell.seeds, 2)) @ root_22.T
    spread_C = np.linspace(0.5, 1.5, len(mean_C2)) if cell.uneven else np.ones(len(mean_C2))
    spread_C = cell.deviation * spread_C / math.sqrt(float((spread_C**2).mean()))
    noise_CS2 = math.sqrt(cell.shared) * effect_S2 + math.sqrt(1 - cell.shared) * rest_CS2
    values_CS2 = mean_C2[:, None, :] + spread_C[:, None, None] * noise_CS2
    if not cell.items:
        return values_CS2
    return random.binomial(cell.items, np.clip(values_CS2, 0, 1)) / cell.items


def coverage(cell: Cell, repetitions: int, seed: int = 0) -> Coverage:
    """Simulate and analyse one cell."""
    random = np.random.default_rng([seed, *(int(1000 * getattr(cell, field.name)) for field in fields(cell))])
    mean_C2, method_C = truth(cell.configurations)
    twins_C2, twin_C = np.concatenate([mean_C2[:8], mean_C2[:8]]), np.repeat([0, 1], 8)
    true_volume = hypervolume(mean_C2, WORST_CORNER)
    everything = Front(np.ones(len(mean_C2), dtype=bool), np.empty((0, 2)))
    points, volumes, bands, alarms = [], [], [], []
    for repetition in range(repetitions):
        values_CS2 = draw(cell, mean_C2, random)
        intervals = intervals_by_method(values_CS2, method_C)
        points.append(((intervals.low_CM <= mean_C2) & (mean_C2 <= intervals.high_CM)).mean())
        bootstrap = Bootstrap(values_CS2, method_C, REPLICATES, seed=repetition)
        statistic = estimate_hypervolume(bootstrap, everything, WORST_CORNER)
        volumes.append(statistic.low <= true_volume <= statistic.high)
        band = bootstrap.band()
        bands.append(_below(band.low_RM, mean_C2) and _below(mean_C2, band.high_RM))
        alarms.append(_alarm(draw(cell, twins_C2, random), twin_C, repetition))
    return Coverage(*(float(np.mean(column)) for column in (points, volumes, bands, alarms)))


def _below(lower_C2: Floats, upper_C2: Floats) -> bool:
    """Return whether the lower front lies nowhere above the upper one."""
    return bool((lower_C2[:, None, :] <= upper_C2[None, :, :]).all(axis=2).any(axis=1).all())


def _alarm(values_CS2: Floats, method_C: Integers, seed: int) -> bool:
    """Return whether two methods with the same means are called different."""
    fronts = {str(method): Front(method_C == method, np.empty((0, 2))) for method in (0, 1)}
    (difference,) = compare_fronts(Bootstrap(values_CS2, method_C, REPLICATES, seed), fronts, WORST_CORNER)
    return difference.clear


COLUMNS = ("configurations", "seeds", "sd", "uneven", "items", "shared", "correlation")
HEADER = f"| {' | '.join([*COLUMNS, 'points', 'hypervolume', 'band', 'false alarms'])} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as it grows, then the range of each column."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.interval_coverage", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--every", type=int, default=1, help="only each so many-th cell")
    options = parser.parse_args(arguments)
    rows = []
    lines = [HEADER, "|" + "---|" * HEADER.count(" | ") + "---|"]
    for cell in itertools.islice(cells(), 0, None, options.every):
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            lines = []
        shares = coverage(cell, options.repetitions)
        values = [getattr(shares, field.name) for field in fields(shares)]
        rows.append(values)
        facts = [getattr(cell, field.name) for field in fields(cell)]
        texts = [("yes" if fact else "no") if isinstance(fact, bool) else f"{fact:g}" for fact in facts]
        sys.stdout.write(f"| {' | '.join([*texts, *(f'{value:.3f}' for value in values)])} |\n")
        sys.stdout.flush()
    for name, column in zip([field.name for field in fields(Coverage)], np.array(rows).T, strict=True):
        sys.stdout.write(f"\n{name}: mean {column.mean():.3f}, from {column.min():.3f} to {column.max():.3f}")
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
