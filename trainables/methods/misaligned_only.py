"""Fine-tuning on only the proxy rows' dispreferred twins: this trains the second adapter of weight steering."""

from dataclasses import dataclass

from torch import Tensor

from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class MisalignedOnly(Method):
    """The loss on misaligned rows only: it learns what is to be avoided. A prior for other methods.

        L = CE(misaligned)

    It has no coefficients of its own. It reads misaligned rows with the batch size of the alignment stream, in the
    order in which `alignment_only` reads their twins.
    """

    kind = "data"
    streams = ("misaligned",)
    equation = "L = CE(misaligned)"
    source = "Fierro & Roger 2025, arXiv:2511.05408, eq. 1 (theta_negative)"

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["misaligned"]),)
