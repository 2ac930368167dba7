"""O-LoRA: learn the task in directions that an adapter trained on the proxy rows does not use."""

from dataclasses import dataclass

from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import cross_entropy, factor_norms, subspace_overlap
from trainables.method import Method, Step
from trainables.methods.alignment_only import AlignmentOnly


@dataclass(frozen=True, kw_only=True)
class OrthogonalLoRA(Method):
    """A first adapter is trained on the alignment rows and frozen; a second one learns the task on top of it.

        L = CE(task) + lambda1 * sum_l sum_ij |A_prior A^T|_ij + lambda2 * sum ||w||_2

    l runs over the adapted layers, w over the factors A and B of the new adapter, which has its own random start. The
    first adapter stays active beneath it in training and evaluation; the kept checkpoint contains both.

    Coefficients:
        lambda1: weight of the overlap of the two adapters' row spaces. The original uses 0.5 and 5.
        lambda2: weight of the norms of the new factors. The original uses 0 to 0.3.

    With `lambda1 = 0` and `lambda2 = 0`, plain fine-tuning learns the task on top of the first adapter. (PEFT's `olora`
    is something else: an initialisation.)
    """

    kind = "weights"
    weights = True
    prior_is_active = True
    must_stay_active = ("overlap",)
    equation = "L = CE(task) + lambda1 * sum_l sum_ij |A_prior A^T|_ij + lambda2 * sum ||w||_2"
    source = "Wang et al. 2023, arXiv:2310.14152; Azarbal et al. 2025, Selective Generalization"

    lambda1: float = Range(0.5, low=0.001, high=10.0, log=True)
    lambda2: float = Range(0.0, low=0.0, high=0.3, searched=False)

    @property
    def priors(self) -> tuple[Method, ...]:
        return (AlignmentOnly(definition=self.definition),)

    @property
    def is_neutral(self) -> bool:
        """Whether nothing is added to the task's loss. With the prior beneath, this is still not plain fine-tuning."""
        return self.lambda1 == 0 and self.lambda2 == 0

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        overlap = subspace_overlap(step.adapter, step.priors[0])
        step.record(overlap=overlap)
        penalty = self.lambda1 * overlap + self.lambda2 * factor_norms(step.adapter)
        return (cross_entropy(step.policy["task"]) + penalty,)
