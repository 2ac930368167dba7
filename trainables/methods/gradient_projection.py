"""Gradient projection: take out of the task gradient what points along the proxy gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainables.losses import cross_entropy
from trainables.method import Choice, ProxyMethod, Range, Step
from trainables.projections import remove


@dataclass(frozen=True, kw_only=True)
class GradientProjection(ProxyMethod):
    """The task gradient without its component along the gradient of the alignment loss.

        L = CE(task), stepped along g - strength * <g, a> / ||a||^2 a with a = grad CE(alignment)

    Coefficients:
        strength: how much of the component is taken out.
        sign: "strict" takes it out always, "conflict" only where a step along g would raise the alignment loss
            (<g, a> < 0).
        scope: the vectors are those of each factor ("tensor"), or of the whole adapter ("global").

    `strength = 0` is plain fine-tuning. The alignment gradient itself is not applied.
    """

    num_losses = 2
    alive = ("alignment",)
    as_published = (("strength", 1.0), ("sign", "strict"), ("scope", "tensor"))
    equation = "L = CE(task), stepped along g - strength * <g, a> / ||a||^2 a with a = grad CE(alignment)"
    source = "Azarbal et al. 2025, Selective Generalization; Yu et al. 2020, arXiv:2001.06782 (conflict only)"

    strength: float = Range(1.0, low=0.0, high=1.0, neutral=0.0)
    sign: Literal["strict", "conflict"] = Choice("strict", "strict", "conflict")
    scope: Literal["tensor", "global"] = Choice("tensor", "tensor", "global")

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        alignment = cross_entropy(step.policy["alignment"])
        step.record(alignment=alignment)
        return cross_entropy(step.policy["task"]), alignment

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        task, along = gradients
        pieces = [(task, along)] if self.scope == "global" else [([g], [a]) for g, a in zip(task, along, strict=True)]
        kept = [remove(g, a, share=self.strength, only_conflict=self.sign == "conflict") for g, a in pieces]
        return [tensor for piece in kept for tensor in piece]
