"""DPO beside the task loss: prefer the aligned proxy answer to its misaligned twin."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy, dpo, preference_margin
from trainables.method import Positions, ProxyMethod, Step


@dataclass(frozen=True, kw_only=True)
class DPO(ProxyMethod):
    """The task loss plus direct preference optimisation on pairs of alignment rows and their misaligned twins.

        L = CE(task) + weight * mean_i - log sigmoid(beta * [(c_i - c_i^ref) - (r_i - r_i^ref)])

    c_i and r_i are the log-probabilities of the aligned and the misaligned answer to the same prompt.

    Coefficients:
        weight: weight of the preference loss (lambda in the study, which swept 0.5 to 12).
        beta: sharpness of the preference, i.e. how far the policy may leave the reference.
        log_probs: the "sum" over an answer's tokens, or their "mean", which needs a beta larger by their number.

    `weight = 0` or `beta = 0` is plain fine-tuning. The published definition takes the mean over the answer and the
    padding that follows it. If the tokenizer pads on the left (Gemma), the study's mask hides the end of the row, and
    with it most or all of the answer; this reproduces that.
    """

    streams = ("task", "alignment", "misaligned")
    reference = ("alignment", "misaligned")
    as_published = (("log_probs", "mean"),)
    must_stay_active = ("margin",)
    equation = "L = CE(task) + weight * mean_i - log sigmoid(beta * [(c_i - c_i^ref) - (r_i - r_i^ref)])"
    source = "Rafailov et al. 2023, arXiv:2305.18290; Azarbal et al. 2025, Selective Generalization"

    weight: float = Range(1.0, low=0.03, high=30.0, log=True, neutral=0.0)
    beta: float = Range(0.1, low=0.02, high=1.0, log=True, neutral=0.0, searched=False)
    log_probs: Literal["sum", "mean"] = Choice("sum", "sum", "mean")

    def positions(self, stream: Stream) -> Positions:
        return "answer" if self.definition == "published" and stream != "task" else super().positions(stream)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        policy, reference = step.policy, step.reference
        margin = preference_margin(
            policy["alignment"],
            policy["misaligned"],
            reference["alignment"],
            reference["misaligned"],
            self.log_probs,
        )
        preference = dpo(margin, self.beta)
        step.record(preference=preference, margin=margin.abs().sum() / max(1, len(margin)))
        return (cross_entropy(policy["task"]) + self.weight * preference,)
