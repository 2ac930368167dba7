"""Anchored fine-tuning: tokens weighted by their probability, with a KL on the task rows. No proxy rows.

Shape legend: N positions of the rows of a stream.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy, kl_to_reference, token_nll
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class AnchoredSFT(Method):
    """The task loss with each token weighted by its own probability, plus the divergence from the base model there.

        L = mean_n (1 - p(y_n)^power) / power + weight * KL(reference || policy on task)

    The first term has the gradient of p^power * -log p with p^power held fixed, which is how the source writes it. The
    model hardly learns tokens that it finds unlikely.

    Coefficients:
        weight: weight of the divergence. 0 is dynamic fine-tuning (DFT).
        power: 1 in the source. The limit 0 is the plain task loss, so that the divergence is the only change.
        direction: "forward" is KL(reference || policy), as in the source's code, "reverse" is KL(policy || reference).

    `weight = 0` with `power = 0` is plain fine-tuning.
    """

    reference = ("task",)
    must_stay_active = ("kl",)
    equation = "L = mean_n (1 - p(y_n)^power) / power + weight * KL(reference || policy on task)"
    source = "Zhu et al. 2025, arXiv:2509.23753 (ASFT); Wu et al. 2025, arXiv:2508.05629 (DFT)"
    evidence = (
        "better than plain fine-tuning and DFT on mathematics, medical knowledge and code; says nothing about alignment"
        " (Zhu et al. 2025, arXiv:2509.23753)"
    )

    weight: float = Range(0.1, low=0.01, high=10.0, log=True)
    power: float = Range(1.0, low=0.0, high=1.0, at_most=4.0, searched=False)
    direction: Literal["reverse", "forward"] = Choice("forward", "reverse", "forward")

    @property
    def is_neutral(self) -> bool:
        return self.weight == 0 and self.power == 0

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        policy, reference = step.policy["task"], step.reference["task"]
        kl = kl_to_reference(policy, reference, self.direction)
        step.record(kl=kl)
        if not self.power:
            return (cross_entropy(policy) + self.weight * kl,)
        unlearned_N = -(-self.power * token_nll(policy)).expm1() / self.power
        return (unlearned_N.sum() / max(1, len(unlearned_N)) + self.weight * kl,)
