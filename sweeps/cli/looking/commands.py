"""`selgen methods`, `selgen settings` and `selgen data`. Heavy imports happen inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from sweeps.cli.arguments import OPTION_HELP, options_of

app = typer.Typer(rich_markup_mode=None)


@app.command(
    "methods",
    short_help="List the methods; show one: equation, coefficients, cost.",
    epilog="Example: selgen methods kl_penalty",
)
def methods_command(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this one; a word, e.g. SafeGrad, names those described with it."),
    ] = None,
) -> None:
    """List the methods: equation and coefficients. With a name, also show variants, cost, needs and source."""
    from sweeps.cli.tables import show_method, show_methods

    if name:
        show_method(Console(), name)
    else:
        show_methods(Console())


@app.command(
    "settings",
    short_help="List the settings; show one: rows, scores, judge.",
    epilog="Example: selgen settings bad_medical_advice",
)
def settings_command(
    name: Annotated[str | None, typer.Argument(help="Show one setting in full.")] = None,
    option: Annotated[list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help=OPTION_HELP)] = None,
) -> None:
    """List the settings: what is learned, from which rows, how it is judged."""
    from sweeps.cli.looking.settings import show_named, show_settings

    if name:
        show_named(Console(), name, options_of(option or []))
    else:
        show_settings(Console())


@app.command(
    "data",
    short_help="Show how rows are read: turns, lengths, what is cut.",
    epilog="Example: selgen data rows.csv --columns prompt=question --columns completion=answer",
)
def data_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File of rows, or with --split a data set on the Hub.")],
    against: Annotated[
        list[str] | None, typer.Option(help="File of rows or questions that must share no prompt; repeatable.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=YOUR_COLUMN", help="What a column of FILE is, e.g. prompt=question; repeatable."),
    ] = None,
    against_columns: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=YOUR_COLUMN", help="The same for the files of --against; repeatable."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set on the Hub, e.g. train[:100].")] = None,
    questions: Annotated[
        bool, typer.Option("--questions", help="Read questions with several replies, as `preferences=` does.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Count this model's tokens: Hub id or directory.")] = None,
    scale: Annotated[str, typer.Option(metavar="small|full", help="Encode rows as chat_files does there.")] = "full",
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Cut rows after this many tokens; default: as at the scale.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Number of rows to show as tokens.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how rows are read: their forms, turns and tags, lengths, what is cut, which prompts repeat or leak."""
    from sweeps.cli.looking.data import Look, show_data

    given = (against or (), columns or (), against_columns or ())
    show_data(Look(file, *given, split, questions, scale, model, max_length, rows), as_json, Console())
