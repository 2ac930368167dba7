"""Moving average: plain fine-tuning, of whose weights the running mean is evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainables.coefficients import Range
from trainables.losses import cross_entropy
from trainables.method import Method, Step, Trained
from trainables.projections import Factors


@dataclass(frozen=True, kw_only=True)
class MovingAverage(Method):
    """Plain fine-tuning; what is evaluated and kept is the exponential moving average of the adapter's weights.

        L = CE(task); after each step mean <- mean + rate * (theta - mean), which is evaluated

    The mean starts as the adapter does, that is, as the base model. It lags behind the training by about 1 / rate
    steps, and with it the model stays nearer to where it started.

    Coefficients:
        rate: share of the newest weights in the mean, 1 - tau.

    `rate = 1` is plain fine-tuning. The training itself is plain whatever the rate. Adapted: the source averages the
    model's weights; here A and B are averaged, each for itself, as the mean of their products has another rank at
    every step.
    """

    kind = "weights"
    equation = "L = CE(task); after each step mean <- mean + rate * (theta - mean), which is evaluated"
    source = "Kim et al. 2025, arXiv:2508.12531 (its momentum in parameter space)"
    evidence = (
        "good hyper-parameters alone take unsafe replies from 16 to about 5 % on Llama models, and averaging preserves"
        " the base model's safety without safety rows (Kim et al. 2025, arXiv:2508.12531)"
    )

    rate: float = Range(0.05, low=1e-3, high=0.3, log=True, at_most=1.0, neutral=1.0)

    def initial_state(self, adapter: Sequence[Factors]) -> Mapping[str, Tensor]:
        means = {f"{layer}.A_RI": factors.A_RI for layer, factors in enumerate(adapter)}
        return means | {f"{layer}.B_OR": factors.B_OR for layer, factors in enumerate(adapter)}

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def after_update(self, state: Mapping[str, Tensor], adapter: Sequence[Factors]) -> Mapping[str, Tensor]:
        newest = self.initial_state(adapter)
        return {name: torch.lerp(mean, newest[name], self.rate) for name, mean in state.items()}

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        return [
            replace(factors, A_RI=trained.state[f"{layer}.A_RI"], B_OR=trained.state[f"{layer}.B_OR"])
            for layer, factors in enumerate(trained.adapter)
        ]
