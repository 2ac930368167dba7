"""Prompts of many trials in a key-value cache, and tokens that follow them.

Shape legend: R rows of a forward pass, one per member and prompt; T tokens so far, padding included; C tokens that are
read at once; D hidden width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trainables.engine.adapters import PackedAdapters, Route
from trainables.engine.forward import autocast


def routed_evenly(adapters: PackedAdapters | None, members: Sequence[int], rows: int) -> AbstractContextManager[None]:
    """Send so many rows to each member, one member after the other; without adapters to the base model."""
    if adapters is None:
        return nullcontext()
    return adapters.routed(Route(tuple(members), (rows,) * len(members)))


class CachedReader:
    """Read one chunk of prompts, and what follows them, with a key-value cache. Equal prompts are read once.

    Prompts are padded on the left, as `generate` of transformers has them, so that a reply follows its prompt without a
    gap. Between the two, padding would fill the window of a layer that sees the last tokens alone, or enter the state
    of one that reads token by token. Prompts of one length need no padding and no mask.

    Args:
        adapters, members: the members that read, each all prompts; without adapters the base model reads.

    Attributes:
        padded: whether there is padding that the model must be told of.
    """

    padded = False

    def __init__(
        self, model: PreTrainedModel, pad_id: int, adapters: PackedAdapters | None, members: Sequence[int]
    ) -> None:
        self.model, self.pad_id, self.adapters, self.members = model, pad_id, adapters, tuple(members)
        # Where a model does not take positions, it counts the ones of the mask.
        self.takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters

    def begin(self, prompts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Read the prompts.

        Returns:
            The hidden state at the end of each, `[R, D]`, member after member; the prompts' mask, `[R, T]`; the cache.
        """
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        self.padded = len(set(map(len, prompts))) > 1
        cache = DynamicCache(config=self.model.config)
        hidden_RD, mask_RT = self.prefill(list(places), cache)
        num_members = len(hidden_RD) // len(places)
        if len(places) < len(prompts):
            rows = torch.tensor([m * len(places) + places[prompt] for m in range(num_members) for prompt in prompts])
            rows = rows.to(self.model.device)
            hidden_RD, mask_RT = hidden_RD[rows], mask_RT[rows]
            cache.batch_select_indices(rows)
        return hidden_RD, mask_RT, cache

    def prefill(self, prompts: Sequence[tuple[int, ...]], cache: DynamicCache) -> tuple[Tensor, Tensor]:
        """Fill the cache; return the hidden state at the end of each prompt, `[R, D]`, and the prompts' mask."""
        longest, device = max(map(len, prompts)), self.model.device
        num_members = len(self.members) if self.adapters else 1
        ids = [[self.pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts] * num_members
        length_R = torch.tensor([len(prompt) for prompt in prompts] * num_members, device=device)
        mask_RT = (torch.arange(longest, device=device) >= longest - length_R[:, None]).long()
        with self.routed(len(prompts)):
            return self.read(torch.tensor(ids, device=device), mask_RT, cache)[:, -1], mask_RT

    def routed(self, rows: int) -> AbstractContextManager[None]:
        """See `routed_evenly`."""
        return routed_evenly(self.adapters, self.members, rows)

    def read(self, ids_RC: Tensor, mask_RT: Tensor, cache: DynamicCache) -> Tensor:
        """Read C tokens that follow those in the cache, and are the last ones of the mask; return `[R, C, D]`."""
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
