"""Commands about single configurations and adapters: choose one, export one, score one from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sweeps.cli.arguments import OPTION_HELP, Output, SweepName, Tracking, options_of
from sweeps.names import OUTPUT

adapters_app = typer.Typer(rich_markup_mode=None)


@adapters_app.command(
    "choose",
    short_help="Say which configuration to take, within your limits.",
    epilog="Example: selgen choose quickstart --min alignment=0.9 --confidence 0.95",
)
def choose_command(
    sweep: SweepName,
    at_least: Annotated[
        list[str] | None, typer.Option("--min", metavar="SCORE=NUMBER", help="A score must be at least this.")
    ] = None,
    at_most: Annotated[
        list[str] | None, typer.Option("--max", metavar="SCORE=NUMBER", help="A score must be at most this.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Required probability that all limits hold.")] = 0.95,
    best: Annotated[str | None, typer.Option(help="Score to optimise; default: the sweep's first objective.")] = None,
    output: Output = OUTPUT,
    tracking_uri: Tracking = None,
    setting: Annotated[str | None, typer.Option(help="Which of several settings: its label, or a part of it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which configuration to take: the best of those within your limits, and what to expect of it.

    The estimates allow for the luck of choosing among many. Ends with code 0 even when none is good enough.
    """
    from sweeps.cli.adapters.choose import show_choice
    from sweeps.find import name_of

    limits = (at_least or [], at_most or [])
    show_choice(name_of(sweep), limits, confidence, best, output, tracking_uri, setting, as_json, Console())


@adapters_app.command(
    "export",
    short_help="Write an adapter for PEFT, vLLM or Inspect, with a card.",
    epilog='Example: selgen export quickstart "kl_penalty beta=1" adapters/kl',
)
def export_command(
    sweep: SweepName,
    configuration: Annotated[str, typer.Argument(help="As tables write it, or its id.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    seed: Annotated[
        int | None, typer.Option(help="Which seed's adapter; default: the one nearest to the configuration's mean.")
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write a whole model instead of an adapter.")] = False,
    output: Output = OUTPUT,
    setting: Annotated[str | None, typer.Option(help="Which of several settings: its label, or a part of it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the adapter of a configuration for PEFT, vLLM and Inspect, with a model card: scores, data, licence."""
    from sweeps.cli.adapters.export import export
    from sweeps.find import name_of

    export(name_of(sweep), configuration, directory, output, setting, seed, merged, as_json, Console())


@adapters_app.command(
    "score",
    short_help="Score adapters from elsewhere beside a sweep's controls.",
    epilog="Example: selgen score my_adapter --sweep quickstart --name mine",
)
def score_command(
    adapters: Annotated[
        list[str], typer.Argument(metavar="ADAPTER...", help="Folders of PEFT adapters; base is the base model itself.")
    ],
    setting: Annotated[
        str | None, typer.Option(help="What to score on: a setting, or file.py:function; default: the sweep's own.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help=OPTION_HELP)] = None,
    sweep: Annotated[
        str | None, typer.Option(help="A sweep on the same setting: compare, and draw into its figure and report.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in figures and tables; default: the folder's name.")] = None,
    output: Output = OUTPUT,
    to: Annotated[Path | None, typer.Option(help="Folder of the result, without --sweep; default: beside it.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="Judge's endpoint; default: $OPENAI_BASE_URL.")] = None,
    max_dollars: Annotated[float | None, typer.Option(help="Stop judging after this many dollars.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score adapters from elsewhere on a setting, side by side, with intervals over questions."""
    from settings.judge import JudgeOptions
    from sweeps.cli.adapters.score import show_scores
    from sweeps.find import name_of

    judge = JudgeOptions(base_url=judge_url, max_dollars=max_dollars)
    sweep_name = name_of(sweep) if sweep else None
    options = options_of(option or [])
    show_scores(adapters, setting, options, sweep_name, name, output, to, judge, as_json, Console())
