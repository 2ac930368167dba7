"""A packed step of different methods against packed steps of one method each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import fmean

from tests.benchmarks.measure import Result, Spread, interleaved
from tests.benchmarks.shapes import NANO, world
from tests.benchmarks.steps import Plan

# Some of every kind: of the cheapest step and the dearest, of one loss, of two and of nine, with and without a state.
METHODS = (
    "plain",
    "inoculation",
    "upweighted",
    "kl_constraint",
    "two_gradients",
    "gradient_projection",
    "moving_average",
    "preventative_steering",
)
GOAL = 1.3


def mixed_step(plan: Plan) -> list[Result]:
    """A pack of one trial of each method, and for each method a pack of as many seeds; all take turns."""
    where = world(NANO, plan.device)
    rounds, methods = plan.rounds_of(where), METHODS if plan.large else METHODS[:: len(METHODS) // 2]
    steps, size = rounds + 1, len(methods)
    actions: dict[str, Callable[[], object]] = {}
    with ExitStack() as packs:
        for method in methods:
            pack = where.pack(where.trials(method, size, steps), copied=True)
            packs.callback(pack.detach)
            actions[method] = partial(pack.advance, 1)
        pack = where.pack([trial for method in methods for trial in where.trials(method, 1, steps)], copied=True)
        packs.callback(pack.detach)
        actions["together"] = partial(pack.advance, 1)
        seconds = interleaved(actions, rounds, where.device)
    alone = [fmean(values) for values in zip(*(seconds[method] for method in methods), strict=True)]
    ratio = Spread.of(together / mean for together, mean in zip(seconds["together"], alone, strict=True))
    spreads = {f"{name}_s": Spread.of(values) for name, values in seconds.items()}
    details = {f"nano, packs of {size}": {name: [s.value, s.low, s.high] for name, s in spreads.items()}}
    what = f"step of a pack of {size} methods over the mean step of {size} packs of {size} of one method each, nano"
    return [Result("mixed_step", what, ratio, GOAL, False, details)]
