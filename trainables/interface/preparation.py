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
        stream: whose rows.
        kind: what is asked for, by the name of the method of `Preparation`.
        prior: with the adapter of that prior; None is the base model, for gradients with the trial's initial adapter.
    """

    stream: Stream
    kind: Literal["outputs", "states", "squared_gradients"] = "outputs"
    prior: int | None = None


class Preparation(Protocol):
    """The base model and the priors on whole streams. Whatever takes a pass is computed once and kept by content.

    Raise TypeError for a pass that the method does not declare (`Method.passes`).
    """

    @property
    def num_layers(self) -> int:
        """Blocks of the model."""
        ...

    @property
    def lowest_adapted(self) -> int:
        """The number of the lowest block that the trial adapts: states after those below are the base model's."""
        ...

    def outputs(self, stream: Stream, *, prior: int | None = None) -> Forward:
        """Return the outputs on all rows of a stream, in the setting's order, at `Method.positions`, without gradients.

        Args:
            prior: with the adapter of that prior (`Method.priors`); None is the base model.
        """
        ...

    def states(self, stream: Stream, *, prior: int | None = None) -> RowStates:
        """Return the hidden states after each layer on all rows of a stream, summed over each row's positions.

        As `outputs` has the positions and the order. Single positions are summed up batch by batch, so that no more
        than a batch of them is held.
        """
        ...

    def factors(self, *, prior: int | None = None) -> Sequence[Factors]:
        """Return the factors of a prior, layer after layer; None are the trial's own, as they begin."""
        ...

    def squared_gradients(self, stream: Stream, *, prior: int | None = None) -> Sequence[Factors]:
        """Return the mean over rows of the squared gradient of a row's log-likelihood (in nats) by each factor.

        With the labels of the rows: the diagonal of the empirical Fisher information.

        Args:
            prior: at that prior's factors; None is at the trial's initial ones.
        """
        ...
