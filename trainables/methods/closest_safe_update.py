"""CSULoRA: after plain fine-tuning, shrink the parts of the update outside the subspaces of alignment.

Shape legend: R rank of an adapter, I and O in- and output features of a linear layer, M singular vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.losses import cross_entropy, squared_change
from trainables.method import Method, Step, Trained
from trainables.methods.alignment_only import AlignmentOnly
from trainables.methods.plain import Plain
from trainables.projections import Direction, Factors, InvalidAdapterError


@dataclass(frozen=True, kw_only=True)
class ClosestSafeUpdate(Method):
    """Plain fine-tuning, then the nearest update that has little outside the subspaces of alignment.

        L = CE(task); then dW <- aligned + partial / (1 + strength e_partial) + off / (1 + strength e_off)

    P and Q are the projectors on the leading left and right singular vectors of V, the change that alignment tuning
    made in a layer. aligned = P dW Q, partial = P dW (I - Q) + (I - P) dW Q, off = (I - P) dW (I - Q), and e is a
    part's share of ||dW||_F^2. The result is the minimum over X of ||X - dW||_F^2 + strength (e_partial
    ||X_partial||_F^2 + e_off ||X_off||_F^2). The rank doubles; no matrix of the weights' size is made.

    Adapted: the paper's abstract describes the three parts, a penalised minimum-change problem in closed form, and
    shrinking by relative energy; the form of the penalty is ours.

    Coefficients:
        strength: strength of the penalty.
        energy: P and Q have the fewest vectors that hold this share of ||V||_F^2.
        direction: V is the change that the alignment-only adapter makes ("prior"), or the base model minus the
            pretrained model it was tuned from ("pretrained", as in the paper; the setting must name that one).

    `strength = 0` is plain fine-tuning. The published definition counts different tokens but edits in the same way.
    """

    kind = "after training"
    equation = "L = CE(task); then dW <- aligned + partial / (1 + strength e_partial) + off / (1 + strength e_off)"
    source = "Marchenko Breneur et al. 2026, arXiv:2605.30640 (CSULoRA), from its abstract"
    evidence = (
        "substantially fewer attacks by adversarial fine-tuning succeed, and most of the gains in utility remain"
        " (arXiv:2605.30640)"
    )

    strength: float = Range(3.0, low=0.1, high=100.0, log=True, neutral=0.0)
    energy: float = Range(0.9, low=0.5, high=0.99, at_most=1.0, searched=False)
    direction: Literal["prior", "pretrained"] = Choice("prior", "prior", "pretrained")

    @property
    def priors(self) -> tuple[Method, ...]:
        return (AlignmentOnly(definition=self.definition),) if self.direction == "prior" else ()

    @property
    def needs_pretrained(self) -> bool:
        return self.direction == "pretrained"

    @property
    def trained_as(self) -> Method:
        return Plain(definition=self.definition)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        if self.strength == 0:
            return trained.adapter
        if not any(direction.bases(self.energy)[0].numel() for direction in trained.directions):
            raise InvalidAdapterError("alignment tuning changed no layer: there is no subspace to be near to")
        return [self._shrunk(*pair) for pair in zip(trained.adapter, trained.directions, strict=True)]

    def _shrunk(self, own: Factors, direction: Direction) -> Factors:
        """Edit one layer: [P B, (I - P) B] [Q and (I - Q) parts of A, each with its share]."""
        U_OM, W_IM = (basis.to(own.B_OR) for basis in direction.bases(self.energy))
        B_in, A_in = U_OM @ (U_OM.T @ own.B_OR), own.A_RI @ W_IM @ W_IM.T
        B_off, A_off = own.B_OR - B_in, own.A_RI - A_in
        partial = self._share(own, (B_in, A_off), (B_off, A_in))
        off = self._share(own, (B_off, A_off))
        A_RI = torch.cat([A_in + partial * A_off, partial * A_in + off * A_off])
        return Factors(A_RI, torch.cat([B_in, B_off], dim=1), own.scale)

    def _share(self, own: Factors, *parts: tuple[Tensor, Tensor]) -> float:
        """Return how much of the parts is kept: 1 / (1 + strength e)."""
        squares = [float(squared_change([Factors(A_RI, B_OR, own.scale)])) for B_OR, A_RI in parts]
        whole = float(squared_change([own]))
        return 1 / (1 + self.strength * sum(squares) / whole) if whole else 1.0
