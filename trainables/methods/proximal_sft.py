"""Proximal fine-tuning: stop learning a token once it is more likely by a given factor. No proxy rows.

Shape legend: N positions of the rows of a stream.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import token_nll
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class ProximalSFT(Method):
    """PPO's clipped objective on the task rows, with every token an action of advantage one.

        L = mean_n 1 + epsilon - min(r_n, 1 + epsilon), r_n = p(y_n) / p_reference(y_n)

    This is the source's -min(r, clip(r, 1 - epsilon, 1 + epsilon)) up to a constant: with a positive advantage, the
    lower end never binds. At the start, its gradient is that of plain fine-tuning; later it weights tokens by how much
    more likely they have become, and ignores those beyond the bound.

    Coefficients:
        epsilon: how much a token may gain, relative to its probability in the base model. The source uses 0.2 to 0.28.

    No value is plain fine-tuning. Adapted: the source renews the model in the denominator every few steps, so that
    epsilon bounds a step; here it always is the base model, so that epsilon bounds the training, and useful values are
    much larger.
    """

    reference = ("task",)
    equation = "L = mean_n 1 + epsilon - min(r_n, 1 + epsilon), r_n = p(y_n) / p_reference(y_n)"
    source = "Zhu et al. 2025, arXiv:2508.17784 (proximal SFT)"
    evidence = (
        "matches plain fine-tuning in domain and generalises better out of it, on mathematical and human-value tasks"
        " (Zhu et al. 2025, arXiv:2508.17784)"
    )

    epsilon: float = Range(10.0, low=0.1, high=1e3, log=True)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        gain_N = token_nll(step.reference["task"]).detach() - token_nll(step.policy["task"])
        ratio_N = gain_N.clamp(max=math.log1p(self.epsilon)).exp()  # clipped before it can overflow
        at_bound = (gain_N >= math.log1p(self.epsilon)).to(gain_N.dtype).sum() / max(1, len(gain_N))
        step.record(at_bound=at_bound)
        return ((1 + self.epsilon - ratio_N).sum() / max(1, len(ratio_N)),)
