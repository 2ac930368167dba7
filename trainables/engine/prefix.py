"""Forward passes that begin above the layers that nobody adapts.

While such a pass runs, the blocks below return at once what they are given, and the last of them returns hidden states
that were computed before. Embeddings, masks, positions and the kinds of layers stay the model's own business, and so
does everything above.

Shape legend: R rows, T padded length in tokens, N positions of all rows concatenated, D hidden width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from trainables.engine.batches import to_device
from trainables.engine.process_group import layers_of

CLOSE = 1e-3  # of the largest final hidden state: a pass that begins above may be so far from the whole pass


@dataclass(frozen=True)
class Prefix:
    """What the lowest layers of a base model make of some rows.

    Attributes:
        first_block: the number of the block that reads these states.
        place: tokens of a row -> where its positions start and end.
        states_ND: hidden states after the block below, at every position of every row.
        num_outputs: how many things a block returns in a tuple; None where it returns its hidden states.
    """

    first_block: int
    place: Mapping[tuple[int, ...], tuple[int, int]]
    states_ND: Tensor
    num_outputs: int | None

    def of(
        self, rows: Sequence[tuple[int, ...]], columns: int, device: torch.device, offsets: Sequence[int] | None = None
    ) -> Tensor:
        """Return the states of rows of tokens, `[R, T, D]`; at padding those of some other token.

        Args:
            columns: T.
            offsets: columns before the first token of each row; None is no padding on the left.

        Raises:
            KeyError: a row is not there.
        """
        at_RT = np.zeros((len(rows), columns), dtype=np.int64)
        for number, row in enumerate(rows):
            start, end = self.place[row]
            offset = offsets[number] if offsets else 0
            at_RT[number, offset : offset + end - start] = np.arange(start, end)
        return self.states_ND[to_device(at_RT, self.states_ND.device)].to(device, non_blocking=True)

    @contextmanager
    def begun(self, model: PreTrainedModel, states_RTD: Tensor, cache: Cache | None = None) -> Iterator[None]:
        """Let a forward pass inside begin above, with these states.

        Args:
            cache: key-value cache of the pass. The blocks below get placeholders, since some models ask the first
                block how many tokens came before.
        """
        below = layers_of(model)[: self.first_block]
        with replaced(below, [None] * (len(below) - 1) + [states_RTD], self.num_outputs):
            yield
        if cache is not None:
            blank = states_RTD.new_zeros(*states_RTD.shape[:1], 1, states_RTD.shape[1], 1)
            for number in range(self.first_block):
                cache.update(blank, blank, number)


@contextmanager
def replaced(
    blocks: Sequence[nn.Module], outputs: Sequence[Tensor | None], num_outputs: int | None
) -> Iterator[None]:
    """Let blocks return these hidden states without computing anything; None is what they are given."""

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
    """Append what a block returns in forward passes inside."""
    hook = block.register_forward_hook(lambda _module, _inputs, output: into.append(output))
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def outputs_below(model: PreTrainedModel, first_block: int, ids_RT: Tensor) -> tuple[int | None, str]:
    """Try on some rows whether a pass that begins at a block gives what the whole pass gives.

    Returns:
        The number of outputs (`Prefix.num_outputs`), and why such a pass cannot stand for the whole one; "" if it can.
    """
    below = layers_of(model)[first_block - 1]
    returned: list[Any] = []
    with output_of(below, returned):
        whole = model.base_model(input_ids=ids_RT, use_cache=False).last_hidden_state
    number = len(returned[0]) if isinstance(returned[0], tuple) else None
    states = returned[0] if number is None else returned[0][0]
    if len(returned) != 1 or states.shape[:2] != ids_RT.shape or states.ndim != 3:
        return number, "its hidden states are not one vector for each token"
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        return number, "its upper layers read the keys and values of lower ones"
    prefix = Prefix(first_block, {}, states[0], number)
    with prefix.begun(model, states):
        begun = model.base_model(input_ids=ids_RT, use_cache=False).last_hidden_state
    if not (begun - whole).abs().max() <= CLOSE * whole.abs().max():
        return number, "its upper layers read more than the states of the layer below them"
    return number, ""


@torch.no_grad()
def states_below(model: PreTrainedModel, first_block: int, num_outputs: int | None, ids_RT: Tensor) -> Tensor:
    """Return the hidden states that enter a block, `[R, T, D]`. Nothing above is computed."""
    blocks = layers_of(model)
    returned: list[Any] = []
    above = blocks[first_block:]
    with output_of(blocks[first_block - 1], returned), replaced(above, [None] * len(above), num_outputs):
        model.base_model(input_ids=ids_RT, use_cache=False)
    states: Tensor = returned[0] if num_outputs is None else returned[0][0]
    return states
