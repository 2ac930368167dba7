"""Adapters from elsewhere on a setting, as `selgen score` prints them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.findings.frontier import frontier
from analysis.findings.frontier_table import cell_text
from analysis.findings.named_points import read_named, standing
from settings.common.errors import UserError
from settings.judge import JudgeOptions
from settings.reference import setting, setting_label, setting_of
from settings.setting import Setting
from settings.vocabulary import check_words
from sweeps.cli.say import Say
from sweeps.names import folder_of
from sweeps.results import scoring
from sweeps.results.from_ledger import LedgerReader, is_readable
from trainables.folder import SweepFolder


def show_scores(
    adapters: Sequence[str],
    setting_name: str | None,
    options: Mapping[str, Any],
    sweep: str | None,
    name: str | None,
    output: Path,
    to: Path | None,
    judge: JudgeOptions,
    as_json: bool,
    console: Console,
) -> None:
    """Score adapters, write the results, and print them. Raise UserError."""
    names = scoring.names_of(adapters, name)
    reader = None
    if sweep is not None:
        if not is_readable(folder_of(sweep, output)):
            raise UserError(f"there is no sweep {sweep!r} under {output}")
        reader = LedgerReader.open(folder_of(sweep, output))
    if setting_name is None and reader is None:
        raise UserError("say what to score on: --setting NAME, or --sweep NAME for the setting of a sweep")
    if setting_name is None and options:
        raise UserError(f"--option {next(iter(options))} is for --setting NAME; a sweep's setting has its own options")
    if reader and to is not None:
        raise UserError("--to is for scores without a sweep; with --sweep they are kept in its folder")
    ref = scoring.setting_in(reader) if setting_name is None and reader else setting(setting_name or "", **options)
    built = setting_of(ref)
    check_words(built, ())
    label = scoring.label_in(reader, ref, built) if reader else setting_label(ref)
    if reader:
        read_named(SweepFolder(reader.folder).named, label)  # report an unreadable file before the work starts
    places = dict(zip(names, adapters, strict=True))
    scored = scoring.score(built, label, places, judge)
    files = scoring.keep(scored, reader.folder) if reader else scoring.keep_beside(scored, places, to)
    if as_json:
        console.file.write(json.dumps([each.point.to_json() for each in scored], allow_nan=False) + "\n")
    else:
        declared = reader.description.setting(label).objectives if reader else ()
        console.print(_table(built, scored, [each.name for each in declared] or built.objectives))
    say = Say(console)
    if reader:
        files += _redraw(reader, label, say if not as_json else None, names)
    if not as_json:
        for file in files:
            say.wrote(file)
        for each in scored:
            trained_on = each.point.facts.get("trained_on", each.point.facts["base_model"])
            if trained_on != each.point.facts["base_model"]:
                base = each.point.facts["base_model"]
                say.warn(f"{each.point.name} names {trained_on} as its base model; it was scored on {base}")


def _table(built: Setting, scored: Sequence[scoring.Scored], objectives: Sequence[str]) -> Table:
    """Build a table with a row for each score: mean and 95 % interval over questions of each model.

    Args:
        objectives: names of the scores that get a star.
    """
    table = Table(box=None, padding=(0, 2), title=built.name, title_justify="left")
    table.add_column("score", no_wrap=True)
    table.add_column("better")
    for each in scored:
        table.add_column(Text(each.point.name), justify="right")
    table.add_column("questions", justify="right")
    for score in built.all_scores:
        if score.name in scored[0].point.scores:
            cells = [cell_text(each.point.scores[score.name]) for each in scored]
            mark = "*" if score.name in objectives else ""
            better = "higher" if score.higher_is_better else "lower"
            number = str(scored[0].numbers[score.name].n)
            table.add_row(*(Text(text) for text in (f"{score.name}{mark}", better, *cells, number)))
    notes = ["* objective; [low, high]q is the 95 % interval over questions, for this one training"]
    estimates = [each for model in scored for each in model.point.scores.values()]
    if any(each.basis == "none" and math.isfinite(each.mean) for each in estimates):
        notes.append("[-] too few questions for an interval")
    table.caption = Text("\n".join(notes))
    table.caption_justify = "left"
    return table


def _redraw(reader: LedgerReader, label: str, say: Say | None, names: Sequence[str]) -> list[Path]:
    """Draw the sweep's frontier with all of its scored models, and say how these compare. Return the figure."""
    loaded = reader.load(label)
    if not loaded.table.num_seeds_C.any():
        return []
    named = read_named(SweepFolder(reader.folder).named, label)
    points = frontier(loaded.table, base_scores=loaded.base_scores)
    if say is not None:
        for each in named:
            if each.name in names and each.has(loaded.objectives):
                say.prose(standing(each, points, loaded.objectives))
    if len(loaded.objectives) < 2:
        return []
    from analysis.figures.frontier import save_frontier

    labels = [each.label for each in reader.description.settings]
    stem = "frontier" if len(labels) == 1 else f"frontier_{labels.index(label)}"
    figure = reader.folder / f"{stem}.png"
    title = f"{reader.description.name}: {label}"
    save_frontier(figure, loaded.table, loaded.base_scores, title, named=named)
    return [figure]
