"""What a method may ask of the base model and of finished priors before its training begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from settings.setting import Stream
from trainables.interface.outputs import Forward
from trainables.projections import Factors


class Preparation(Protocol):
    """The base model and the priors on whole streams. Whatever takes a pass is computed once and kept by content."""

    @property
    def num_layers(self) -> int:
        """Blocks of the model."""
        ...

    @property
    def lowest_adapted(self) -> int:
        """The number of the lowest block that the trial adapts: states after those below are the base model's."""
        ...

    def outputs(self, stream: Stream, *, prior: int | None = None, layers: bool = False) -> Forward:
        """Return the outputs on all rows of a stream, in the setting's order, at `Method.positions`, without gradients.

        Args:
            prior: with the adapter of that prior (`Method.priors`); None is the base model.
            layers: with the hidden states after each layer.
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
