"""What a method may ask of the base model and of finished priors before its training begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from settings.setting import Stream
from trainables.interface.outputs import Forward, RowStates
from trainables.projections import Factors


@dataclass(frozen=True)
class Pass:
    """A pass over all rows of a stream that a method asks for (`Method.passes`).

    Attributes:
        stream: the stream to read.
        kind: what is asked for: the name of a method of `Preparation`.
        prior: the prior whose adapter to use; None is the base model (for gradients, with the trial's initial adapter).
    """

    stream: Stream
    kind: Literal["outputs", "states", "squared_gradients"] = "outputs"
    prior: int | None = None


class Preparation(Protocol):
    """The base model and the priors on whole streams. Whatever needs a pass is computed once and cached by content.

    Its methods raise TypeError for a pass that the method does not declare (`Method.passes`).
    """

    @property
    def num_layers(self) -> int:
        """Number of blocks in the model."""
        ...

    @property
    def lowest_adapted(self) -> int:
        """The number of the lowest block that the trial adapts: states after lower ones are the base model's."""
        ...

    def outputs(self, stream: Stream, *, prior: int | None = None) -> Forward:
        """Return the outputs on all rows of a stream, in the setting's order, at `Method.positions`, without gradients.

        Args:
            prior: the prior whose adapter to use (`Method.priors`); None is the base model.
        """
        ...

    def states(self, stream: Stream, *, prior: int | None = None) -> RowStates:
        """Return the hidden states after each layer on all rows of a stream, summed over each row's positions.

        Positions and order are those of `outputs`. Positions are summed batch by batch, so that no more than a batch of
        them is held.
        """
        ...

    def factors(self, *, prior: int | None = None) -> Sequence[Factors]:
        """Return the factors of a prior, layer after layer; None means the trial's own initial ones."""
        ...

    def squared_gradients(self, stream: Stream, *, prior: int | None = None) -> Sequence[Factors]:
        """Return the mean over rows of the squared gradient of a row's log-likelihood (in nats) by each factor.

        It uses the rows' labels: this is the diagonal of the empirical Fisher information.

        Args:
            prior: the prior at whose factors to differentiate; None means the trial's initial ones.
        """
        ...
