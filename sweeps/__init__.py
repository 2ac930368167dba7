"""Which trials run, where, and how the next are chosen.

    from sweeps import run, status, resume

See `sweeps.notebook`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.notebook import resume, run, status

__all__ = ["resume", "run", "status"]


def __getattr__(name: str) -> Any:
    """Import the notebook functions lazily, so that commands that only read stay light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sweeps.notebook import resume, run, status

    return {"resume": resume, "run": run, "status": status}[name]
