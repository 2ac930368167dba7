"""SafeMERGE: after plain fine-tuning, merge an aligned adapter into layers that left the directions of alignment.

Shape legend: R rank of an adapter, I and O in- and output features of a linear layer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy
from trainables.method import Method, Step, Trained
from trainables.methods.alignment_only import AlignmentOnly
from trainables.methods.plain import Plain
from trainables.projections import Factors, cosine, joined, project_weights


@dataclass(frozen=True, kw_only=True)
class SafeMerge(Method):
    """Plain fine-tuning, then merge in the adapter of `alignment_only` where the trained one deviates.

        L = CE(task); then dW <- (1 - w) dW + w dW_A where cos(C dW, dW) < tau, with C = V V^T / ||V||_F

    dW_A is the change that the alignment-only adapter makes; V is the change of alignment tuning in a layer. Every
    configuration starts from a fresh copy of the same trained adapter, so that all of them cost one training.

    Coefficients:
        w: share of the aligned adapter in a merged layer.
        tau: layers with a smaller cosine are merged. With 1, all are, which is merging without selection.
        merge: "interpolate" is the equation, exactly: ranks add up. "add" keeps dW and adds w dW_A; with `tau = 1` this
            is RESTA (Bhardwaj et al. 2024), with dW_A as its safety vector. "factors" sums sqrt(1 - w) and sqrt(w)
            times the factors, A and B separately, like PEFT's linear merging: the rank stays, and cross terms of both
            adapters appear.
        direction: V is dW_A ("prior"), or the base model minus the pretrained model it was tuned from ("pretrained", as
            in the paper; the setting must name that one).

    `w = 0` is plain fine-tuning. The published definition merges factors and rounds cosines to five decimals, as the
    authors' code does.
    """

    kind = "after training"
    as_published = (("merge", "factors"),)
    equation = "L = CE(task); then dW <- (1 - w) dW + w dW_A where cos(C dW, dW) < tau, with C = V V^T / ||V||_F"
    source = (
        "Djuhera et al. 2025, arXiv:2503.17239, and its code; C from Hsu et al. 2024, arXiv:2405.16833, eq. 3; RESTA:"
        " Bhardwaj et al. 2024, arXiv:2402.11746"
    )
    evidence = (
        "fewer harmful replies than other defenses on four models, at little or no cost in utility (arXiv:2503.17239);"
        " RESTA: harm 18.6 -> 5.1 % with adapters (arXiv:2402.11746)"
    )

    w: float = Range(0.5, low=0.1, high=0.9, at_most=1.0, neutral=0.0)
    tau: float = Range(0.5, low=0.05, high=0.95, at_most=1.0)
    merge: Literal["interpolate", "add", "factors"] = Choice("interpolate", "interpolate", "add", "factors")
    direction: Literal["prior", "pretrained"] = Choice("prior", "prior", "pretrained")

    @property
    def priors(self) -> tuple[Method, ...]:
        return (AlignmentOnly(definition=self.definition),)

    @property
    def needs_pretrained(self) -> bool:
        return self.direction == "pretrained"

    @property
    def trained_as(self) -> Method:
        return Plain(definition=self.definition)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        if self.w == 0:
            return trained.adapter
        projected = project_weights(trained.adapter, trained.directions)
        cosines = [cosine(old, new.B_OR) for old, new in zip(trained.adapter, projected, strict=True)]
        if self.definition == "published":
            cosines = [round(value, 5) for value in cosines]
        layers = zip(trained.adapter, trained.priors[0], cosines, strict=True)
        return [self._merged(own, aligned) if value < self.tau else own for own, aligned, value in layers]

    def _merged(self, own: Factors, aligned: Factors) -> Factors:
        """Merge one layer's adapters."""
        if self.merge == "factors":
            shares = [math.sqrt((1 - self.w) * own.scale), math.sqrt(self.w * aligned.scale)]
            A_RI = shares[0] * own.A_RI + shares[1] * aligned.A_RI
            return Factors(A_RI, shares[0] * own.B_OR + shares[1] * aligned.B_OR, 1.0)
        kept = own if self.merge == "add" else own.times(1 - self.w)
        return joined(kept, aligned.times(self.w))
