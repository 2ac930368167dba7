"""Fine-tuning on the proxy rows alone: what trains the prior adapters of O-LoRA, Safe LoRA and other methods."""

from dataclasses import dataclass

from torch import Tensor

from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class AlignmentOnly(Method):
    """The loss on alignment rows and nothing else; the task is not learned.

        L = CE(alignment)

    No coefficients of its own. It reads alignment rows in the batch size of that stream.
    """

    streams = ("alignment",)
    equation = "L = CE(alignment)"
    source = "Azarbal et al. 2025, Selective Generalization (the first adapter of Safe LoRA and O-LoRA)"

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["alignment"]),)
