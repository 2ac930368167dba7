"""Does a method beat what costs nothing? Compare its frontier with plain checkpoints and scaled adapters.

Stopping early and scaling down also trade the task for alignment. A method pushes the frontier only if it beats both.
A method that is mixed with the base model at decoding must also beat plain fine-tuning mixed in the same way, if the
sweep has it. Every front includes the base model and full plain fine-tuning: all share these ends, so the ends decide
nothing.

Shape legend: C configurations, M objectives, K points without noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.findings.arms import Control, Named, control_of, definition_of, families, is_mixed, is_plain
from analysis.statistics.arrays import Floats
from analysis.statistics.bootstrap import Bootstrap
from analysis.statistics.compare import Difference, Front, adjust, compare_fronts

CONTROLS: Mapping[Control, str] = {
    "checkpoint": "the checkpoints of plain fine-tuning",
    "scale": "the plain adapter scaled down",
    "mix": "plain fine-tuning mixed with the base model",
}
ALWAYS: frozenset[Control] = frozenset({"checkpoint", "scale"})  # what every method has to beat


@dataclass(frozen=True)
class ControlVerdict:
    """A method compared with the controls that the sweep has.

    Attributes:
        method: its name.
        against: control -> hypervolume of the method minus that of the control.
    """

    method: str
    against: Mapping[Control, Difference]

    @property
    def beats(self) -> tuple[Control, ...]:
        """The controls that the method beats, significantly after adjustment."""
        return tuple(name for name, pair in self.against.items() if pair.clear and pair.statistic.estimate > 0)

    @property
    def loses(self) -> tuple[Control, ...]:
        """The controls that beat the method."""
        return tuple(name for name, pair in self.against.items() if pair.clear and pair.statistic.estimate < 0)

    @property
    def pushes(self) -> bool:
        """Whether the method pushes the frontier: it beats both controls, and also the mix if it is mixed itself."""
        return ALWAYS | set(self.against) <= set(self.beats)

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        if not self.against:
            return f"{self.method}: no control has been evaluated, so its worth is unknown"
        parts = []
        for name, pair in self.against.items():
            volume = pair.statistic
            size = f"{volume.estimate:+.3f} [{volume.low:+.3f}, {volume.high:+.3f}]"
            word = (
                "beats" if name in self.beats else "loses to" if name in self.loses else "is not distinguishable from"
            )
            if not pair.clear and not volume.low <= 0 <= volume.high and math.isfinite(pair.adjusted):
                size += f", {pair.p_text}"
            parts.append(f"{word} {CONTROLS[name]} ({size})")
        push = "pushes the frontier" if self.pushes else "is not shown to push the frontier"
        return f"{self.method} {push}: it {' and '.join(parts)}"


def compare_with_controls(
    bootstrap: Bootstrap,
    configurations: Sequence[Named],
    base_M: ArrayLike | None,
    worst_corner_M: ArrayLike,
) -> list[ControlVerdict]:
    """Compare every method with every control of its definition, adjusting p-values within each control (Holm).

    To push the frontier a method must beat both controls. A false alarm is rare, because the method would have to look
    better twice by chance. So it suffices to adjust for each control separately (Berger 1982, "Multiparameter
    hypothesis testing and acceptance sampling").

    Args:
        configurations: [C], the rows of the bootstrap.
        base_M: gains of the untouched base model; None if unknown.
        worst_corner_M: the corner from which the hypervolume is measured, in gains.
    """
    anchors_KM = np.empty((0, bootstrap.mean_CM.shape[1])) if base_M is None else np.atleast_2d(base_M)
    fronts: dict[str, Front] = {}
    pairs: list[tuple[str, str]] = []
    family_C = families(configurations)
    names = sorted(name for name in set(family_C.tolist()) if not is_plain(name))
    for definition in sorted({definition_of(name) for name in names}):
        controls, methods = _fronts(configurations, definition, np.asarray(anchors_KM))
        fronts |= controls | methods
        mixed = set(family_C[[is_mixed(row) for row in configurations]].tolist())
        pairs += [
            (name, control)
            for name in methods
            for control in controls
            if name in mixed or control.removesuffix(definition) in ALWAYS
        ]
    compared = compare_fronts(bootstrap, fronts, worst_corner_M, pairs)
    by_pair: dict[tuple[str, Control], Difference] = {}
    for control in CONTROLS:
        rows = [difference for difference in compared if difference.second.partition(" ")[0] == control]
        by_pair |= {(row.first, control): row for row in adjust(rows)}
    return [
        ControlVerdict(name, {control: by_pair[name, control] for control in CONTROLS if (name, control) in by_pair})
        for name in names
    ]


def _fronts(
    configurations: Sequence[Named], definition: str, anchors_KM: Floats
) -> tuple[dict[str, Front], dict[str, Front]]:
    """Return the fronts of the controls and of the methods of one definition, which share plain fine-tuning."""
    ours_C = np.array([definition_of(row.method) == definition for row in configurations], dtype=bool)
    kinds = [control_of(configuration) for configuration in configurations]
    plain_C = ours_C & np.array(
        [is_plain(row.method) and kind is None for row, kind in zip(configurations, kinds, strict=True)], dtype=bool
    )
    controls = {}
    for name in CONTROLS:
        rows_C = ours_C & np.array([kind == name for kind in kinds], dtype=bool)
        if rows_C.any():
            controls[f"{name}{definition}"] = Front(rows_C | plain_C, anchors_KM, plain_C)
    family_C = families(configurations)
    methods = {
        name: Front((family_C == name) | plain_C, anchors_KM, plain_C)
        for name in sorted(set(family_C[ours_C].tolist()))
        if not is_plain(name)
    }
    return controls, methods
