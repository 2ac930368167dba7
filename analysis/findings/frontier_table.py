"""The frontier as a table for a terminal of any width: what does not fit in a line is stacked or left out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from analysis.findings.cautions import all_alike, nothing_learned
from analysis.findings.frontier import Estimate, FrontierPoint, excluded_text
from analysis.findings.ties import Entry, entries
from analysis.statistics.bootstrap import TWO_SEEDS, VERDICT_SEEDS
from analysis.tables.scores import Objective
from settings.common.text import listed

WIDE = 100  # characters
BASE, NAMES = "base model", "configuration"
ROOM = 22  # least characters reserved for the names of configurations, if they need them
COUNTS, COSTS = ("P", "n"), ("tokens", "s")
NARROWEST, SHORTEST_HEAD = 4, 8  # least characters of a column of numbers, and of a line of its head
GAP = 2  # characters between columns


@dataclass(frozen=True)
class Layout:
    """How much of the scores a terminal has room for.

    Attributes:
        names: the columns besides the scores.
        stacked: whether an interval is shown below its mean.
        brief: objectives for which only the mean is shown.
    """

    names: tuple[str, ...]
    stacked: bool = False
    brief: frozenset[str] = frozenset()

    def cell(self, estimate: Estimate, name: str) -> str:
        """Format a score of the objective `name`."""
        if name in self.brief:
            return "no result" if math.isnan(estimate.mean) else f"{estimate.mean:z.3f}"
        text = cell_text(estimate)
        return text.replace(" [", "\n[") if self.stacked else text

    def columns(self, points: Sequence[FrontierPoint], heads: Mapping[str, str]) -> dict[str, tuple[str, int]]:
        """Return each objective's head, wrapped to about the width of the cells, and its column's width.

        Args:
            heads: objective -> the text above its column.
        """
        columns = {}
        for name, text in heads.items():
            cells = [self.cell(point.scores[name], name) for point in points]
            width = max([NARROWEST, *(len(line) for cell in cells for line in cell.split("\n"))])
            head = folded(text, max(width, SHORTEST_HEAD))
            columns[name] = head, max([width, *map(len, head.split("\n"))])
        return columns


def rich_table(
    points: Sequence[FrontierPoint],
    objectives: Sequence[Objective],
    title: str = "",
    front_only: bool = False,
    width: int = WIDE,
    besides: Collection[str] = (),
    base: Mapping[str, float] | None = None,
) -> Table:
    """Build a table of the points for the terminal. A star marks the front; brackets are 95 % intervals.

    Points with equal means share a row. No line is wider than the terminal, however long names and labels are.

    Args:
        front_only: leave out the points that are not on the front.
        width: of the terminal in characters; a narrow one leaves out what trials cost, then stacks the intervals.
        besides: names of scores that have no part in the frontier; the narrowest table shows only their means.
        base: objective name -> score of the untouched base model, which gets the last row.
    """
    shown = [objective for objective in objectives if points and objective.name in points[0].scores]
    heads = {objective.name: f"{objective.name} {objective.arrow}" for objective in shown}
    rows = entries([point for point in points if point.on_front or not front_only], heads)
    merged = [entry.point for entry in rows]
    numbers = [dict(zip(COUNTS + COSTS, _numbers(point), strict=True)) for point in merged]
    titles = [_title(entry.title, point) for entry, point in zip(rows, merged, strict=True)]
    layouts = [
        Layout(COUNTS + COSTS),
        Layout(COUNTS),
        Layout(COUNTS, stacked=True),
        Layout(COUNTS, stacked=True, brief=frozenset(besides)),
    ]

    def beside(layout: Layout) -> list[int]:
        return [max([3, len(name), *(len(row[name]) for row in numbers)]) for name in layout.names]

    layout = choose_layout(layouts, merged, heads, beside, titles, width)
    table = empty_table(title, layout, merged, heads, room(layout, merged, heads, beside(layout), width))
    for name, number in zip(layout.names, beside(layout), strict=True):
        table.add_column(name, justify="right", min_width=number, overflow="fold")
    for point, name, row in zip(merged, titles, numbers, strict=True):
        cells = [layout.cell(point.scores[each], each) for each in heads]
        texts = ["*" if point.on_front else "", name, *cells, *(row[each] for each in layout.names)]
        table.add_row(*map(Text, texts), style="" if point.on_front else "dim")
    if base and any(name in base for name in heads):
        cells = [f"{base[name]:z.3f}" if name in base else "" for name in heads]
        table.add_row(*map(Text, ["", BASE, *cells, *("" for _ in layout.names)]), style="dim")
    notes = _notes(rows, shown, layout)
    if compared := [each.name for each in shown if each.name in besides]:
        notes.append(f"{listed(compared)}: for comparison; no part in * and P")
    means = {name: [point.scores[name].mean for point in points] for name in heads}
    notes[:0] = filter(None, (say(shown, means, base or {}) for say in (nothing_learned, all_alike)))
    table.caption = Text("\n".join(notes))
    return table


def _title(title: str, point: FrontierPoint) -> str:
    excluded = excluded_text(point.excluded)
    return f"{title} ({excluded})" if excluded else title


def _numbers(point: FrontierPoint) -> tuple[str, str, str, str]:
    return percent_text(point.p_front), str(point.seeds), _short(point.tokens), _short(point.seconds)


def choose_layout(
    layouts: Sequence[Layout],
    points: Sequence[FrontierPoint],
    heads: Mapping[str, str],
    beside: Callable[[Layout], Sequence[int]],
    titles: Sequence[str],
    width: int,
) -> Layout:
    """Return the first layout that leaves room for the names of configurations, else the last.

    Args:
        heads: objective -> the text above its column.
        beside: the widths of the columns besides names and scores.
        titles: of the configurations.
        width: of the terminal.
    """
    wanted = min(ROOM, max(map(len, [NAMES, *titles])))
    fitting = (each for each in layouts if room(each, points, heads, beside(each), width) >= wanted)
    return next(fitting, layouts[-1])


def room(
    layout: Layout, points: Sequence[FrontierPoint], heads: Mapping[str, str], beside: Sequence[int], width: int
) -> int:
    """Return how many characters of a terminal's line are left for the names of configurations."""
    columns = [1, *(number for _, number in layout.columns(points, heads).values()), *beside]
    return width - sum(columns) - GAP * len(columns) - 1


def empty_table(
    title: str, layout: Layout, points: Sequence[FrontierPoint], heads: Mapping[str, str], names: int
) -> Table:
    """Return a table with columns for a mark, names of at most `names` characters, and scores."""
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("", width=1)
    table.add_column(NAMES, overflow="fold", max_width=max(names, len(NAMES)))
    for head, number in layout.columns(points, heads).values():
        table.add_column(Text(head), justify="right", overflow="fold", min_width=min(number, NARROWEST))
    return table


def _notes(rows: Sequence[Entry], shown: Sequence[Objective], layout: Layout) -> list[str]:
    """Explain those signs that the table contains."""
    points = [entry.point for entry in rows]
    notes = [
        "* on the frontier of the means; [low, high] is the 95 % interval of the mean over n seeds",
        "P: how probable it is that no other configuration dominates it (as good in all objectives, better in at least"
        " one); it allows for noise, so a row without a star may have a higher P than one with a star",
    ]
    if any(len(entry.members) > 1 for entry in rows):
        rest = " and its cost the lowest" if COSTS[0] in layout.names else ""
        notes.append(f"equal means share a row: its interval is the widest of them, its P the highest{rest}")
        notes.append("method (n) in such a row: n configurations of the method")
    if COSTS[0] in layout.names:
        notes.append(
            "tokens (trained on, or of reference passes) and s (seconds) are per trial, with what it is built on"
        )
    bases = {point.scores[objective.name].basis for point in points for objective in shown if point.seeds}
    if "none" in bases:
        notes.append("[-] one seed: no interval")
    if any(0.4 <= point.p_front < 0.995 for point in points):
        notes.append("P is good to about .1 (analysis/COVERAGE.md)")
    if max((point.seeds for point in points), default=0) == VERDICT_SEEDS - 1:
        notes.append(TWO_SEEDS)
    if any(_leaves_range(point.scores[objective.name], objective) for point in points for objective in shown):
        notes.append("a t-interval may leave the range of its score, such as 0 to 1 for a share, or below 0 for a loss")
    if "questions" in bases:
        notes.append("[low, high]q one seed: the interval is about other questions, not other seeds (Wilson)")
    return notes


def _leaves_range(estimate: Estimate, objective: Objective) -> bool:
    """Return whether an interval leaves the range of its score, or [0, 1] if the score may be a share."""
    low, high = objective.ends
    if (objective.low, objective.high) == (None, None) and 0 <= estimate.mean <= 1:
        low, high = 0.0, 1.0
    return estimate.low < low or estimate.high > high


def folded(text: str, width: int) -> str:
    """Break a name into lines of at most `width` characters: at spaces, after underscores, or else anywhere."""
    lines = [""]
    for piece in re.findall(r"[^_ ]+[_ ]?|[_ ]", text):
        for start in range(0, len(piece), width):
            part = piece[start : start + width]
            if len((lines[-1] + part).rstrip()) <= width:
                lines[-1] += part
            else:
                lines.append(part)
    return "\n".join(line.rstrip() for line in lines)


def cell_text(estimate: Estimate) -> str:
    """Format a mean with its interval, e.g. "0.912 [0.88, 0.94]"."""
    if math.isnan(estimate.mean):
        return "no result"
    ends = "-" if math.isnan(estimate.low) else f"{estimate.low:z.2f}, {estimate.high:z.2f}"
    return f"{estimate.mean:z.3f} [{ends}]{'q' if estimate.basis == 'questions' else ''}"


def percent_text(share: float) -> str:
    """Format a probability as whole percent; "-" for nan, and 0 % and 100 % only for certainty."""
    if math.isnan(share):
        return "-"
    return ">99%" if 0.995 <= share < 1 else "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _short(number: float) -> str:
    """Format a number to two or three significant digits, e.g. "3.1", "52", "410k", "1.2M"; "-" for nan."""
    if math.isnan(number):
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.2g}" if number < 10 else f"{number:.0f}"
