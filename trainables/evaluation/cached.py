"""Read prompts for many trials into a key-value cache, and the tokens that follow them.

Shape legend: R rows of a forward pass, one per block (a member, or the base model beside them) and prompt; P prompts; T
tokens so far, padding included; C tokens that are read at once; D hidden width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trainables.engine.forward import autocast
from trainables.engine.frozen.prefix import Prefix, Span, Start
from trainables.evaluation.mixing import Readers


class CachedReader:
    """Reads one chunk of prompts, and what follows them, with a key-value cache. Equal prompts are read once.

    Prompts are padded on the left, as in `generate` of transformers, so that a reply follows its prompt without a gap.
    Padding between the two would fill the window of a layer that sees only the last tokens, or enter the state of one
    that reads token by token. Prompts of equal length need no padding and no mask.

    Args:
        readers: the readers, each of which reads all prompts. Members mixed with the base model share its reading.
        start: start at the lowest adapted layer, below which each prompt is read once for all members; None if every
            member reads for itself.

    Attributes:
        padded: whether there is padding that the model must know about.
    """

    padded = False

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int,
        readers: Readers,
        start: Start | None = None,
    ) -> None:
        self.model, self.pad_id, self.readers = model, pad_id, readers
        self.start = start if readers.blocks > 1 else None
        # A model that takes no positions counts the ones in the mask.
        self.takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters

    def begin(
        self, prompts: Sequence[tuple[int, ...]], known: Prefix | None = None, rows: Sequence[tuple[int, ...]] = ()
    ) -> tuple[Tensor, Tensor, DynamicCache]:
        """Read the prompts.

        Args:
            known: states below the lowest adapted layer, on rows that begin with the prompts. The cache then has
                placeholders there, and the states of what follows must be known, too.
            rows: a row for each prompt.

        Returns:
            The hidden state at the end of each, `[R, D]`, block after block; the prompts' mask, `[R, T]`; the cache.
        """
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        self.padded = len(set(map(len, prompts))) > 1
        cache = DynamicCache(config=self.model.config)
        spans = [Span(rows[prompts.index(prompt)], 0, len(prompt)) for prompt in places] if known else []
        hidden_RD, mask_RT = self.prefill(list(places), cache, known, spans)
        blocks = self.blocks_after_prompts
        if len(places) < len(prompts) or blocks != list(range(self.readers.blocks)):
            selected = [block * len(places) + places[prompt] for block in blocks for prompt in prompts]
            row_R = torch.tensor(selected).to(self.model.device)
            hidden_RD, mask_RT = hidden_RD[row_R], mask_RT[row_R]
            cache.batch_select_indices(row_R)
        return hidden_RD, mask_RT, cache

    @property
    def blocks_after_prompts(self) -> list[int]:
        """The blocks whose reading of the prompts continues after them: by default all."""
        return list(range(self.readers.blocks))

    def prefill(
        self, prompts: Sequence[tuple[int, ...]], cache: DynamicCache, known: Prefix | None, spans: Sequence[Span]
    ) -> tuple[Tensor, Tensor]:
        """Fill the cache. Return the hidden state at the end of each prompt, `[R, D]`, and the prompts' mask.

        Args:
            spans: the prompts' places in `known`.
        """
        longest, device = max(map(len, prompts)), self.model.device
        ids = [[self.pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        ids_PT = torch.tensor(ids, device=device)
        length_P = torch.tensor([len(prompt) for prompt in prompts], device=device)
        mask_PT = (torch.arange(longest, device=device) >= longest - length_P[:, None]).long()
        ids_RT, mask_RT = ids_PT.repeat(self.readers.blocks, 1), mask_PT.repeat(self.readers.blocks, 1)
        if known is not None:
            states_PTD = known.of(spans, longest, device, padded_left=True)
            begun = self.begun(known.start, states_PTD, cache)
            return self._read_prompts(ids_RT, mask_RT, cache, begun), mask_RT
        if self.start is None:
            return self._read_prompts(ids_RT, mask_RT, cache, nullcontext()), mask_RT
        states_PTD, below = self._read_below(self.start, ids_PT, mask_PT)
        hidden_RD = self._read_prompts(ids_RT, mask_RT, cache, self.begun(self.start, states_PTD))
        cache.layers[: self.start.first_block] = below.layers[: self.start.first_block]
        return hidden_RD, mask_RT

    def _read_prompts(
        self, ids_RT: Tensor, mask_RT: Tensor, cache: DynamicCache, begun: AbstractContextManager[None]
    ) -> Tensor:
        with self.readers.routed_evenly(len(ids_RT) // self.readers.blocks), begun:
            return self.read(ids_RT, mask_RT, cache)[:, -1]

    def _read_below(self, start: Start, ids_PT: Tensor, mask_PT: Tensor) -> tuple[Tensor, DynamicCache]:
        """Read prompts once for all members, up to the lowest adapted layer; the cache has a row for each member."""
        cache, states = DynamicCache(config=self.model.config), list[Tensor]()
        with start.ended(self.model, states):
            self.read(ids_PT, mask_PT, cache)
        cache.batch_select_indices(torch.arange(len(ids_PT), device=ids_PT.device).repeat(self.readers.blocks))
        return states[0], cache

    def begun(
        self, start: Start, states_PTD: Tensor, cache: DynamicCache | None = None
    ) -> AbstractContextManager[None]:
        """Let a pass of all members begin with these states of each prompt (see `Start.begun`)."""
        return start.begun(self.model, states_PTD.repeat(self.readers.blocks, 1, 1), cache)

    def read(self, ids_RC: Tensor, mask_RT: Tensor, cache: DynamicCache) -> Tensor:
        """Read C tokens that follow those in the cache and are the last ones in the mask; return `[R, C, D]`."""
        positions: dict[str, Tensor] = {}
        if self.takes_positions:
            positions["position_ids"] = (mask_RT.cumsum(dim=1) - 1).clamp(min=0)[:, -ids_RC.shape[1] :]
        with autocast(ids_RC.device):
            hidden_RCD: Tensor = self.model.base_model(
                input_ids=ids_RC,
                attention_mask=mask_RT if self.padded else None,
                past_key_values=cache,
                use_cache=True,
                **positions,
            ).last_hidden_state
        return hidden_RCD
