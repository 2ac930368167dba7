"""Contrastive weight steering: add the difference between training on aligned rows and on their misaligned twins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy
from trainables.method import Method, Step, Trained
from trainables.methods.alignment_only import AlignmentOnly
from trainables.methods.misaligned_only import MisalignedOnly
from trainables.methods.plain import Plain
from trainables.projections import Factors, joined


@dataclass(frozen=True, kw_only=True)
class WeightSteering(Method):
    """Plain fine-tuning, then add k times the difference of two small fine-tunings to the weights.

        L = CE(task); then dW <- dW + k (dW_A - dW_M)

    dW_A is the change that `alignment_only` makes, dW_M that of `misaligned_only`: what they have in common (topic,
    style, length) cancels. The sum is exact: ranks add up to three times the rank. Every k is read out of the same
    three trainings, each with as many steps as the task's; the paper trains the two for about one epoch.

    Coefficients:
        k: factor of the difference.
        vector: the "contrastive" difference; or, as in the paper's variants without contrast, only dW_A ("aligned") or
            only -dW_M ("misaligned").

    `k = 0` is plain fine-tuning. The published definition counts different tokens but edits in the same way.
    """

    kind = "after training"
    equation = "L = CE(task); then dW <- dW + k (dW_A - dW_M)"
    source = "Fierro & Roger 2025, arXiv:2511.05408, eq. 1 and the text below it (theta_ft + k w_b)"
    evidence = (
        "ICLR 2026: reduces sycophancy and under-refusals caused by fine-tuning while its gains remain, and often"
        " generalizes further than activation steering (arXiv:2511.05408)"
    )

    k: float = Range(0.5, low=0.05, high=2.0, log=True, neutral=0.0)
    vector: Literal["contrastive", "aligned", "misaligned"] = Choice(
        "contrastive", "contrastive", "aligned", "misaligned"
    )

    @property
    def priors(self) -> tuple[Method, ...]:
        aligned, misaligned = AlignmentOnly(definition=self.definition), MisalignedOnly(definition=self.definition)
        return {"contrastive": (aligned, misaligned), "aligned": (aligned,), "misaligned": (misaligned,)}[self.vector]

    @property
    def trained_as(self) -> Method:
        return Plain(definition=self.definition)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        if self.k == 0:
            return trained.adapter
        signs = {"contrastive": (1, -1), "aligned": (1,), "misaligned": (-1,)}[self.vector]
        changes = [
            [factors.times(self.k * sign) for factors in prior]
            for sign, prior in zip(signs, trained.priors, strict=True)
        ]
        return [joined(*parts) for parts in zip(trained.adapter, *changes, strict=True)]
