"""The benchmark's command line; see README.md beside it."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from tests.benchmarks import growth, mixed, page, profiles, steps, upper_layers, whole_sweep
from tests.benchmarks.measure import Result, Sheet, goals, machine
from tests.support.fakes import ONE_AT_A_TIME

SWEEP_GOALS = ("sweep_speedup", "first_step_s", "overhead_share")
STEP_GOALS: dict[str, Callable[[steps.Plan], list[Result]]] = {
    "step_efficiency": steps.step_efficiency,
    "seed_marginal_cost": steps.seed_marginal_cost,
    "generation_speedup": steps.generation_speedup,
    "upper_step": upper_layers.upper_step,
    "mixed_step": mixed.mixed_step,
}
NAMES = (*SWEEP_GOALS, *STEP_GOALS)
SHORT_SWEEP = whole_sweep.Plan(
    share=0.0, seeds=2, options={"steps": 4}, cpus=ONE_AT_A_TIME, ours=1, theirs=1, reusing=False, starts=0
)
SHORT_ROUNDS = 2
WIDTH = 160  # of what is printed into a file


def sweep_plan(only: Sequence[str], share: float, repeats: int, baseline_repeats: int, short: bool) -> whole_sweep.Plan:
    """What of whole sweeps has to run for these goals."""
    plan = SHORT_SWEEP if short else whole_sweep.Plan(share=share, ours=repeats, theirs=baseline_repeats)
    if "sweep_speedup" not in only:
        plan = replace(plan, theirs=0)
        if "overhead_share" not in only:
            plan = replace(plan, ours=0, starts=max(plan.starts, repeats))
    return plan if "first_step_s" in only else replace(plan, starts=0)


def measured(only: Sequence[str], plan: whole_sweep.Plan, step_plan: steps.Plan) -> Iterator[Result]:
    """The goals with these names, cheap ones first."""
    for name, measure in STEP_GOALS.items():
        if name in only:
            yield from measure(step_plan)
    if set(only) & set(SWEEP_GOALS):
        found = whole_sweep.measure(plan)
        yield from (result for result in found if result.name.removesuffix("_b") in only)


def main(
    out: Annotated[Path | None, typer.Option(help="JSON file for all results.")] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="For steps and replies; not for sweeps.")] = "cpu",
    only: Annotated[list[str] | None, typer.Option(help=f"Goals to measure: {', '.join(NAMES)}.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Run all once, tiny; keep no results.")] = False,
    with_growth: Annotated[bool, typer.Option("--growth", help="Measure growth instead of goals.")] = False,
    with_profile: Annotated[bool, typer.Option("--profile", help="Profile steps instead of goals.")] = False,
    readme: Annotated[bool, typer.Option("--readme", help="Write the tables into README.md.")] = False,
    threads: Annotated[int, typer.Option(help="Threads of this process; a sweep's worker has one.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds of steps.")] = steps.ROUNDS,
    repeats: Annotated[int, typer.Option(help="Runs of our sweep.")] = 3,
    baseline_repeats: Annotated[int, typer.Option(help="Runs of each baseline's sweep.")] = 1,
    trials_share: Annotated[float, typer.Option(help="Share of the sweep's configurations.", min=0.01, max=1.0)] = 1.0,
) -> None:
    """Measure the speed goals, as ratios; or how they grow, or where a step's time goes."""
    warnings.simplefilter("ignore", FutureWarning)
    unknown = set(only or ()) - set(NAMES)
    if unknown:
        raise typer.BadParameter(f"no such goal: {sorted(unknown)[0]}; there are {', '.join(NAMES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch sees no GPU")
    torch.set_num_threads(threads)
    disable_progress_bar()
    console, where = Console(width=None if sys.stdout.isatty() else WIDTH), torch.device(device)
    about = machine(where)
    console.print(page.described(about), highlight=False)
    rounds = SHORT_ROUNDS if short else rounds
    sheets: dict[str, list[Sheet]] = {"goals": [], "growth": [], "profile": []}
    results: list[Result] = []
    if with_growth:
        sheets["growth"] = shown(console, growth.measure(where, max(2, rounds // 4), short))
    if with_profile:
        sheets["profile"] = shown(console, profiles.measure(where, short))
    if not (with_growth or with_profile):
        chosen = tuple(only or NAMES)
        plan = sweep_plan(chosen, trials_share, repeats, baseline_repeats, short)
        for result in measured(chosen, plan, steps.Plan(where, rounds, large=not short)):
            console.print(f"{result.name}: {result.spread}; {result.what}", highlight=False)
            results.append(result)
        sheets["goals"] = [goals(results), *details(results)]
        shown(console, sheets["goals"])
    if out:
        out.write_text(json.dumps(as_json(about, device, results, sheets), indent=2) + "\n")
    if readme:
        page.write(about, sheets)


def shown(console: Console, sheets: Iterator[Sheet] | Sequence[Sheet]) -> list[Sheet]:
    """The tables, each printed as soon as it is there."""
    found = []
    for sheet in sheets:
        console.print(sheet.rich())
        console.print()
        found.append(sheet)
    return found


def details(results: Sequence[Result]) -> list[Sheet]:
    """Tables of the cases behind a goal; of a sweep, its seconds."""
    found = []
    for result in results:
        cases = {name: case for name, case in result.details.items() if isinstance(case, dict)}
        if result.name in STEP_GOALS:
            columns = tuple(dict.fromkeys(key for case in cases.values() for key in case if _is_spread(case[key])))
            rows = [
                (name, *(case[key][0] if key in case else None for key in columns))
                for name, case in cases.items()
                if any(key in case for key in columns)
            ]
            found.append(Sheet(f"{result.name}: medians by case (s: absolute)", ("case", *columns), tuple(rows)))
        else:
            listed = [(name, json.dumps(_short(value))) for name, value in result.details.items()]
            found.append(Sheet(f"{result.name}: details (s: absolute)", ("", "found"), tuple(listed)))
    return found


def _is_spread(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3


def _short(value: Any) -> Any:
    """Numbers with three digits."""
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_short(each) for each in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def as_json(
    about: dict[str, Any], device: str, results: Sequence[Result], sheets: dict[str, list[Sheet]]
) -> dict[str, Any]:
    """Everything: a key per goal, and the tables."""
    tables = {name: [sheet.to_json() for sheet in some] for name, some in sheets.items() if some}
    goals_found = {result.name: result.to_json() for result in results}
    return {"machine": about, "device": device, **goals_found, "tables": tables}


if __name__ == "__main__":
    typer.run(main)
