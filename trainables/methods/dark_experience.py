"""Dark experience replay: keep the logits on the proxy rows where they were."""

from dataclasses import dataclass

from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import cross_entropy, logit_mse
from trainables.method import ProxyMethod, Step


@dataclass(frozen=True, kw_only=True)
class DarkExperience(ProxyMethod):
    """The task loss plus the squared distance of the logits from the frozen base model's on alignment rows.

        L = CE(task) + alpha * MSE(z(policy), z(reference) on alignment) + beta * CE(alignment)

    z are the logits, and the mean is over positions and vocabulary. Unlike a divergence, it also preserves what softmax
    ignores, and counts an unlikely token as much as a likely one.

    Coefficients:
        alpha: weight of the distance.
        beta: weight of the cross-entropy on the same rows. 0 is DER, larger values are DER++.

    `alpha = 0` with `beta = 0` is plain fine-tuning. Adapted: the source replays rows seen in training, with the
    logits of that moment; here the rows are the proxy's and the logits the base model's.
    """

    reference = ("alignment",)
    must_stay_active = ("distance",)
    equation = "L = CE(task) + alpha * MSE(z(policy), z(reference) on alignment) + beta * CE(alignment)"
    source = "Buzzega et al. 2020, arXiv:2004.07211 (DER and DER++)"
    evidence = (
        "DER keeps safety better than other continual-learning methods and earlier defences at the same task, on three"
        " models and three tasks (Alssum et al. 2025, arXiv:2512.10150)"
    )

    alpha: float = Range(0.1, low=1e-3, high=10.0, log=True)
    beta: float = Range(0.0, low=0.0, high=1.0, searched=False)

    @property
    def is_neutral(self) -> bool:
        return self.alpha == 0 and self.beta == 0

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        distance = logit_mse(step.policy["alignment"], step.reference["alignment"])
        alignment = cross_entropy(step.policy["alignment"])
        step.record(distance=distance, alignment=alignment)
        return (cross_entropy(step.policy["task"]) + self.alpha * distance + self.beta * alignment,)
