"""Two gradients: combine the gradients of the task and of an alignment loss by a rule that handles their conflict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from settings.common.errors import UserError
from settings.setting import Stream
from trainables.coefficients import Choice, Range
from trainables.losses import alignment_loss, cross_entropy
from trainables.method import ProxyMethod, Step
from trainables.projections import conflict_averse, min_norm, remove_conflict


@dataclass(frozen=True, kw_only=True)
class TwoGradients(ProxyMethod):
    """The gradients of the task and of an alignment loss, combined by a rule of multi-task learning.

        L = CE(task), stepped along rule(g, a) with g = grad CE(task), a = weight * grad KL(policy || reference)

        surgery          g - min(0, <g, a>) / ||a||^2 a + a: g without what raises the alignment loss, plus a (SafeGrad)
        min_norm         the shortest vector w g + (1 - w) a, 0 <= w <= 1, which raises neither loss (MGDA)
        conflict_averse  m + c ||m|| v / ||v||, m = (g + a) / 2, v the mix of g and a that is worst for it (CAGrad)

    All factors of the adapter are treated as one vector.

    Coefficients:
        weight: weight of the alignment loss (rho of SafeGrad).
        rule: as above.
        radius: c of CAGrad. 0 is the mean of both gradients; near 1, the rule is nearly MGDA.
        alignment: the loss whose gradient is a: the divergence from the base model, "kl", as in SafeGrad, or
            "cross_entropy" on the alignment rows.

    `weight = 0` is plain fine-tuning. min_norm needs the cross-entropy: at the start, the KL has no gradient, so
    the shortest vector is 0 and nothing is ever learned. This combination is refused.
    """

    kind = "gradient"
    reference = ("alignment",)
    must_stay_active = ("alignment",)
    equation = (
        "L = CE(task), stepped along rule(g, a) with g = grad CE(task), a = weight * grad KL(policy || reference)"
    )
    source = (
        "Yi et al. 2025, arXiv:2508.07172 (SafeGrad); Sener & Koltun 2018, arXiv:1810.04650, section 3.2 (MGDA);"
        " Liu et al. 2021, arXiv:2110.14048, algorithm 1 (CAGrad)"
    )
    evidence = (
        "SafeGrad keeps models safe at high shares of harmful rows without a loss of the task"
        " (Yi et al. 2025, arXiv:2508.07172)"
    )

    weight: float = Range(1.0, low=0.1, high=30.0, log=True, neutral=0.0)
    rule: Literal["surgery", "min_norm", "conflict_averse"] = Choice(
        "surgery", "surgery", "min_norm", "conflict_averse"
    )
    radius: float = Range(0.5, low=0.0, high=0.9, at_most=0.99, searched=False)
    alignment: Literal["kl", "cross_entropy"] = Choice("kl", "kl", "cross_entropy")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "min_norm" and self.alignment == "kl" and self.weight:
            raise UserError(
                f"method {self.name!r}: with rule='min_norm' and alignment='kl' nothing is ever learned, as the KL has"
                " no gradient at the start; take alignment='cross_entropy'"
            )

    def num_row_groups(self, stream: Stream) -> int:
        return 1 if stream == "alignment" else 0

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        alignment = alignment_loss(self.alignment, step.policy["alignment"], step.reference["alignment"])
        step.record(alignment=alignment)
        return cross_entropy(step.policy["task"]), self.weight * alignment

    def combine(self, gradients: Sequence[Sequence[Tensor]]) -> Sequence[Tensor]:
        task, alignment = gradients
        if self.weight == 0 or (self.rule != "surgery" and not any(bool(tensor.any()) for tensor in alignment)):
            return task  # also in a step without alignment rows: the shortest vector would be 0
        if self.rule == "min_norm":
            return min_norm(task, alignment)
        if self.rule == "conflict_averse":
            return conflict_averse(task, alignment, self.radius)
        return [kept + more for kept, more in zip(remove_conflict(task, alignment), alignment, strict=True)]
