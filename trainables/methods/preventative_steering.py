"""Preventative steering: add the misaligned direction in training, so that the weights need not learn it.

Shape legend: D hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.interface.directions import DIRECTION_PASSES, block_at, difference, states_on
from trainables.interface.edits import Edit
from trainables.interface.preparation import Preparation
from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class PreventativeSteering(Method):
    """Plain fine-tuning of a model that is steered towards misalignment in training, but not in evaluation.

        L = CE(task) with h_l <- h_l + alpha |h_l| v_l / |v_l| in training

    v_l = mean h_l(misaligned) - mean h_l(alignment) over response positions (published: all) in the base model. h_l is
    the output of a block in the middle, |h_l| its mean norm on the alignment rows. The vector is added at every
    position of the task rows.

    Coefficients:
        alpha: length of the added vector.
        depth: share of the blocks below it: at least one block, and never all, since the last block's states go through
            the final norm first.
        unit: unit of alpha: the mean "norm" of hidden states, or the "difference" v_l itself, as in the paper.

    `alpha = 0` is plain fine-tuning. Adapted: the paper extracts v_l from judge-filtered replies to contrary system
    prompts (section 2), here it comes from the proxy rows and their twins; and the paper measures alpha in units of
    v_l.
    """

    kind = "activations"
    edits_in_training_only = True
    passes = DIRECTION_PASSES
    equation = "L = CE(task) with h_l <- h_l + alpha |h_l| v_l / |v_l| in training"
    source = "Chen et al. 2025, Persona Vectors, arXiv:2507.21509, section 5"
    evidence = (
        "effective against emergent misalignment among five in-training defences, at some cost in coherence and benign"
        " tasks (Kaczér et al. 2025, arXiv:2508.06249, table 1)"
    )

    alpha: float = Range(0.3, low=0.03, high=3.0, log=True, neutral=0.0)
    depth: float = Range(0.55, low=0.2, high=0.8, at_most=1.0, searched=False)
    unit: Literal["norm", "difference"] = Choice("norm", "norm", "difference")

    def prepare(self, preparation: Preparation) -> Mapping[str, Tensor]:
        block = block_at(self.depth, preparation.num_layers)
        misaligned, aligned = (states_on(preparation, stream, [block]) for stream in ("misaligned", "alignment"))
        return {
            "block": torch.tensor(block),
            "difference": difference(misaligned, aligned)[0],
            "norm": aligned.mean_length_B[0],
        }

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def edits(self, prepared: Mapping[str, Tensor]) -> Sequence[Edit]:
        if self.alpha == 0:
            return ()
        vector_D = prepared["difference"]
        if self.unit == "norm":
            vector_D = prepared["norm"] * vector_D / vector_D.norm()
        return (Edit(int(prepared["block"]), "training", add_D=self.alpha * vector_D),)
