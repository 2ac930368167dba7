"""The two controls of every sweep: plain fine-tuning stopped early, and its adapter scaled down.

Both cost an evaluation, no training, and both trade the task for alignment: a method that does not beat them is not
worth its cost (`analysis.findings.controls` gives that verdict).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.space import MethodSpace, grid

SCALES = (0.2, 0.4, 0.6, 0.8)  # of the adapter; 0 is the base model, 1 the whole of plain fine-tuning
CHECKPOINTS = (0.125, 0.25, 0.375, 0.5, 0.75)  # shares of the updates


def control_spaces(steps: int, given: Sequence[MethodSpace]) -> tuple[MethodSpace, ...]:
    """The controls that a sweep over `given` lacks, for a training of `steps` updates."""
    checkpoints = sorted({round(share * steps) for share in CHECKPOINTS} - {0, steps})
    axes: dict[str, Sequence[Any]] = {"adapter_scale": SCALES, "checkpoint_step": checkpoints}
    lacking = {axis: list(values) for axis, values in axes.items() if values and not _has(given, axis)}
    return tuple(grid("plain", **{axis: values}) for axis, values in lacking.items())


def _has(given: Sequence[MethodSpace], axis: str) -> bool:
    return any(space.method == "plain" and axis in space.axis_names for space in given)
