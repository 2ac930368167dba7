"""`selgen --help` as a table of contents: where to start, then the commands by group, one line each."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

FIRST = (
    ("selgen sweep run quickstart", "four methods on a nano world, in minutes"),
    ("selgen report quickstart", "a page with its frontier, figures and tables"),
    ("selgen sweep plan FILE.py", "what a sweep of your own would cost"),
)
GROUPS = (
    ("Run sweeps", ("sweep", "reproduce")),
    ("Read results", ("frontier", "report", "compare", "heatmap", "notebook", "ui")),
    ("Use what was trained", ("choose", "export", "score")),
    ("See what there is", ("methods", "settings", "data")),
    ("Grade with a judge", ("judge", "import")),
)


class Contents(TyperGroup):
    """The commands of `selgen`, which `--help` lists by `GROUPS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands in the order of their groups; those without a group come last."""
        grouped = [name for _, names in GROUPS for name in names]
        return [*grouped, *(name for name in self.commands if name not in grouped)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write where to start, then the groups."""
        with formatter.section("Start here"):
            formatter.write_dl(FIRST)
        rest = [name for name in self.list_commands(ctx) if not any(name in names for _, names in GROUPS)]
        longest = max(map(len, self.commands))
        for title, names in (*GROUPS, *((("Others", tuple(rest)),) if rest else ())):
            rows = [(name.ljust(longest), self.commands[name].get_short_help_str(limit=90)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)
