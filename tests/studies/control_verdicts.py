"""How often is a method said to push the frontier that does not, and how often one that does?

    python -m tests.studies.control_verdicts

The controls are nine readouts of one training on a quarter circle, from the base model to plain fine-tuning, and share
half of its noise. Methods search their knob at so many places on the same curve, or on one with a larger hypervolume.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from analysis.findings.arms import lines_of
from analysis.findings.controls import compare_with_controls
from analysis.statistics.arrays import Floats
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.measurements import measurements
from analysis.tables.scores import Configuration
from tests.studies.resumable import Result, resume

REPLICATES = 300
RADIUS = 0.9  # of the controls' curve
STEPS = (6, 12, 18, 24, 36)  # of 48, at which plain fine-tuning is evaluated
SCALES = (0.2, 0.4, 0.6, 0.8)  # of its adapter
SHARED = 0.5  # of the variance of what is read from one training


@dataclass(frozen=True)
class Sweep:
    """A sweep with its controls.

    Attributes:
        places: values of each method's knob.
        methods: how many.
        seeds, deviation: of every trial.
        gain: true hypervolume of each method beyond the controls'.
    """

    places: int
    methods: int
    seeds: int
    deviation: float
    gain: float = 0.0


def _curve(share_C: Floats, radius: float) -> Floats:
    """Task and alignment where this share of plain fine-tuning is reached."""
    angle_C = (1 - share_C) * math.pi / 2
    return radius * np.column_stack([np.cos(angle_C), np.sin(angle_C)])


def draw(sweep: Sweep, random: np.random.Generator) -> tuple[list[Configuration], Floats]:
    """Draw the scores of one sweep: its configurations and values_CS2."""
    full = {"adapter_scale": 1.0, "checkpoint_step": 48}
    rows = [Configuration("plain", "plain", "", full)]
    rows += [Configuration(f"step{step}", "plain", f"checkpoint_step={step}", full | {"checkpoint_step": step})
             for step in STEPS]  # fmt: skip
    rows += [Configuration(f"scale{scale}", "plain", f"adapter_scale={scale}", full | {"adapter_scale": scale})
             for scale in SCALES]  # fmt: skip
    shares = [1.0, *(step / 48 for step in STEPS), *SCALES]
    means = [_curve(np.array(shares), RADIUS)]
    radius = math.sqrt(RADIUS**2 + 4 * sweep.gain / math.pi)
    for method in range(sweep.methods):
        knob_C = np.linspace(0.04, 0.96, sweep.places)
        rows += [
            Configuration(f"{method}/{knob}", f"m{method}", f"knob={knob}", {"knob": float(knob)}) for knob in knob_C
        ]
        means.append(_curve(knob_C, radius))
    mean_C2 = np.concatenate(means)
    noise_CS2 = random.standard_normal((len(rows), sweep.seeds, 2))
    trained_S2 = random.standard_normal((sweep.seeds, 2))
    readouts = len(shares)
    noise_CS2[:readouts] = math.sqrt(1 - SHARED) * noise_CS2[:readouts] + math.sqrt(SHARED) * trained_S2
    return rows, mean_C2[:, None, :] + sweep.deviation * noise_CS2


def pushes(sweep: Sweep, repetitions: int) -> tuple[float, float]:
    """Return how often any method, and on average how many of them, are said to beat both controls."""
    random = np.random.default_rng([sweep.places, sweep.methods, sweep.seeds, int(1000 * sweep.deviation)])
    base_2 = np.array([0.0, RADIUS])
    some, share = [], []
    for repetition in range(repetitions):
        rows, values_CS2 = draw(sweep, random)
        measured = measurements(
            values_CS2,
            [row.method for row in rows],
            training_C=["plain" if row.method == "plain" else row.id for row in rows],
            lines=lines_of(rows, base_2),
        )
        verdicts = compare_with_controls(Bootstrap(measured, REPLICATES, repetition), rows, base_2, [0, 0])
        pushing = [verdict.pushes for verdict in verdicts]
        some.append(any(pushing))
        share.append(np.mean(pushing))
    return float(np.mean(some)), float(np.mean(share))


def _run(job: tuple[Sweep, int]) -> Result:
    sweep, repetitions = job
    some, share = pushes(sweep, repetitions)
    return asdict(sweep) | {"some": some, "share": share}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.control_verdicts", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--out", type=Path, help="a file of JSON lines, one per row; rows in it are not run again")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    sys.stdout.write(
        "| places | methods | seeds | sd | gain | any pushes | a method pushes |\n|---|---|---|---|---|---|---|\n"
    )
    equal = itertools.product((4, 12, 40), (2, 9), (3, 10), (0.02, 0.06))
    sweeps = [Sweep(12, 2, 3, 0.02, gain=0.05), *itertools.starmap(Sweep, equal)]
    jobs = {str(sweep): (sweep, options.repetitions) for sweep in sweeps}
    for _, row in resume(_run, jobs, options.out, options.workers):
        sys.stdout.write(f"| {' | '.join(format(value, '.3g') for value in row.values())} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
