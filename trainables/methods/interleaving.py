"""Interleaving by perplexity: mix in the proxy rows that plain fine-tuning makes least likely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Range
from trainables.interface.outputs import Forward
from trainables.interface.preparation import Pass, Preparation
from trainables.losses import cross_entropy, sequence_log_prob
from trainables.method import BatchSizes, Method, Step
from trainables.methods.plain import Plain


@dataclass(frozen=True, kw_only=True)
class Interleaving(Method):
    """Mixed fine-tuning with the alignment rows whose perplexity rises most under plain fine-tuning.

        L = CE(task + alignment rows with the largest PPL(plain) - PPL(base))

    A row's perplexity is exp of the mean loss of its response tokens. A finished plain adapter with the same seed
    scores the rows before training. It is used only for this, and costs one training that all configurations share.

    Coefficients:
        share: alignment rows as a share of a step's rows; the task rows are those of every other method.
        pool: share of the alignment rows that is mixed in, those with the largest difference first; 1 is all of them,
            which makes the method `mixed`.

    `share = 0` is plain fine-tuning. Adapted: the paper scores a large general instruction set with a model that was
    tuned to be misaligned; here the pool is the setting's proxy rows, and the model is fine-tuned on the task itself.
    """

    kind = "data"
    streams = ("task", "alignment")
    passes = (Pass("alignment", prior=0), Pass("alignment"))
    equation = "L = CE(task + alignment rows with the largest PPL(plain) - PPL(base))"
    source = "Kaczér et al. 2025, arXiv:2508.06249v3 (Interleaving++; the difference has no equation number)"
    evidence = "the best of the in-training defences compared in arXiv:2508.06249v3, over four harmful tasks"

    share: float = Range(0.1, low=0.02, high=0.75, log=True, at_most=0.95, neutral=0.0)
    pool: float = Range(0.5, low=0.1, high=1.0, at_most=1.0, searched=False)

    @property
    def priors(self) -> tuple[Method, ...]:
        return (Plain(definition=self.definition),)

    def rows_per_step(self, stream: Stream, sizes: BatchSizes) -> float:
        return sizes.task * self.share / (1 - self.share) if stream == "alignment" else sizes.task

    def prepare(self, preparation: Preparation) -> Mapping[str, Tensor]:
        plain, base = preparation.outputs("alignment", prior=0), preparation.outputs("alignment")
        return {"rise": perplexity(plain) - perplexity(base)}

    def rows_read(self, stream: Stream, num_rows: int, prepared: Mapping[str, Tensor]) -> Sequence[int] | None:
        if stream == "task":
            return None
        order = torch.argsort(prepared["rise"], descending=True, stable=True).tolist()
        return sorted(order[: max(1, round(self.pool * num_rows))])

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"], step.policy["alignment"]),)


def perplexity(outputs: Forward) -> Tensor:
    """Return exp of each row's mean loss per token, `[num_rows]`; 1 for a row without positions that count."""
    return (-sequence_log_prob(outputs, "mean")).exp()
