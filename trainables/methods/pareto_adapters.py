"""Pareto adapters: one training that draws a trade-off at each step, and from which any trade-off is read out.

Shape legend: R rank of an adapter, O output features of a linear layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.losses import alignment_loss, cross_entropy
from trainables.method import Method, ProxyMethod, Step, Trained
from trainables.projections import Factors

EVEN = 0.5  # the share at which all gates are 1, as in the adapter that is trained and kept


@dataclass(frozen=True, kw_only=True)
class ParetoAdapters(ProxyMethod):
    """Two adapters, one for each of two losses, both in the model at once and weighted like the losses.

        L = (1 - s) CE(task) + s * weight * KL(policy || reference on alignment), s drawn at each step

        separate     W + (1 - s) scale B_T A_T + s scale B_A A_A (PaLoRA)
        conditioned  W + scale B diag(1, ..., 1, 2 (1 - s), 2 s) A (Panacea)

    All shares are read out of the same training, that of `share = 0.5`. Each is a plain adapter of the same rank.

    Both adapters of "separate" have half of the rank, so that a trial has as many parameters as with any other
    method, and each has twice the scale of the whole: that of its own rank, alpha / (rank / 2). With rslora it is
    doubled as well, though that of its own rank would be sqrt(2) times. The rank must be even. At a share of 0 or
    1, one of them is left. In "conditioned", all ranks but two are shared. Panacea learns a factor gamma and
    singular values; here they are the lengths of B's columns.

    Coefficients:
        share: the s to evaluate.
        weight: weight of the alignment loss, besides s.
        alignment: the divergence from the base model, "kl", or "cross_entropy" on the alignment rows.
        form: as above.

    No value is plain fine-tuning. Adapted: s is uniform on the simplex, as in Panacea, while PaLoRA uses a fixed
    schedule.
    """

    kind = "weights"
    reference = ("alignment",)
    must_stay_active = ("alignment",)
    rank_multiple = 2
    equation = "L = (1 - s) CE(task) + s * weight * KL(policy || reference on alignment), s drawn at each step"
    source = (
        "Dimitriadis et al. 2025, arXiv:2407.08056 (PaLoRA); Zhong et al. 2024, arXiv:2402.02030 (Panacea, for the"
        " conditioned form and the distribution of s)"
    )
    evidence = (
        "one training traces a front that beats other such methods in multi-task learning (PaLoRA, arXiv:2407.08056);"
        " linear mixes of adapters are said to reach convex fronts only (HyperPALoRA, openreview VXlm0zf2a5); here .93"
        " and .95 of the hypervolume of ten trainings, .63 and .97 conditioned (analysis/COST_TO_FRONT.md)"
    )

    share: float = Range(EVEN, low=0.0, high=1.0, at_most=1.0)
    weight: float = Range(1.0, low=0.1, high=30.0, log=True, at_least=1e-6, searched=False)
    alignment: Literal["kl", "cross_entropy"] = Choice("kl", "kl", "cross_entropy")
    form: Literal["separate", "conditioned"] = Choice("separate", "separate", "conditioned")

    @property
    def trained_as(self) -> Method:
        return replace(self, share=EVEN)

    def gates(self, rank: int, random: Random) -> Sequence[float]:
        return self._gates_at(random.random(), rank)

    def _gates_at(self, share: float, rank: int) -> list[float]:
        """Return the factors of the ranks at a share: all 1 at `EVEN`."""
        of_each = rank // 2 if self.form == "separate" else 1
        return [1.0] * (rank - 2 * of_each) + [2 * (1 - share)] * of_each + [2 * share] * of_each

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        alignment = alignment_loss(self.alignment, step.policy["alignment"], step.reference["alignment"])
        step.record(alignment=alignment)
        share = step.gates[-1] / 2
        return ((1 - share) * cross_entropy(step.policy["task"]) + share * self.weight * alignment,)

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        return [self._read_out(factors) for factors in trained.adapter]

    def _read_out(self, factors: Factors) -> Factors:
        gates_R = factors.B_OR.new_tensor(self._gates_at(self.share, factors.rank))
        return replace(factors, B_OR=factors.B_OR * gates_R)
