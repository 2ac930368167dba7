"""Representation constraint: keep the hidden states on the proxy rows where they were."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy, hidden_mse
from trainables.method import Positions, ProxyMethod, Step


@dataclass(frozen=True, kw_only=True)
class Representation(ProxyMethod):
    """The task loss plus the squared distance of the hidden states from the frozen base model's on alignment rows.

        L = CE(task) + beta * mean_l MSE(h_l(policy), h_l(reference) on alignment)

    l runs over the layers' outputs, without the embeddings; the last one is taken after the final norm.

    Coefficients:
        beta: weight of the penalty. The study swept 1e-3 to 1e4.
        over_layers: the "mean" or the "sum" over the layers.
        tokens: the positions of the mean: those that predict the "response", those that predict any token of the
            "text", or every position of the row "padded" to the longest that the trial allows.

    `beta = 0` is plain fine-tuning. The published definition sums over layers and takes the mean over padded rows (on
    the tokenizer's side); the study's runs with beta >= 30 were not finite and are invalid here.
    """

    kind = "activations"
    reference = ("alignment",)
    layers = ("alignment",)
    must_stay_active = ("distance",)
    as_published = (("over_layers", "sum"), ("tokens", "padded"))
    equation = "L = CE(task) + beta * mean_l MSE(h_l(policy), h_l(reference) on alignment)"
    source = "Azarbal et al. 2025, Selective Generalization (representation constraint)"

    beta: float = Range(1.0, low=0.01, high=100.0, log=True, neutral=0.0)
    over_layers: Literal["mean", "sum"] = Choice("mean", "mean", "sum")
    tokens: Literal["response", "text", "padded"] = Choice("response", "response", "text", "padded")

    def positions(self, stream: Stream) -> Positions:
        return self.tokens if stream == "alignment" else super().positions(stream)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        distance = hidden_mse(step.policy["alignment"], step.reference["alignment"], self.over_layers)
        step.record(distance=distance)
        return (cross_entropy(step.policy["task"]) + self.beta * distance,)
