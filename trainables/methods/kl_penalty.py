"""KL penalty: stay close to the base model on the proxy rows."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy, kl_to_reference
from trainables.method import Positions, ProxyMethod, Step


@dataclass(frozen=True, kw_only=True)
class KLPenalty(ProxyMethod):
    """The task loss plus the divergence from the frozen base model on alignment rows.

        L = CE(task) + beta * KL(policy || reference on alignment)

    The mean is over response tokens, in float32 or wider. The model does not imitate the alignment rows: only their
    contexts matter.

    Coefficients:
        beta: weight of the penalty. The study swept 1e-4 to 1e4.
        direction: "reverse" is KL(policy || reference), "forward" is KL(reference || policy).
        tokens: the positions of the mean: those of the "response", of the whole "text", or of the row "padded" to the
            longest that the trial allows, including padding.

    `beta = 0` is plain fine-tuning. The published definition takes the mean over padded rows, where most positions say
    little, so its beta is weaker by about the ratio of padding (7 to 20 times in the study); padding is on the
    tokenizer's side. Its code silently drops the term if the model has no adapter; here, the trial is invalid if the
    term is not connected.
    """

    reference = ("alignment",)
    must_stay_active = ("kl",)
    as_published = (("direction", "reverse"), ("tokens", "padded"))
    equation = "L = CE(task) + beta * KL(policy || reference on alignment)"
    source = "Azarbal et al. 2025, Selective Generalization; Ziegler et al. 2019, arXiv:1909.08593"
    evidence = (
        "mitigates emergent misalignment well, at the cost of learning on benign tasks (Kaczér et al. 2025,"
        " arXiv:2508.06249, table 1)"
    )

    beta: float = Range(1.0, low=0.03, high=30.0, log=True, neutral=0.0)
    direction: Literal["reverse", "forward"] = Choice("reverse", "reverse", "forward")
    tokens: Literal["response", "text", "padded"] = Choice("response", "response", "text", "padded")

    def positions(self, stream: Stream) -> Positions:
        return self.tokens if stream == "alignment" else super().positions(stream)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        kl = kl_to_reference(step.policy["alignment"], step.reference["alignment"], self.direction)
        step.record(kl=kl)
        return (cross_entropy(step.policy["task"]) + self.beta * kl,)
