"""Fine-tuning on only the proxy rows: this trains the prior adapters of O-LoRA, Safe LoRA and other methods."""

from dataclasses import dataclass

from torch import Tensor

from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class AlignmentOnly(Method):
    """The loss on alignment rows only; the task is not learned. A prior for other methods.

        L = CE(alignment)

    It has no coefficients of its own. It reads alignment rows with the batch size of that stream.
    """

    kind = "data"
    streams = ("alignment",)
    equation = "L = CE(alignment)"
    source = "Azarbal et al. 2025, Selective Generalization (the first adapter of Safe LoRA and O-LoRA)"

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["alignment"]),)
