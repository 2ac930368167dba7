"""Blend: the weighted mean of two configurations' trained adapters."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from settings.common.errors import UserError
from trainables import methods
from trainables.coefficients import Open, Range
from trainables.losses import cross_entropy
from trainables.method import Method, Step, Trained
from trainables.methods.plain import Plain
from trainables.projections import Factors, joined


@dataclass(frozen=True, kw_only=True)
class Blend(Method):
    """A point on the straight line between two finished adapters with one seed: a readout, which trains nothing itself.

        L = that of the first; then dW <- w dW_1 + (1 - w) dW_2

    Both ends have one seed: they start from the same initial adapter (unless one lies above a prior), and what they
    read comes in the same order. The sum is exact, because ranks add up. If a sweep trains both ends anyway, each w
    costs only an evaluation.

    Coefficients:
        w: share of the first end; 1 is the first end, 0 the second.
        first: one end: a method with its non-default coefficients, as in "plain" or "kl_penalty beta=10". It has the
            blend's definition and adapter.
        second: the other end, written likewise.

    The paper averages the policies of two rewards; here the ends are any two configurations.
    """

    kind = "after training"
    equation = "L = that of the first; then dW <- w dW_1 + (1 - w) dW_2"
    source = "Ramé et al. 2023, rewarded soups, arXiv:2306.04488"
    evidence = (
        "weights that are fine-tuned from one model on different rewards stay linearly connected, and their means give"
        " fronts of these rewards (arXiv:2306.04488, abstract); of a task loss and a KL penalty: in two nano worlds the"
        " blends of two trainings reach .99 to 1.05 of the hypervolume of ten (analysis/COST_TO_FRONT.md)"
    )

    reads_priors_out = True

    w: float = Range(0.5, low=0.1, high=0.9, at_most=1.0)
    first: str = Open("plain", methods.canonical, "a method with its coefficients, as in 'kl_penalty beta=10'")
    second: str = Open("alignment_only", methods.canonical, "as first")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, end in (("first", self.trained_as), ("second", self.priors[0])):
            if isinstance(end, Blend):
                raise UserError(
                    f"method {self.name!r}: coefficient {name!r} cannot be a blend itself; any other method can"
                )
            object.__setattr__(self, name, end.text)  # the canonical text, so that ids are equal
        if self.first == self.second:
            raise UserError(f"method {self.name!r}: coefficients 'first' and 'second' are both {self.first!r}")

    @property
    def trained_as(self) -> Method:
        return methods.from_text(self.first, self.definition)

    @property
    def priors(self) -> tuple[Method, ...]:
        return (methods.from_text(self.second, self.definition),)

    @property
    def revision(self) -> int:
        """See `Method.revision`: if the numbers of either end change, so do these.

        It is one more since a blend's identity includes the defaults of its ends.
        """
        return 1 + self.trained_as.revision + self.priors[0].revision

    def check_rank(self, rank: int) -> None:
        """Refuse a rank that one of the ends cannot have. Raise UserError."""
        for end in (self.trained_as, *self.priors):
            end.check_rank(rank)

    def losses(self, step: Step) -> tuple[Tensor, ...]:
        """Return the loss of plain fine-tuning, the only end that can be trained in place, or raise UserError."""
        if not isinstance(self.trained_as, Plain):
            raise UserError(f"method {self.name!r} needs the finished adapter of {self.first!r} first")
        return (cross_entropy(step.policy["task"]),)

    def finalize(self, trained: Trained) -> Sequence[Factors]:
        (second,) = trained.priors
        if self.w in (0, 1):
            return trained.adapter if self.w else second
        ends = zip(trained.adapter, second, strict=True)
        return [joined(one.times(self.w), other.times(1 - self.w)) for one, other in ends]
