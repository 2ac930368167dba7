"""KL penalty: stay close to the base model on the proxy rows."""

from dataclasses import dataclass

from torch import Tensor

from trainables.losses import cross_entropy, kl_to_reference
from trainables.method import Method, Range, Step


@dataclass(frozen=True, kw_only=True)
class KLPenalty(Method):
    """The task loss plus the divergence from the frozen base model on alignment rows.

        L = CE(task) + beta * KL(policy || reference on alignment)

    The mean is over response tokens only. The alignment rows are not imitated: only their contexts matter.

    Coefficients:
        beta: weight of the penalty. The study swept 1e-4 to 1e4 with prompt and padding in the mean, which makes its
            beta about ten times weaker than this one.

    `beta = 0` is plain fine-tuning.
    """

    streams = ("task", "alignment")
    reference = ("alignment",)
    alive = ("kl",)
    equation = "L = CE(task) + beta * KL(policy || reference on alignment)"
    source = "Azarbal et al. 2025, Selective Generalization; Ziegler et al. 2019, arXiv:1909.08593"

    beta: float = Range(1.0, low=0.03, high=30.0, log=True, neutral=0.0)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        kl = kl_to_reference(step.policy["alignment"], step.reference["alignment"])
        step.record(kl=kl)
        return (cross_entropy(step.policy["task"]) + self.beta * kl,)
