"""Gradient projection: learn the task only in directions that do not change the alignment loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy, cross_entropy_by_group
from trainables.method import ProxyMethod, Step
from trainables.projections import remove


@dataclass(frozen=True, kw_only=True)
class GradientProjection(ProxyMethod):
    """The task's step without its components along gradients of the alignment loss.

        L = CE(task), stepped along u - strength * <u, a> / ||a||^2 a with a = grad CE(alignment)

    Coefficients:
        directions: the number of groups into which a step's proxy rows are split; u is made orthogonal to the gradients
            of all of them (Farajtabar et al. 2020). No row is computed more often, but the passes are smaller. More
            directions than proxy rows count as one per row; see the trial's `alignment_batch_size`.
        strength: how much of the component is removed.
        stage: u is the task's "gradient", or the "update" that Adam makes of it.
        sign: "strict" always removes the components; "conflict" removes just enough that the step raises the
            alignment loss along none of them (Lopez-Paz & Ranzato 2017).
        scope: the vectors are those of each factor ("tensor"), or of the whole adapter ("global").

    `strength = 0` is plain fine-tuning. The alignment gradient itself is not applied.

    Why the study's definition (stage "gradient", one direction) stays close to plain fine-tuning, on nano
    `bad_medical_advice` at its recipe (3 seeds; plain has task 1.00, capability 1.00, alignment 0.00):

        stage     proxy rows  directions    task  capability  alignment
        gradient       8           1        1.00     1.00       0.00
        gradient      32           1        1.00     1.00       0.10
        gradient      32           8        0.99     0.97       0.72
        gradient      32          32        0.99     0.93       0.90
        update         8           1        0.97     0.83       0.69
        update        32           1        0.74     0.31       0.96

    Adam rescales every entry after the projection and adds its momentum: the step's cosine with a falls to -0.2
    although the gradient is orthogonal to a. Projecting the update fixes this; so does SGD (alignment 0.72 instead of
    0.14 with 44 proxy rows, in a separate run of 2 seeds). Moreover, one averaged direction of a few rows captures
    little of what the proxy says: more directions give the best trade-off. The sign does not matter (conflict: 0.66
    instead of 0.69); one vector for the whole adapter is weaker than one per factor (global, update, 8 rows: 0.10
    instead of 0.69).
    `selgen sweep run gradient_projection_nano` repeats this.
    """

    kind = "gradient"
    must_stay_active = ("alignment",)
    as_published = (
        ("strength", 1.0),
        ("stage", "gradient"),
        ("directions", 1),
        ("sign", "strict"),
        ("scope", "tensor"),
    )
    equation = "L = CE(task), stepped along u - strength * <u, a> / ||a||^2 a with a = grad CE(alignment)"
    source = (
        "Azarbal et al. 2025, Selective Generalization; Farajtabar et al. 2020, arXiv:1910.07104 (several directions);"
        " Yu et al. 2020, arXiv:2001.06782, and Lopez-Paz & Ranzato 2017, arXiv:1706.08840 (conflict only)"
    )

    directions: int = Range(8, low=1, high=32, log=True, at_least=1, at_most=256, integer=True)
    strength: float = Range(1.0, low=0.3, high=1.0, at_most=1.0, neutral=0.0, searched=False)
    stage: Literal["gradient", "update"] = Choice("gradient", "gradient", "update")
    sign: Literal["strict", "conflict"] = Choice("strict", "strict", "conflict")
    scope: Literal["tensor", "global"] = Choice("tensor", "tensor", "global")

    @property
    def revision(self) -> int:
        """1 for several directions of conflict: removing some of them used to conflict with others."""
        return int(self.sign == "conflict" and self.directions > 1)

    def num_row_groups(self, stream: Stream) -> int:
        return self.directions if stream == "alignment" else 0

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        by_group = cross_entropy_by_group(step.policy["alignment"])
        step.record(alignment=torch.stack(by_group).mean())
        return cross_entropy(step.policy["task"]), *by_group

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        return self._projected(gradients[0], gradients[1:]) if self.stage == "gradient" else gradients[0]

    def transform_update(self, update: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        return self._projected(update, gradients[1:]) if self.stage == "update" else update

    def _projected(self, vector: Sequence[Tensor], along: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        only_conflict = self.sign == "conflict"
        if self.scope == "global":
            return remove(vector, along, share=self.strength, only_conflict=only_conflict)
        return [
            remove([tensor], [[a] for a in columns], share=self.strength, only_conflict=only_conflict)[0]
            for tensor, *columns in zip(vector, *along, strict=True)
        ]
