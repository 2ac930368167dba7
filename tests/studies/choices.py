"""What comes of `selgen choose` where the truth is known: python -m tests.studies.choices.

The bound is the alignment of a configuration in the middle, and a hair more: those that just miss it have the best
task. A row says how often none is chosen, how often the chosen one violates the bound, how far the naive and the
expected task are off on average, and how often the interval holds the true task. Where seeds agree, configurations
align all or nothing: one in .975 of its replies, so that often no seed shows a wrong one, and the others in none.

Shape legend: C configurations, M objectives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.choice import Bound, choose
from tests.studies.noisy_fronts import Cell, Truth

HAIR = 1e-6
CELLS = (
    Cell("apart", deviation=0.03),
    Cell("near-duplicates", duplicates=5, deviation=0.06),
    Cell("apart", 12, items=50, deviation=0.02),
    Cell("equal methods", 4, methods=4, deviation=0.04),
    Cell("equal methods", 12, methods=9, deviation=0.06),
    Cell("seeds that agree", 8, items=10, seeds=6, deviation=0.0, shape="all or nothing"),
    Cell("seeds that agree", 8, items=20, deviation=0.0, shape="all or nothing"),
    Cell("seeds that agree", 8, items=30, deviation=0.0, shape="all or nothing"),
    Cell("seeds that agree", 8, methods=2, items=30, deviation=0.0, shape="all or nothing"),
    Cell("ceilings", 12, methods=2, items=20, deviation=0.0, shape="ceiling"),
    Cell("equal methods", 12, methods=9, deviation=0.03, shared=0.5, correlation=0.5),
)


def rows(repetitions: int) -> Iterator[str]:
    """Yield a row of a Markdown table for each cell."""
    yield "| cell | none chosen | bound violated | naive task | expected task | interval holds |"
    yield "|---|---|---|---|---|---|"
    for cell in CELLS:
        truth, random = Truth(cell), np.random.default_rng(1)
        mean_CM = truth.mean_CM
        reached = np.sort(mean_CM[mean_CM[:, 1] > 0, 1])
        middle = reached[len(reached) // 4 : 3 * len(reached) // 4 + 1]
        violated, naive, missed, held = [], [], [], []
        for repetition in range(repetitions):
            bound = float(random.choice(middle)) + HAIR
            choice = choose(Bootstrap(truth.draw(random), 400, repetition), [Bound(1, bound)], best=0)
            if choice.row is None:
                continue
            task, alignment = mean_CM[choice.row, :2]
            violated.append(alignment < bound)
            naive.append(choice.naive - task)
            missed.append(choice.gain - task)
            held.append(choice.low <= task <= choice.high)
        shares = (1 - len(violated) / repetitions, sum(violated) / repetitions)
        means = "- | - | -"
        if violated:
            means = f"{np.mean(naive):+.4f} | {np.mean(missed):+.4f} | {np.mean(held):.2f}"
        yield f"| {cell.key} | {shares[0]:.2f} | {shares[1]:.3f} | {means} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies.choices", description=__doc__.partition(":")[0])
    parser.add_argument("--repetitions", type=int, default=150, help="of each cell; default: 150, a minute in all")
    for line in rows(parser.parse_args(arguments).repetitions):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
