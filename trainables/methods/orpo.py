"""ORPO beside the task loss: learn the aligned proxy answers, and raise their odds above their misaligned twins'."""

from dataclasses import dataclass

from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import cross_entropy, odds_ratio
from trainables.method import ProxyMethod, Step


@dataclass(frozen=True, kw_only=True)
class ORPO(ProxyMethod):
    """The task loss plus odds ratio preference optimisation on alignment rows and their misaligned twins.

        L = CE(task) + weight * [CE(alignment) + odds * mean_i - log sigmoid(log odds_i(A) - log odds_i(M))]

    odds_i(A) and odds_i(M) are P / (1 - P) of the aligned and the misaligned answer to the same prompt, with log P the
    mean log-probability of its tokens. No reference is needed: the cross-entropy takes its place.

    Coefficients:
        weight: weight of the two terms on the pairs.
        odds: weight of the odds ratio among them (lambda in the source).

    `weight = 0` is plain fine-tuning. Adapted: the source trains only on the pairs.
    """

    streams = ("task", "alignment", "misaligned")
    must_stay_active = ("alignment", "preference")
    equation = "L = CE(task) + weight * [CE(alignment) + odds * mean_i - log sigmoid(log odds_i(A) - log odds_i(M))]"
    source = "Hong et al. 2024, arXiv:2403.07691, eq. 6 and 7"
    evidence = (
        "as the training loss on benign tasks it helps much against jailbreaks and persona drift at large budgets, and"
        " little at small ones (Vennemeyer et al. 2026, arXiv:2601.12639)"
    )

    weight: float = Range(1.0, low=0.01, high=10.0, log=True, neutral=0.0)
    odds: float = Range(1.0, low=0.01, high=10.0, log=True, searched=False)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        alignment = cross_entropy(step.policy["alignment"])
        preference = odds_ratio(step.policy["alignment"], step.policy["misaligned"])
        step.record(alignment=alignment, preference=preference)
        return (cross_entropy(step.policy["task"]) + self.weight * (alignment + self.odds * preference),)
