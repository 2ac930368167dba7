"""The two controls of every sweep: plain fine-tuning stopped early, and its adapter scaled down.

Both cost an evaluation and no training, and both trade the task for alignment: a method that does not beat them is not
worth its cost (`analysis.findings.controls` decides that).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.space import MethodSpace, grid

SCALES = (0.2, 0.4, 0.6, 0.8)  # of the adapter; 0 is the base model, 1 the whole of plain fine-tuning
CHECKPOINTS = (0.125, 0.25, 0.375, 0.5, 0.75)  # shares of the updates


def control_spaces(steps: int, spaces: Sequence[MethodSpace]) -> tuple[MethodSpace, ...]:
    """Return the controls that a sweep over `spaces` lacks, for a training of `steps` updates."""
    checkpoints = sorted({round(share * steps) for share in CHECKPOINTS} - {0, steps})
    knobs: dict[str, Sequence[Any]] = {"adapter_scale": SCALES, "checkpoint_step": checkpoints}
    missing = {knob: list(values) for knob, values in knobs.items() if values and not _has(spaces, knob)}
    return tuple(grid("plain", **{knob: values}) for knob, values in missing.items())


def _has(spaces: Sequence[MethodSpace], knob: str) -> bool:
    return any(space.method == "plain" and knob in space.knob_names for space in spaces)
