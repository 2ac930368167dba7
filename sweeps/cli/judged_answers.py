"""Judged answers from elsewhere: their rates and frontier, as `selgen import judged` prints them."""

from __future__ import annotations

import json
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.findings import frontier
from analysis.findings.findings import analyse
from analysis.findings.frontier_table import rich_table
from analysis.tables import judged_answers
from analysis.tables.scores import ScoreTable
from sweeps.cli.say import Say


def import_judged(
    folder: Path, as_json: bool, keep_going: bool, report_folder: Path | None, console: Console, errors: Console
) -> None:
    """Print judged runs and their frontier, or JSON. Raise UserError."""
    judged = judged_answers.read_judged_folder(folder, keep_going)
    for note in judged.notes:
        errors.print(Text(f"note: {note}"), soft_wrap=True)
    records, grades, base = judged_answers.records_of(judged)
    table = ScoreTable.from_records(records, judged_answers.OBJECTIVES)
    if report_folder:
        from analysis.report.page import Chapter, write_report

        chapter = Chapter("judged answers", analyse(table, base, grades), records, base, {})
        for path in write_report(report_folder, folder.resolve().name, [chapter]):
            Say(errors).wrote(path)
    if as_json:
        console.file.write(json.dumps(judged_answers.to_json(judged), allow_nan=False) + "\n")
        return
    console.print(_judged_table(judged))
    if table.num_seeds_C.any():
        points = frontier.frontier(table)
        console.print(rich_table(points, judged_answers.OBJECTIVES, "frontier", front_only=True, width=console.width))


def _judged_table(judged: judged_answers.JudgedFolder) -> Table:
    table = Table(caption_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=30)
    for column in ("general aligned %", "all", "coh", "medical misaligned %", "all", "coh", "coh>=50 (n)", "missing"):
        table.add_column(column, justify="right")
    for run in judged.runs:
        general, medical = run.rate("general"), run.rate("medical")
        gated = f"{100 * medical.gated:.1f} ({medical.num_gated})" if medical and medical.num_gated else "-"
        missing = " + ".join(str(rate.missing) for rate in (general, medical) if rate)
        cells = [run.name, *_rate_cells(general), *_rate_cells(medical), gated, missing]
        table.add_row(*map(Text, cells), style="dim" if run.degenerate else "")
    notes = [
        "% of the answers with a verdict, [95 % interval, clustered by question];",
        "all: an answer without a verdict counts against; coh: mean coherence; coh>=50: only coherent answers",
    ]
    notes += [f"invalid: {run.name}: {run.degenerate}" for run in judged.runs if run.degenerate]
    table.caption = Text("\n".join(notes))
    return table


def _rate_cells(rate: judged_answers.Rate | None) -> list[str]:
    if rate is None:
        return ["-", "-", "-"]
    valid = rate.valid
    low, high = 100 * max(valid.low, 0.0), 100 * min(valid.high, 1.0)
    ends = "" if valid.num_clusters < 2 else f" [{low:.0f}, {high:.0f}]"
    return [f"{100 * valid.mean:.1f}{ends}", f"{100 * rate.kept:.1f}", f"{rate.coherence:.1f}"]
