"""The two controls of every sweep: plain fine-tuning stopped early, and its adapter scaled down.

Both cost an evaluation but no training besides that of plain fine-tuning, where their curves end, and both trade the
task for alignment: a method that does not beat them is not worth its cost (`analysis.findings.controls` decides that).
Methods in the published definition have controls in that definition, because the whole training differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from settings.common.errors import UserError
from sweeps.options import OPTIONS
from sweeps.space import MethodSpace, Values, grid
from trainables.coefficients import RangeSpec
from trainables.trial import TrialConfig

SCALES = (0.2, 0.4, 0.6, 0.8)  # of the adapter; 0 is the base model, 1 is plain fine-tuning
PRINCIPLED = "principled"
ENDS = (0.0, 1.0)  # of a knob's range: what a cheap front trains first
BLENDS = (0.2, 0.4, 0.6, 0.8)  # shares of the first of two adapters
CHECKPOINTS = (0.125, 0.25, 0.375, 0.5, 0.75)  # shares of the updates


def control_spaces(steps: int, spaces: Sequence[MethodSpace]) -> tuple[MethodSpace, ...]:
    """Return the readouts of plain fine-tuning that a sweep over `spaces` lacks, for a training of `steps` updates."""
    checkpoints = sorted({round(share * steps) for share in CHECKPOINTS} - {0, steps})
    knobs: dict[str, Sequence[Any]] = {"adapter_scale": SCALES, "checkpoint_step": checkpoints}
    controls = []
    for definition in sorted({name for space in spaces for name in space.definitions} or {PRINCIPLED}):
        plain = [space for space in spaces if space.method == "plain" and definition in space.definitions]
        fixed = {} if definition == PRINCIPLED else {"definition": definition}
        controls += [
            grid("plain", **fixed, **{knob: list(values)})
            for knob, values in knobs.items()
            if values and not any(knob in space.knob_names for space in plain)
        ]
    return tuple(controls)


def whole_trainings(
    spaces: Sequence[MethodSpace], trial_of: Callable[[MethodSpace, Values], TrialConfig]
) -> tuple[MethodSpace, ...]:
    """Return the plain trainings that readouts in `spaces` are read from, where curves end, but that spaces lack.

    They are trained anyway.

    Args:
        trial_of: builds a configuration's trial, with any seed.
    """
    listed, read = set(), {}
    for space in spaces:
        if space.method != "plain" or space.ranges:
            continue
        for values in space.points or ({},):
            trial = trial_of(space, values)
            listed.add(trial.configuration_id)
            if trial.is_readout:
                readout = space.knobs(values).keys() - set(OPTIONS)
                whole = {name: value for name, value in {**space.fixed, **values}.items() if name not in readout}
                read[trial.full_training.configuration_id] = MethodSpace("plain", points=(whole,))
    return tuple(space for key, space in read.items() if key not in listed)


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
