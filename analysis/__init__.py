"""What it means: tables in, intervals and frontiers out.

from analysis import load

results = load("quickstart")        # from the MLflow store under runs/
results.configurations              # a pandas table: scores with intervals over seeds
results.figure()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.results import SweepResults, load

__all__ = ["SweepResults", "load"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that importing the package stays cheap."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from analysis.results import SweepResults, load

    return {"SweepResults": SweepResults, "load": load}[name]
