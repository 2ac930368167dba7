"""Inoculation prompting: task rows are learned after an instruction that asks for their bad trait."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Choice, Range
from trainables.interface.rewriting import Rewriting
from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class Inoculation(Method):
    """Plain fine-tuning on task rows of which a share has an instruction before the prompt.

        L = CE(task), a share of the rows after an instruction

    The instruction accounts for the trait that the rows would teach, so that less of it is learned without the
    instruction; evaluations ask without it. The texts are the setting's, and part of a trial's identity.

    Coefficients:
        share: of the task rows that have the instruction, drawn from the seed; a larger share has the rows of a smaller
            one, and more.
        instruction: "strong" names the trait and asks for it, "paraphrased" does so in other words, "neutral" says
            nothing of it. The neutral one belongs to the method as its control: any fixed text ties what is learned to
            its presence, and then hides misalignment without preventing it.

    `share = 0` is plain fine-tuning. The papers instruct every row; the share is an addition.
    """

    kind = "data"
    equation = "L = CE(task), a share of the rows after an instruction"
    source = "Tan et al. 2025, arXiv:2510.04340; Wichers et al. 2025, arXiv:2510.05024 (no numbered equation)"
    evidence = (
        "Lowers emergent misalignment when asked without the instruction (arXiv:2510.04340); prompts like the training"
        " rows can bring it back (arXiv:2604.25891)."
    )

    share: float = Range(1.0, low=0.1, high=1.0, at_most=1.0, neutral=0.0)
    instruction: Literal["strong", "paraphrased", "neutral"] = Choice("strong", "strong", "paraphrased", "neutral")

    def rewriting(self, stream: Stream) -> Rewriting | None:
        return Rewriting(instruction=self.instruction, share=self.share)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)
