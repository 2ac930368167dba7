"""Safe LoRA: after plain fine-tuning, project the adapter onto the directions that alignment tuning changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy
from trainables.method import Method, Step, Trained
from trainables.methods.alignment_only import AlignmentOnly
from trainables.methods.plain import Plain
from trainables.projections import Factors, cosine, project_weights


@dataclass(frozen=True, kw_only=True)
class SafeLoRA(Method):
    """Plain fine-tuning, then replace B by C B in the layers where this changes the adapter most.

        L = CE(task); then B <- C B with C = V V^T / ||V||_F, where cos(C B A, B A) is smallest

    V is the change that alignment tuning made in a layer's weights. Every configuration starts from a fresh copy of the
    same trained adapter, so that all of them cost one training. (The study projected one object repeatedly.)

    Coefficients:
        share: share of the adapted layers to project, those with the smallest cosines first (in the study, their
            number n, of 252 for Qwen3-8B).
        select: "number" projects the `share`, "threshold" every layer with a cosine of at most `threshold`.
        threshold: the largest cosine of a layer to project, with select "threshold".
        direction: V is the change that the alignment-only adapter makes ("prior"; products of its rank only), or the
            base model minus the pretrained model it was tuned from ("pretrained"; the setting must name that one).

    `share = 0` is plain fine-tuning. C is not a projector: it also rescales B, as in the original. The published
    definition rounds cosines to five decimals, so that ties in the last place are projected together.
    """

    kind = "after training"
    equation = "L = CE(task); then B <- C B with C = V V^T / ||V||_F, where cos(C B A, B A) is smallest"
    source = "Hsu et al. 2024, arXiv:2405.16833; Azarbal et al. 2025, Selective Generalization"

    share: float = Range(0.5, low=0.05, high=1.0, at_most=1.0, neutral=0.0)
    select: Literal["number", "threshold"] = Choice("number", "number", "threshold")
    threshold: float = Range(0.5, low=0.0, high=1.0, at_least=-1.0, at_most=1.0, searched=False)
    direction: Literal["prior", "pretrained"] = Choice("prior", "prior", "pretrained")

    @property
    def priors(self) -> tuple[Method, ...]:
        return (AlignmentOnly(definition=self.definition),) if self.direction == "prior" else ()

    @property
    def needs_pretrained(self) -> bool:
        return self.direction == "pretrained"

    @property
    def trained_as(self) -> Method:
        return Plain(definition=self.definition)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        adapter, directions = trained.adapter, trained.directions
        projected = project_weights(adapter, directions)
        cosines = [cosine(old, new.B_OR) for old, new in zip(adapter, projected, strict=True)]
        if self.definition == "published":
            cosines = [round(value, 5) for value in cosines]
        limit = self.threshold
        if self.select == "number":
            number = round(self.share * len(cosines))
            limit = sorted(cosines)[number - 1] if number else -float("inf")
        return [
            replace(old, B_OR=new.B_OR) if value <= limit else old
            for old, new, value in zip(adapter, projected, cosines, strict=True)
        ]
