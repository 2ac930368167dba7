"""The two controls of every sweep: plain fine-tuning stopped early, and its adapter scaled down.

Both cost an evaluation but no training, and both trade the task for alignment: a method that does not beat them is not
worth its cost (`analysis.findings.controls` decides that). Methods in the published definition have controls in that
definition, because the whole training differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from settings.common.errors import UserError
from sweeps.space import MethodSpace, grid
from trainables.coefficients import RangeSpec

SCALES = (0.2, 0.4, 0.6, 0.8)  # of the adapter; 0 is the base model, 1 is plain fine-tuning
READOUTS = ("checkpoint_step", "adapter_scale", "decoding_mix")  # knobs of evaluation
PRINCIPLED = "principled"
ENDS = (0.0, 1.0)  # of a knob's range: what a cheap front trains first
BLENDS = (0.2, 0.4, 0.6, 0.8)  # shares of the first of two adapters
CHECKPOINTS = (0.125, 0.25, 0.375, 0.5, 0.75)  # shares of the updates


def control_spaces(steps: int, spaces: Sequence[MethodSpace]) -> tuple[MethodSpace, ...]:
    """Return the controls that a sweep over `spaces` lacks, for a training of `steps` updates.

    They are plain fine-tuning, where the curves of its readouts end, and these readouts.
    """
    checkpoints = sorted({round(share * steps) for share in CHECKPOINTS} - {0, steps})
    knobs: dict[str, Sequence[Any]] = {"adapter_scale": SCALES, "checkpoint_step": checkpoints}
    controls = []
    for definition in sorted({name for space in spaces for name in space.definitions} or {PRINCIPLED}):
        plain = [space for space in spaces if space.method == "plain" and definition in space.definitions]
        fixed = {} if definition == PRINCIPLED else {"definition": definition}
        if not any(map(_has_whole_training, plain)):
            controls.append(grid("plain", **fixed))
        controls += [
            grid("plain", **fixed, **{knob: list(values)})
            for knob, values in knobs.items()
            if values and not any(knob in space.knob_names for space in plain)
        ]
    return tuple(controls)


def _has_whole_training(space: MethodSpace) -> bool:
    """Return whether a configuration of a space is no readout of a training but the training itself."""
    if not space.knob_names.isdisjoint(READOUTS) and space.points is None:
        return False
    return any(
        "checkpoint_step" not in knobs and all(knobs.get(name, 1.0) == 1.0 for name in READOUTS[1:])
        for knobs in map(space.knobs, space.points or ({},))
    )


def blends_of(space: MethodSpace) -> MethodSpace:
    """Return the blends between both ends of a searched number. A cheap front reads them out before it trains more.

    Raise UserError for a space that has none: it searches several things, or something without an order.
    """
    specs = list(space.ranges.values())
    if len(specs) != 1 or not isinstance(specs[0], RangeSpec) or space.knob_names:
        raise UserError(
            f'method {space.method!r}: front="cheap" needs one searched number of the method\'s own, as in'
            f" vary({space.method!r}, NAME=between(low, high)); searched here: {', '.join(space.ranges) or 'nothing'}"
        )
    first, second = (space.to_method(space.at([end])).text for end in ENDS)
    fixed = {"definition": space.fixed["definition"]} if "definition" in space.fixed else {}
    return grid("blend", first=first, second=second, w=list(BLENDS), **fixed)
