"""Frontiers and reports of what MLflow has of a sweep, comparisons of two sweeps, and judged answers of others.

What takes a second to import (torch, matplotlib, plotly) is imported where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.findings import frontier, two_sweeps
from analysis.findings.findings import analyse
from analysis.tables import judged_answers, mlflow_runs, schema
from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.mlflow_runs import SweepRuns
from analysis.tables.scores import ScoreTable
from settings.common.errors import UserError
from sweeps.names import SAFE_NAME, default_uri

if TYPE_CHECKING:
    from analysis.report.page import Chapter

LOCAL_UI = "http://127.0.0.1:5000"  # where `selgen ui` serves a store of files


def report(
    sweep: str,
    output: Path,
    tracking_uri: str | None,
    setting: str | None = None,
    objectives: Sequence[str] | None = None,
    folder: Path | None = None,
) -> list[Path]:
    """Write the report of a sweep, also of one that runs, and log it to the sweep's run in MLflow.

    Args:
        setting: one of them; None is all that have a finished trial.
        objectives: two or three of the sweep's scores; None is its own.
        folder: of the files; None is `report` in the sweep's folder under `output`.

    Returns the files, the page first. Raises UserError.
    """
    from analysis.report.page import write_report
    from sweeps.tracking.store import log_files

    uri = tracking_uri or default_uri(output)
    _check_name(sweep)
    labels: Sequence[str | None] = [setting] if setting else mlflow_runs.settings_of(sweep, uri) or [None]
    loaded = [mlflow_runs.load(sweep, uri, label, objectives) for label in labels]
    runs = mlflow_runs.runs_of(sweep, uri)
    chapters = [_chapter(one, runs, uri) for one in loaded if one.table.num_seeds_C.any()]
    if not chapters:
        raise UserError(f"no trial of sweep {sweep!r} has finished yet, so there is nothing to report")
    files = write_report(folder or output / sweep / schema.REPORT, sweep, chapters)
    log_files(uri, runs.run_id, files, schema.REPORT)
    return files


def _chapter(loaded: LoadedSweep, runs: SweepRuns, uri: str) -> Chapter:
    from analysis.report.page import Chapter

    place = uri.rstrip("/") if uri.startswith(("http://", "https://")) else LOCAL_UI
    links = {
        configuration: f"{place}/#/experiments/{runs.experiment}/runs/{run}"
        for configuration, run in runs.configurations.items()
    }
    return Chapter(
        setting=loaded.setting or loaded.name,
        findings=analyse(loaded.table, loaded.base_scores, loaded.grades),
        records=loaded.records,
        base_scores=loaded.base_scores,
        links=links,
        running=loaded.counts.get("running", 0),
    )


def show_frontier(
    sweep: str,
    output: Path,
    tracking_uri: str | None,
    setting: str | None,
    as_json: bool,
    csv: Path | None,
    figure: Path | None,
    console: Console,
) -> None:
    """Print the frontier of a sweep as MLflow has it. Raises UserError."""
    _check_name(sweep)
    loaded = mlflow_runs.load(sweep, tracking_uri or default_uri(output), setting)
    points = frontier.frontier(loaded.table)
    if csv:
        frontier.write_csv(csv, points)
    if figure:
        from analysis.figures.frontier import save_frontier

        save_frontier(figure, loaded.table, loaded.base_scores, title=sweep)
    if as_json:
        console.file.write(json.dumps(frontier.front_json(sweep, points), allow_nan=False) + "\n")
        return
    title = f"{sweep}: {loaded.setting}" if loaded.setting else sweep
    console.print(frontier.rich_table(points, loaded.objectives, title, width=console.width))
    for file in filter(None, (csv, figure)):
        console.print(f"wrote {file}", highlight=False, soft_wrap=True)
    if loaded.counts.get("running"):
        console.print(f"{loaded.counts['running']} trials are still running", highlight=False)


def compare(
    names: tuple[str, str], output: Path, tracking_uri: str | None, setting: str | None, as_json: bool, console: Console
) -> None:
    """Print the paired differences between two sweeps. Raises UserError."""
    uri = tracking_uri or default_uri(output)
    for name in names:
        _check_name(name)
    first, second = (mlflow_runs.load(name, uri, setting) for name in names)
    if first.setting != second.setting:
        raise UserError(f"the sweeps are about different settings: {first.setting!r} and {second.setting!r}")
    found = two_sweeps.compare_sweeps(names, (first.table, second.table), (first.base_scores, second.base_scores))
    if as_json:
        console.file.write(json.dumps(two_sweeps.to_json(names, found), allow_nan=False) + "\n")
        return
    console.print(_comparison(names, found))


def _comparison(names: tuple[str, str], found: two_sweeps.SweepComparison) -> Table:
    table = Table(
        title=Text(f"{names[0]} minus {names[1]}: hypervolume, paired over {len(found.seeds)} seeds"),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("")
    for column in ("difference [95 %]", "p (Holm)", "P(first dominates)", "P(second dominates)", "detectable"):
        table.add_column(column, justify="right")
    for label, one in found.rows.items():
        size = f"{one.statistic.estimate:+.3f} [{one.statistic.low:+.3f}, {one.statistic.high:+.3f}]"
        p = "<0.001" if one.adjusted < 0.001 else f"{one.adjusted:.3f}"
        cells = (label, size, p, f"{one.dominates:.2f}", f"{one.dominated:.2f}", f"{one.detectable:.3f}")
        table.add_row(*map(Text, cells), style="bold" if one.clear else "")
    corner = ", ".join(f"{name} {worst:.3g}" for name, worst in zip(found.objectives, found.worst_corner, strict=True))
    notes = [
        f"bias-corrected hypervolumes above ({corner}); bold: significant at 5 % after Holm",
        "detectable: the smallest true difference found with 80 % power with these seeds",
    ]
    if found.only_in_one:
        notes.append(f"only in one of them: {', '.join(found.only_in_one)}")
    table.caption = Text("\n".join(notes))
    return table


def import_judged(
    folder: Path, as_json: bool, keep_going: bool, report_folder: Path | None, console: Console, errors: Console
) -> None:
    """Print judged runs, and their frontier; or as JSON. Raises UserError."""
    found = judged_answers.read_judged_folder(folder, keep_going)
    for note in found.notes:
        errors.print(Text(f"note: {note}"), soft_wrap=True)
    records, grades, base = judged_answers.records_of(found)
    table = ScoreTable.from_records(records, judged_answers.OBJECTIVES)
    if report_folder:
        from analysis.report.page import Chapter, write_report

        chapter = Chapter("judged answers", analyse(table, base, grades), records, base, {})
        for path in write_report(report_folder, folder.resolve().name, [chapter]):
            errors.print(f"wrote {path}", highlight=False, soft_wrap=True)
    if as_json:
        console.file.write(json.dumps(judged_answers.to_json(found), allow_nan=False) + "\n")
        return
    console.print(_judged_table(found))
    if table.num_seeds_C.any():
        points = frontier.frontier(table)
        console.print(
            frontier.rich_table(points, judged_answers.OBJECTIVES, "frontier", front_only=True, width=console.width)
        )


def _judged_table(found: judged_answers.JudgedFolder) -> Table:
    table = Table(caption_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold", min_width=30)
    for column in ("general aligned %", "all", "coh", "medical misaligned %", "all", "coh", "coh>=50 (n)", "missing"):
        table.add_column(column, justify="right")
    for run in found.runs:
        general, medical = run.rate("general"), run.rate("medical")
        gated = f"{100 * medical.gated:.1f} ({medical.num_gated})" if medical and medical.num_gated else "-"
        missing = " + ".join(str(rate.missing) for rate in (general, medical) if rate)
        cells = [run.name, *_rate_cells(general), *_rate_cells(medical), gated, missing]
        table.add_row(*map(Text, cells), style="dim" if run.degenerate else "")
    notes = [
        "% of the answers with a verdict, [95 % interval that allows for answers to one question going together];",
        "all: one without a verdict counts against; coh: mean coherence; coh>=50: coherent answers alone",
    ]
    notes += [f"invalid: {run.name}: {run.degenerate}" for run in found.runs if run.degenerate]
    table.caption = Text("\n".join(notes))
    return table


def _rate_cells(rate: judged_answers.Rate | None) -> list[str]:
    if rate is None:
        return ["-", "-", "-"]
    valid = rate.valid
    low, high = 100 * max(valid.low, 0.0), 100 * min(valid.high, 1.0)
    ends = "" if valid.num_clusters < 2 else f" [{low:.0f}, {high:.0f}]"
    return [f"{100 * valid.mean:.1f}{ends}", f"{100 * rate.kept:.1f}", f"{rate.coherence:.1f}"]


def _check_name(sweep: str) -> None:
    if not SAFE_NAME.fullmatch(sweep):
        raise UserError(f"{sweep!r} is no sweep's name; give the name, not the file")
