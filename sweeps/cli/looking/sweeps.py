"""What `selgen sweep list` prints: the sweeps of the catalog."""

from __future__ import annotations

import sys

from rich.console import Console

from settings import catalog
from sweeps.cli.looking.described import show_described
from sweeps.cli.say import Say
from sweeps.find import catalog_names, load_sweep
from sweeps.sweep import Sweep


def show_sweeps(console: Console) -> None:
    """Print the sweeps of the catalog: what each asks, on which settings, with how many methods."""
    rows = [_row(name, load_sweep(name)) for name in catalog_names()]
    show_described(console, "sweeps", ("name", "scale", "settings", "methods", "what"), rows)
    Say(console).note("its methods, trials and cost: selgen sweep plan NAME")


def _row(name: str, sweep: Sweep) -> tuple[str, ...]:
    """Return the cells of one sweep; its module's first sentence describes it."""
    scales = dict.fromkeys(ref.options.get("scale") or next(iter(catalog.scales(ref.name))) for ref in sweep.settings)
    settings = dict.fromkeys(ref.name for ref in sweep.settings)
    methods = len({space.method for space in sweep.spaces})
    what = (sys.modules[f"sweeps.catalog.{name}"].__doc__ or "").partition("\n")[0]
    return name, ", ".join(scales), ", ".join(settings), str(methods), what
