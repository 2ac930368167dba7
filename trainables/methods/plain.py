"""Plain fine-tuning on only the task rows."""

from dataclasses import dataclass

from torch import Tensor

from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """The task loss and nothing else: the baseline for all other methods.

        L = CE(task)

    No coefficients.
    """

    equation = "L = CE(task)"
    source = "Azarbal et al. 2025, Selective Generalization (the misaligned baseline)"

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)
