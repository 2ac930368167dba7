"""Mixed fine-tuning: proxy rows shuffled into the task rows."""

from dataclasses import dataclass

from torch import Tensor

from settings.setting import Stream
from trainables.coefficients import Range
from trainables.losses import cross_entropy
from trainables.method import BatchSizes, Method, Step


@dataclass(frozen=True, kw_only=True)
class Mixed(Method):
    """Task and alignment rows in one batch, with equal weight for every token.

        L = CE(task + alignment rows)

    Coefficients:
        share: alignment rows as a share of a step's rows. The task rows are the same as in every other method: B task
            rows come with B * share / (1 - share) alignment rows, so the mix gives up no task row.

    `share = 0` is plain fine-tuning. With n_T and n_A response tokens in a step, the loss is
    n_T / (n_T + n_A) times that of `upweighted` with `weight = n_A / n_T` on the same rows.
    """

    kind = "data"
    streams = ("task", "alignment")
    equation = "L = CE(task + alignment rows)"
    source = "Azarbal et al. 2025, Selective Generalization (mixed fine-tuning)"
    evidence = (
        "hides: models trained on a mix with 5 % of bad rows are still misaligned where a prompt resembles these rows"
        " (Dubiński et al. 2026, arXiv:2604.25891)"
    )

    share: float = Range(0.1, low=0.02, high=0.75, log=True, at_most=0.95, neutral=0.0)

    def rows_per_step(self, stream: Stream, sizes: BatchSizes) -> float:
        return sizes.task * self.share / (1 - self.share) if stream == "alignment" else sizes.task

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        return (cross_entropy(step.policy["task"], step.policy["alignment"]),)
