"""Is a configuration that is said to be on the front with probability p on it in a share p of cases?

    python -m tests.studies.front_probability

Worlds are drawn at random: one to four methods on curves .03 apart or so, 5 to 15 values of each knob, 3 or 5 seeds,
and configurations that lie off their method's curve by so much ("rough"). The truth is the front of the true means. How
rough a world is cannot be told from few seeds, so that stated probabilities come true over all worlds together.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from analysis.statistics.arrays import Bools, Floats
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.measurements import Line, Measurements, measurements
from analysis.statistics.pareto import fronts
from tests.studies.noisy_fronts import OUTER, SHAPES, Cell, scores

ROUGH = (0.0, 0.005, 0.02)
BINS = 5
APART = 0.03  # standard deviation of how far a method's curve lies below the best possible


def world(random: np.random.Generator, cell: Cell, rough: float) -> tuple[Floats, Measurements]:
    """Draw a world: its true means, and what was measured."""
    means, lines, methods, start = [], [], [], 0
    for method in range(random.integers(1, 5)):
        knob = np.sort(random.random(random.integers(5, 16)))
        radius = OUTER - abs(random.normal(0, APART))
        means.append(SHAPES["arc"](knob) * radius + random.normal(0, rough, (len(knob), 2)))
        lines.append(Line(start + np.arange(len(knob)), knob[:, None]))
        methods += [method] * len(knob)
        start += len(knob)
    mean_CM = np.concatenate(means)
    return mean_CM, measurements(scores(cell, mean_CM, random), methods, lines=lines)


def stated_and_true(rough: float, worlds: int) -> tuple[Floats, Bools]:
    """Return the stated probabilities of all configurations of all worlds, and whether they are on the front."""
    random = np.random.default_rng(1)
    stated, true = [], []
    for number in range(worlds):
        cell = Cell("world", deviation=(0.02, 0.06)[number % 2], seeds=(3, 5)[number // 2 % 2])
        mean_CM, measured = world(random, cell, rough)
        stated.append(Bootstrap(measured, 300, number).on_front())
        true.append(fronts(mean_CM[None])[0])
    return np.concatenate(stated), np.concatenate(true)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the reliability curve and the Brier score of each roughness."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.front_probability", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--worlds", type=int, default=500, help="number of each roughness (default: %(default)s)")
    options = parser.parse_args(arguments)
    found: dict[str, tuple[Floats, Bools]] = {str(rough): stated_and_true(rough, options.worlds) for rough in ROUGH}
    together = [np.concatenate(parts) for parts in zip(*found.values(), strict=True)]
    sys.stdout.write("| rough | stated | configurations | mean stated | truly on the front |\n|---|---|---|---|---|\n")
    briers = []
    for rough, (stated, true) in {"all": together, **found}.items():
        place = np.minimum((stated * BINS).astype(int), BINS - 1)
        for number in range(BINS):
            chosen = place == number
            ends = f"{number / BINS:.1f} to {(number + 1) / BINS:.1f}"
            means = f"{stated[chosen].mean():.2f} | {true[chosen].mean():.2f}"
            sys.stdout.write(f"| {rough} | {ends} | {chosen.sum()} | {means} |\n")
        rate = true.mean()
        briers.append((rough, ((stated - true) ** 2).mean(), rate * (1 - rate)))
    for rough, brier, base in briers:
        sys.stdout.write(f"\nrough {rough}: Brier score {brier:.3f}, of the base rate {base:.3f}")
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
