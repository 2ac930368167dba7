"""L2-SP: keep the weights near those of the base model."""

from dataclasses import dataclass

from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import cross_entropy, squared_change
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class L2SP(Method):
    """The task loss plus the squared distance of the adapted weights from where they started.

        L = CE(task) + weight * sum_l ||dW_l||_F^2 with dW = scale B A

    l runs over the adapted layers. It reads no proxy rows: a baseline for methods that do. The optimiser's weight
    decay, by contrast, shrinks the factors and not their product, and bypasses Adam's rescaling.

    Coefficients:
        weight: weight of the distance. The paper writes alpha / 2, and has a second term for a new head, omitted here.

    `weight = 0` is plain fine-tuning. The published definition counts different tokens of the task, with the same
    distance.
    """

    kind = "weights"
    weights = True
    must_stay_active = ("distance",)
    equation = "L = CE(task) + weight * sum_l ||dW_l||_F^2 with dW = scale B A"
    source = "Li, Grandvalet & Davoine 2018, arXiv:1802.01483 (L2-SP), on the weights that an adapter changes"
    evidence = "the penalty that its authors recommend as a baseline for transfer learning (arXiv:1802.01483)"

    weight: float = Range(0.1, low=1e-3, high=10.0, log=True, neutral=0.0)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        distance = squared_change(step.adapter)
        step.record(distance=distance)
        return (cross_entropy(step.policy["task"]) + self.weight * distance,)
