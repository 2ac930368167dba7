"""The frontiers of two sweeps side by side, as `selgen compare` prints them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.findings import two_sweeps
from analysis.findings.frontier_table import WIDE
from analysis.findings.two_sweeps import SweepComparison
from settings.common.errors import UserError
from sweeps.cli.say import Say
from sweeps.results.readers import open_sweep, unfinished_note
from sweeps.results.same_questions import are_apart, why_apart


def compare(
    names: tuple[str, str],
    output: Path,
    tracking_uri: str | None,
    setting: str | None,
    objectives: Sequence[str] | None,
    as_json: bool,
    console: Console,
) -> None:
    """Print the paired differences between two sweeps. Raise UserError.

    Args:
        names: of the sweeps.
        objectives: two or three scores of both sweeps; None is their own.
    """
    readers = [open_sweep(name, output, tracking_uri) for name in names]
    first, second = (reader.load(setting, objectives) for reader in readers)
    apart = are_apart(readers, (first, second))
    reason = why_apart(readers, (first, second)) if apart else ""
    if reason:
        raise UserError(
            f"the sweeps are about different settings or rows, {first.setting!r} and {second.setting!r}, and {reason};"
            " to see settings side by side, name both in one sweep and run `selgen heatmap`"
        )
    comparison = two_sweeps.compare_sweeps(names, (first.table, second.table), (first.base_scores, second.base_scores))
    if as_json:
        console.file.write(json.dumps(two_sweeps.to_json(names, comparison), allow_nan=False) + "\n")
        return
    console.print(comparison_table(names, comparison, console.width))
    begun = (first.counts["running"], second.counts["running"])
    for note in dict.fromkeys(map(unfinished_note, readers, begun)):
        if note:
            Say(console).warn(note)
    if apart:
        Say(console).note(
            f"trained on the rows of {first.setting} and of {second.setting}; base model and questions are the same"
        )


def comparison_table(names: tuple[str, str], comparison: SweepComparison, width: int = WIDE) -> Table:
    """Return a table of paired differences, a row per method, with a caption that explains the columns.

    In a narrow terminal (`width` characters), intervals are printed below the estimates.
    """
    table = Table(
        title=Text(f"{names[0]} minus {names[1]}: hypervolume, paired over {len(comparison.seeds)} seeds"),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("", overflow="fold")
    for column in ("difference [95 %]", "p\n(Holm)", "P(first\ndominates)", "P(second\ndominates)", "detectable"):
        table.add_column(column, justify="right", overflow="fold")
    between = " " if width >= WIDE else "\n"
    for label, row in comparison.rows.items():
        size = f"{row.statistic.estimate:+z.3f}{between}[{row.statistic.low:+z.3f}, {row.statistic.high:+z.3f}]"
        p = "<0.001" if row.adjusted < 0.001 else f"{row.adjusted:.3f}"
        cells = (label, size, p, f"{row.dominates:.2f}", f"{row.dominated:.2f}", f"{row.detectable:.3f}")
        table.add_row(*map(Text, cells), style="bold" if row.clear else "")
    corner = ", ".join(
        f"{name} {worst:.3g}" for name, worst in zip(comparison.objectives, comparison.worst_corner, strict=True)
    )
    same = ["both are the same sweep: all differences are 0"] if names[0] == names[1] else []
    notes = [
        *same,
        f"bias-corrected hypervolumes above ({corner}); bold: significant at 5 % after Holm",
        "P(first dominates): the share of bootstrap replicates in which every point of the second frontier is dominated"
        " or equalled by one of the first, and not the other way round",
        "detectable: the smallest true difference found with 80 % power with these seeds",
    ]
    if comparison.only_in_one:
        notes.append(f"only in one of them: {', '.join(comparison.only_in_one)}")
    table.caption = Text("\n".join(notes))
    return table
