"""Forward passes that begin above the layers that no member adapts.

During such a pass, the blocks below immediately return their input, and the last of them returns hidden states that
were computed before. Embeddings, masks, positions and the kinds of layers remain the model's own, as does everything
above.

Shape legend: R rows, T padded length in tokens, N positions of all rows concatenated, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from trainables.engine.batches import to_device
from trainables.engine.process_group import layers_of

CLOSE = 1e-3  # relative to the largest final hidden state: tolerance of such a pass against the whole pass


class Span(NamedTuple):
    """Some consecutive positions of a row of tokens."""

    row: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Start:
    """Where forward passes may begin.

    Attributes:
        first_block: the number of the lowest block that is computed.
        num_outputs: length of the tuple that a block returns; None if it returns only its hidden states.
    """

    first_block: int
    num_outputs: int | None

    @contextmanager
    def begun(self, model: PreTrainedModel, states_RTD: Tensor, cache: Cache | None = None) -> Iterator[None]:
        """Let a forward pass in the context begin with these states.

        Args:
            cache: key-value cache of the pass. It gets placeholders for the blocks below, since some models ask the
                first block's cache how many tokens came before.
        """
        below = layers_of(model)[: self.first_block]
        with replaced(below, [None] * (len(below) - 1) + [states_RTD], self.num_outputs):
            yield
        if cache is not None:
            blank = states_RTD.new_zeros(len(states_RTD), 1, states_RTD.shape[1], 1)
            for number in range(self.first_block):
                cache.update(blank, blank, number)

    @contextmanager
    def ended(self, model: PreTrainedModel, states: list[Tensor]) -> Iterator[None]:
        """Let a forward pass in the context end below the start, and append its last hidden states to `states`."""
        blocks = layers_of(model)
        above, returned = blocks[self.first_block :], list[Any]()
        with output_of(blocks[self.first_block - 1], returned), replaced(above, [None] * len(above), self.num_outputs):
            yield
        states.extend(output if self.num_outputs is None else output[0] for output in returned)


@dataclass(frozen=True)
class Prefix:
    """The hidden states of some rows after the lowest layers of a base model.

    Attributes:
        start: where passes over these rows begin.
        place: tokens of a row -> start and end of its positions.
        states_ND: hidden states after the block below, at every position of every row.
    """

    start: Start
    place: Mapping[tuple[int, ...], tuple[int, int]]
    states_ND: Tensor

    def of(self, spans: Sequence[Span], columns: int, device: torch.device, *, padded_left: bool = False) -> Tensor:
        """Return the states at positions of rows, `[R, T, D]`; padding has those of an arbitrary token.

        Args:
            columns: T.

        Raises:
            KeyError: a row is missing.
        """
        at_RT = np.zeros((len(spans), columns), dtype=np.int64)
        for number, (row, start, stop) in enumerate(spans):
            first, offset = self.place[row][0], columns - (stop - start) if padded_left else 0
            at_RT[number, offset : offset + stop - start] = np.arange(first + start, first + stop)
        return self.states_ND[to_device(at_RT, self.states_ND.device)].to(device, non_blocking=True)

    def of_rows(self, rows: Sequence[tuple[int, ...]], columns: int, device: torch.device) -> Tensor:
        """Return the states at all positions of rows, padded on the right to `columns` columns, `[R, T, D]`."""
        return self.of([Span(row, 0, len(row)) for row in rows], columns, device)


@contextmanager
def replaced(blocks: Sequence[nn.Module], outputs: Sequence[Tensor | None], num_outputs: int | None) -> Iterator[None]:
    """Let blocks return these hidden states without computing anything; None means their input."""

    def stand_in(output: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        hidden = output if output is not None else args[0] if args else kwargs["hidden_states"]
        return hidden if num_outputs is None else (hidden, *[None] * (num_outputs - 1))

    for block, output in zip(blocks, outputs, strict=True):
        block.forward = partial(stand_in, output)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextmanager
def output_of(block: nn.Module, into: list[Any]) -> Iterator[None]:
    """Append a block's outputs in forward passes in the context to `into`."""
    hook = block.register_forward_hook(lambda _module, _inputs, output: into.append(output))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def find_start(model: PreTrainedModel, first_block: int) -> Start | str:
    """Return how a pass begins at a block above the lowest, or why such a pass cannot replace the whole one.

    This is tested on a few tokens.
    """
    rows, tokens = 3, 5
    ids_RT = torch.arange(rows * tokens, device=model.device).view(rows, tokens)
    ids_RT %= model.config.get_text_config().vocab_size
    returned: list[Any] = []
    with output_of(layers_of(model)[first_block - 1], returned):
        whole = model.base_model(input_ids=ids_RT, use_cache=False).last_hidden_state
    states = returned[0][0] if isinstance(returned[0], tuple) else returned[0]
    if len(returned) != 1 or states.shape[:2] != ids_RT.shape or states.ndim != 3:
        return "its hidden states are not one vector for each token"
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        return "its upper layers read the keys and values of lower ones"
    start = Start(first_block, len(returned[0]) if isinstance(returned[0], tuple) else None)
    with start.begun(model, states):
        begun = model.base_model(input_ids=ids_RT, use_cache=False).last_hidden_state
    if not (begun - whole).abs().max() <= CLOSE * whole.abs().max():
        return "its upper layers read more than the states of the layer below them"
    return start


@torch.no_grad()
def states_below(model: PreTrainedModel, start: Start, ids_RT: Tensor) -> Tensor:
    """Return the hidden states that a pass begins with, `[R, T, D]`. Nothing above is computed."""
    states: list[Tensor] = []
    with start.ended(model, states):
        model.base_model(input_ids=ids_RT, use_cache=False)
    return states[0]
