"""Concept ablation: remove the directions of misalignment from the hidden states while the model trains.

Shape legend: Q directions, D hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from trainables.coefficients import Choice, Range
from trainables.interface.directions import DIRECTION_PASSES, blocks_at, principal_directions, states_on
from trainables.interface.edits import Edit
from trainables.interface.preparation import Preparation
from trainables.losses import cross_entropy
from trainables.method import Method, Step


@dataclass(frozen=True, kw_only=True)
class ConceptAblation(Method):
    """Plain fine-tuning of a model that cannot use some directions of its hidden states, except in evaluation.

        L = CE(task) with h_l <- h_l - gamma Q_l^T Q_l h_l in training

    The rows of Q_l are principal directions of the difference between a misaligned row and its twin, the alignment row:
    of the differences between their mean hidden states over the responses, in the base model. They are removed at every
    position of the task rows; gradients do not flow through them, either.

    Coefficients:
        gamma: how much of the part in the subspace is removed; 1 is all of it.
        components: directions in each layer; fewer if there are too few pairs.
        blocks: the blocks after which to remove: at the "quarters" of the depth, in the "middle", or "all" but the
            last, whose states go through the final norm first.

    `gamma = 0` is plain fine-tuning. Adapted from CAFT with principal components. There, they come from the differences
    between a finished misaligned model and the base model, token by token and centred, and a person picks the
    meaningful ones. Here, they come from differences of twins, not centred, since their mean is the concept; the first
    are used.
    """

    kind = "activations"
    edits_in_training_only = True
    passes = DIRECTION_PASSES
    equation = "L = CE(task) with h_l <- h_l - gamma Q_l^T Q_l h_l in training"
    source = "Casademunt et al. 2025, CAFT, arXiv:2507.16795"
    evidence = (
        "ten times fewer misaligned replies, the task unharmed, with directions that people have picked"
        " (arXiv:2507.16795, abstract)"
    )

    gamma: float = Range(1.0, low=0.1, high=1.0, at_most=1.0, neutral=0.0)
    components: int = Range(2, low=1, high=16, at_least=1, at_most=256, integer=True)
    blocks: Literal["quarters", "middle", "all"] = Choice("quarters", "quarters", "middle", "all")

    def prepare(self, preparation: Preparation) -> Mapping[str, Tensor]:
        chosen = blocks_at(self.blocks, preparation.num_layers)
        misaligned, aligned = (states_on(preparation, stream, chosen) for stream in ("misaligned", "alignment"))
        subspaces = principal_directions(misaligned, aligned, self.components)
        return {f"after block {block}": subspace_QD for block, subspace_QD in zip(chosen, subspaces, strict=True)}

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"]),)

    def edits(self, prepared: Mapping[str, Tensor]) -> Sequence[Edit]:
        return [
            Edit(int(name.rpartition(" ")[2]), "training", remove_QD=subspace_QD, share=self.gamma)
            for name, subspace_QD in prepared.items()
        ]
