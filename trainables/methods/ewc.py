"""Elastic weight consolidation: keep the parameters that the proxy rows need near their start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.coefficients import Range
from trainables.interface.preparation import Pass, Preparation
from trainables.losses import cross_entropy
from trainables.method import Method, Step
from trainables.projections import Factors


@dataclass(frozen=True, kw_only=True)
class EWC(Method):
    """The task loss plus a quadratic penalty on the adapter, weighted by what the alignment rows' likelihood needs.

        L = CE(task) + weight * 1/2 sum_i F_i (theta_i - theta_0i)^2

    theta are the entries of A and B, theta_0 the initial ones, at which the model is the base model. F_i is the mean
    over all alignment rows of the squared derivative of a row's log-likelihood (in nats) at theta_0, i.e. the diagonal
    of the empirical Fisher information. It is computed once, so training reads no alignment rows.

    B begins at 0, so the likelihood does not depend on A to first order: F is 0 on A, and only B is penalised. Nothing
    is lost by this: to second order in theta - theta_0, moving A changes nothing either. The penalty is thus a diagonal
    estimate of KL(base || policy) of a row; that of `kl_penalty` is per token, so equal strength means a smaller weight
    here. F is computed only at theta_0 and says little far from there.

    Coefficients:
        weight: weight of the penalty (lambda in the paper).

    `weight = 0` is plain fine-tuning. Adapted: the paper centres the penalty at the optimum of an earlier task; here
    that task is what the base model does on alignment rows.
    """

    kind = "weights"
    passes = (Pass("alignment", "squared_gradients"),)
    weights = True
    must_stay_active = ("consolidation",)
    equation = "L = CE(task) + weight * 1/2 sum_i F_i (theta_i - theta_0i)^2"
    source = "Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3"
    evidence = "a classic against forgetting (arXiv:1612.00796); no measurement of it on emergent misalignment is known"

    weight: float = Range(1e5, low=1e3, high=1e7, log=True, neutral=0.0)

    def prepare(self, preparation: Preparation) -> Mapping[str, Tensor]:
        squared = preparation.squared_gradients("alignment")
        return {"fisher": entries(squared), "start": entries(preparation.factors())}

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        moved = entries(step.adapter) - step.prepared["start"]
        consolidation = 0.5 * (step.prepared["fisher"] * moved.square()).sum()
        step.record(consolidation=consolidation)
        return (cross_entropy(step.policy["task"]) + self.weight * consolidation,)


def entries(adapter: Sequence[Factors]) -> Tensor:
    """Return all entries of an adapter, A then B, layer after layer."""
    return torch.cat([factor.reshape(-1) for factors in adapter for factor in (factors.A_RI, factors.B_OR)])
