"""KL constraint: stay within a given divergence from the base model on the proxy rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy, kl_to_reference
from trainables.method import ProxyMethod, Step
from trainables.projections import Factors

SMALLEST = 1e-8  # lower bound of beta: an inactive constraint keeps a gradient, so that a disconnected one is noticed


@dataclass(frozen=True, kw_only=True)
class KLConstraint(ProxyMethod):
    """The task loss under a bound on the divergence from the frozen base model on alignment rows.

        L = CE(task) + beta_t * KL(policy || reference on alignment), beta_t+1 = [beta_t + eta * (KL - epsilon)]_+

    This is dual ascent on: minimise CE(task) subject to KL <= epsilon. The multiplier beta rises while the bound is
    violated and falls while it holds; the trial's curves show both. A step without alignment rows leaves it unchanged.

    Coefficients:
        epsilon: the bound, in nats per token. Where the useful values of the penalty's beta lie close together, those
            of the bound do not.
        eta: step size of beta, per nat. If it is too small, a short training ends above its bound.
        beta: the multiplier before the first step.
        direction: "reverse" is KL(policy || reference), "forward" is KL(reference || policy).

    No value is plain fine-tuning; a large epsilon with a small beta approaches it. beta falls to 1e-8, not to 0.
    Adapted: dual ascent is stated for exact minimisers and the whole set; here one step of Adam on a batch replaces the
    minimiser, and the batch's KL replaces that of all rows.
    """

    reference = ("alignment",)
    must_stay_active = ("kl",)
    equation = (
        "L = CE(task) + beta_t * KL(policy || reference on alignment), beta_t+1 = [beta_t + eta * (KL - epsilon)]_+"
    )
    source = (
        "Boyd et al. 2011, Distributed Optimization and Statistical Learning via ADMM, eq. 2.2 and 2.3 (dual ascent)"
    )

    epsilon: float = Range(0.05, low=1e-3, high=1.0, log=True)
    eta: float = Range(1.0, low=0.01, high=10.0, log=True, searched=False)
    beta: float = Range(1.0, low=0.01, high=100.0, log=True, at_least=SMALLEST, searched=False)
    direction: Literal["reverse", "forward"] = Choice("reverse", "reverse", "forward")

    def initial_state(self, adapter: Sequence[Factors]) -> Mapping[str, Tensor]:
        return {"beta": adapter[0].A_RI.new_tensor(self.beta)}

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        kl = kl_to_reference(step.policy["alignment"], step.reference["alignment"], self.direction)
        beta = step.state["beta"]
        step.record(kl=kl, beta=beta)
        if step.policy["alignment"].num_rows:
            step.keep(beta=(beta + self.eta * (kl - self.epsilon)).clamp(min=SMALLEST))
        return (cross_entropy(step.policy["task"]) + beta * kl,)
