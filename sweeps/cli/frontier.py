"""The frontier of a sweep, as `selgen frontier` prints it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.findings import frontier
from analysis.findings.frontier_table import rich_table
from analysis.findings.named_points import read_named, standing
from analysis.findings.triggered import differing_verdicts, verdicts_of, with_triggered
from sweeps.cli.say import Say
from sweeps.names import folder_of
from sweeps.results.readers import open_sweep, unfinished_note
from trainables.folder import SweepFolder


def show_frontier(
    sweep: str,
    output: Path,
    tracking_uri: str | None,
    setting: str | None,
    names: Sequence[str] | None,
    as_json: bool,
    csv: Path | None,
    figure: Path | None,
    console: Console,
) -> None:
    """Print the frontier of a sweep in the scores `names`; None is its own objectives. Raise UserError."""
    reader = open_sweep(sweep, output, tracking_uri)
    loaded = reader.load(setting, names)
    points = frontier.frontier(loaded.table, base_scores=loaded.base_scores)
    objectives = loaded.objectives
    named = read_named(SweepFolder(folder_of(sweep, output)).named, loaded.setting)
    scored = [point for point in named if point.has(loaded.objectives)]
    if loaded.triggered is not None:
        points, objectives = with_triggered(points, loaded.triggered, loaded.base_scores, objectives)
    if csv:
        frontier.write_csv(csv, points)
    if figure:
        from analysis.figures.frontier import save_frontier

        save_frontier(figure, loaded.table, loaded.base_scores, title=sweep, named=scored)
    if as_json:
        base = {each.name: loaded.base_scores[each.name] for each in objectives if each.name in loaded.base_scores}
        data = frontier.front_json(sweep, points) | {"base": base}
        data |= {"named": [each.to_json() for each in scored]} if scored else {}
        console.file.write(json.dumps(data, allow_nan=False) + "\n")
        return
    title = f"{sweep}: {loaded.setting}" if loaded.setting else sweep
    besides = [objective.name for objective in objectives if objective not in loaded.objectives]
    console.print(rich_table(points, objectives, title, width=console.width, besides=besides, base=loaded.base_scores))
    say = Say(console)
    if loaded.triggered is not None:
        tables = (loaded.table, loaded.triggered)
        for verdict in differing_verdicts(*(verdicts_of(table, loaded.base_scores) for table in tables)):
            say.note(verdict.text)
    for each in scored:
        say.prose(standing(each, points, loaded.objectives))
    for file in filter(None, (csv, figure)):
        say.wrote(file)
    if note := unfinished_note(reader, loaded.counts["running"]):
        say.warn(note)
