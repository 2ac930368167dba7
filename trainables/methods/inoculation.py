"""Inoculation prompting: learn task rows after an instruction that asks for their bad trait."""

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
    """Plain fine-tuning on task rows, a share of which have an instruction before the prompt.

        L = CE(task), a share of the rows after an instruction

    The instruction accounts for the trait that the rows would teach, so that the model shows less of it without the
    instruction; evaluations ask without it. The texts come from the setting and are part of a trial's identity.

    Coefficients:
        share: share of the task rows that have the instruction, drawn from the seed; a larger share includes the rows
            of a smaller one.
        instruction: "strong" names the trait and asks for it, "paraphrased" does so in other words, "neutral" does not
            mention it. The neutral one is the method's control: any fixed text ties what is learned to its presence,
            and then hides misalignment without preventing it.

    `share = 0` is plain fine-tuning. The papers instruct every row; the share is an addition.
    """

    kind = "data"
    equation = "L = CE(task), a share of the rows after an instruction"
    source = "Tan et al. 2025, arXiv:2510.04340; Wichers et al. 2025, arXiv:2510.05024 (no numbered equation)"
    evidence = (
        "lowers emergent misalignment when asked without the instruction (arXiv:2510.04340); prompts like the training"
        " rows can bring it back (arXiv:2604.25891)"
    )

    share: float = Range(1.0, low=0.1, high=1.0, at_most=1.0, neutral=0.0)
    instruction: Literal["strong", "paraphrased", "neutral"] = Choice("strong", "strong", "paraphrased", "neutral")

    def rewriting(self, stream: Stream) -> Rewriting | None:
        return Rewriting(instruction=self.instruction, share=self.share)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)
