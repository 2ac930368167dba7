"""FLOW: give more weight to task rows that the base model finds easy. No proxy rows.

Shape legend: N positions of the rows of a stream, R rows.
"""

from dataclasses import dataclass

from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import sequence_log_prob, token_nll
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class FLOW(Method):
    """The task loss with a weight for each row that decreases with the base model's loss on it.

        L = 1/N sum_i w_i sum_n -log p(y_in), w_i = exp(-sharpness * l_i), l_i = CE_reference(row i)

    l_i is the mean over the row's tokens, in nats. The weights are fixed by the base model and not
    normalised, so a step of hard rows is a small one.

    Coefficients:
        sharpness: 1 / tau in the source, which sets tau to the median of the l_i.

    `sharpness = 0` is plain fine-tuning. If the task itself misaligns, easy rows are no safer than hard ones, and
    the method may merely learn less.
    """

    kind = "data"
    reference = ("task",)
    equation = "L = 1/N sum_i w_i sum_n -log p(y_in), w_i = exp(-sharpness * l_i), l_i = CE_reference(row i)"
    source = "Sanyal et al. 2025, arXiv:2502.02797 (FLOW)"
    evidence = (
        "Gemma 2 2B on MetaMathQA: 0.8 % less on GSM8K and 5.4 % more kept on the pre-training data than plain"
        " fine-tuning (Sanyal et al. 2025, arXiv:2502.02797)"
    )

    sharpness: float = Range(0.5, low=0.05, high=50.0, log=True, neutral=0.0)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        task = step.policy["task"]
        weight_R = (self.sharpness * sequence_log_prob(step.reference["task"], "mean")).exp().detach()
        step.record(weight=weight_R.mean())
        return ((weight_R[task.row_N] * token_nll(task)).sum() / max(1, len(task.labels_N)),)
