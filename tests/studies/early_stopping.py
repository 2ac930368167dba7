"""What early stopping gains: the hypervolume of a method's frontier at equal cost, with and without it.

    python -m tests.studies.early_stopping [--configurations 24] [--seeds 2] [--repetitions 400] [--out FILE.json]

Trains configurations of three methods on the nano setting, spread over their ranges and each evaluated at the rungs,
and replays sweeps on them: configurations are drawn in random order, in rounds, and either trained to their end, or
stopped by `sweeps.early_stopping`, until the budget of training steps is spent. The replay makes many sweeps of one
training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from analysis.statistics.pareto import hypervolume
from settings.bad_medical_advice import nano as bad_medical_advice
from sweeps.early_stopping import EarlyStopping, promoted
from sweeps.space import MethodSpace, vary
from sweeps.sweep import Sweep, setting
from trainables.bases.load_base import load_base
from trainables.pack import Pack
from trainables.trial import TrialConfig

METHODS = ("kl_penalty", "upweighted", "mixed")
ROUND = 4
SIDE_BY_SIDE = 8  # configurations in a pack
BUDGETS = (6, 8, 12)  # in full trainings
RULE = EarlyStopping()


@dataclass(frozen=True)
class Curves:
    """Scores of the configurations of a method: `[configuration, rung or end, objective]`; and the base model's."""

    values_CRM: NDArray[np.float64]
    base_M: NDArray[np.float64]


def trained(space: MethodSpace, configurations: int, seeds: int) -> Curves:
    """Train configurations along the method's range, evaluated at every rung and at the end."""
    sweep = Sweep("stopping", (setting("bad_medical_advice", scale="nano"),), (space,), seeds=seeds, controls=False)
    world, base = bad_medical_advice(), load_base(bad_medical_advice().base_model)
    (arm,) = sweep.arms
    points = [space.at([(number + 0.5) / configurations] * len(space.ranges)) for number in range(configurations)]
    groups = [sweep.trials_of(arm, point) for point in points]
    objectives = sweep.cases[0].objective_names
    values = []
    for start in range(0, configurations, SIDE_BY_SIDE):
        some = groups[start : start + SIDE_BY_SIDE]
        pack = Pack(base, world, [trial for group in some for trial in group])
        values.append(np.stack([_scores(pack, step, objectives, seeds) for step in _looks(groups[0][0])], axis=1))
        pack.detach()
    untouched = Pack(base, world, [replace(groups[0][0], adapter_scale=0.0)])
    untouched.edit_adapters()
    base_M = _scores(untouched, 0, objectives, 1)[0]
    untouched.detach()
    return Curves(np.concatenate(values), base_M)


def _looks(trial: TrialConfig) -> tuple[int, ...]:
    """Updates after which a trial is evaluated: the rungs, and the end."""
    return (*RULE.steps(trial), trial.updates)


def _scores(pack: Pack, step: int, objectives: list[str], seeds: int) -> NDArray[np.float64]:
    """`[configuration, objective]` after `step` updates, means over the seeds, which lie side by side."""
    pack.advance(step - pack.steps_done)
    scores = [[pack_scores.scores[name].mean for name in objectives] for pack_scores in pack.evaluate().values()]
    return np.array(scores).reshape(-1, seeds, len(objectives)).mean(axis=1)


def replayed(curves: Curves, budget: float, stops: bool, rng: np.random.Generator) -> tuple[float, int]:
    """Hypervolume above the worst corner when the budget of full trainings is spent, and configurations tried."""
    shares = np.diff([0.0, *RULE.rungs, 1.0])
    spent, ended, tried = 0.0, [], 0
    seen: list[list[int]] = [[] for _ in RULE.rungs]
    queue = list(rng.permutation(len(curves.values_CRM)))
    while queue and spent < budget:
        going, queue = queue[:ROUND], queue[ROUND:]
        tried += len(going)
        for rung, share in enumerate(shares):
            if not stops and rung < len(RULE.rungs):
                spent += share * len(going)
                continue
            affordable = int(np.floor((budget - spent) / share + 1e-9))
            going = going[: max(0, affordable)] if stops or rung == len(RULE.rungs) else going
            spent += share * len(going)
            if rung == len(RULE.rungs):
                ended += going
            elif going:
                seen[rung] += going
                kept = promoted(curves.values_CRM[seen[rung], rung], RULE.keep)
                going = [one for one in going if seen[rung].index(one) in kept]
    worst = np.minimum(curves.base_M, curves.values_CRM[:, -1].min(axis=0)) - 1e-6
    return hypervolume(curves.values_CRM[ended, -1] if ended else np.empty((0, 2)), worst), tried


def compare(curves: Curves, budget: float, repetitions: int) -> dict[str, float]:
    """Means over random orders, the same for both."""
    pairs = [
        [replayed(curves, budget, stops, np.random.default_rng(seed)) for stops in (False, True)]
        for seed in range(repetitions)
    ]
    volumes, tried = np.array(pairs)[..., 0], np.array(pairs)[..., 1]
    gap = volumes[:, 1] - volumes[:, 0]
    return {
        "without": float(volumes[:, 0].mean()),
        "with": float(volumes[:, 1].mean()),
        "difference": float(gap.mean()),
        "error": float(gap.std(ddof=1) / np.sqrt(repetitions)),
        "tried_without": float(tried[:, 0].mean()),
        "tried_with": float(tried[:, 1].mean()),
    }


def main(
    configurations: Annotated[int, typer.Option(help="Configurations of each method, along its range.")] = 24,
    seeds: Annotated[int, typer.Option(help="Seeds of each configuration.")] = 2,
    repetitions: Annotated[int, typer.Option(help="Number of random orders.")] = 400,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Measure early stopping on the nano setting."""
    torch.set_num_threads(1)
    table = Table(title="hypervolume at equal cost", box=None)
    for column in ("method", "budget", "without", "with", "difference", "tried without", "tried with"):
        table.add_column(column, justify="left" if column == "method" else "right")
    found = []
    for method in METHODS:
        curves = trained(vary(method), configurations, seeds)
        for budget in BUDGETS:
            row = {"method": method, "budget": budget, **compare(curves, budget, repetitions)}
            found.append(row)
            numbers = (f"{row['without']:.4f}", f"{row['with']:.4f}", f"{row['difference']:+.4f} +- {row['error']:.4f}")
            table.add_row(method, str(budget), *numbers, f"{row['tried_without']:.1f}", f"{row['tried_with']:.1f}")
    Console().print(table)
    if out:
        out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
