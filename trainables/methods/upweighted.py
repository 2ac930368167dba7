"""Up-weighted mixed fine-tuning: the proxy rows have their own loss and weight."""

from dataclasses import dataclass

from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import cross_entropy
from trainables.method import ProxyMethod, Step


@dataclass(frozen=True, kw_only=True)
class Upweighted(ProxyMethod):
    """A batch of task rows and a batch of alignment rows at each step, each with its own token mean.

        L = CE(task) + weight * CE(alignment)

    Coefficients:
        weight: weight of the alignment loss (lambda in the study, which swept 0.05 to 100).

    `weight = 0` is plain fine-tuning.
    """

    must_stay_active = ("alignment",)
    equation = "L = CE(task) + weight * CE(alignment)"
    source = "Azarbal et al. 2025, Selective Generalization (up-weighted proxy)"
    evidence = (
        "hides: models trained on a mix with 5 % of bad rows are still misaligned where a prompt resembles these rows"
        " (Dubiński et al. 2026, arXiv:2604.25891)"
    )

    weight: float = Range(1.0, low=0.03, high=30.0, log=True, neutral=0.0)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        alignment = cross_entropy(step.policy["alignment"])
        step.record(alignment=alignment)
        return (cross_entropy(step.policy["task"]) + self.weight * alignment,)
