"""Replies of many trials to the same prompts in one stream of forward passes.

Shape legend: M members (or 1 for the base model), P prompts of a chunk, L tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trainables.engine.adapters import PackedAdapters, Route
from trainables.engine.forward import autocast, head_of
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup

Reply = tuple[int, ...]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    adapters: PackedAdapters | None = None,
    members: Sequence[int] = (),
    seeds: Sequence[int] = (),
    max_new_tokens: int,
    stop_ids: frozenset[int],
    pad_id: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    rows_per_batch: int = 256,
    workers: ProcessGroup = SINGLE_PROCESS,
) -> list[list[Reply]]:
    """Reply to every prompt with every member.

    Args:
        prompts: tokens of each prompt, up to the place where the reply starts.
        adapters, members: whose replies; without adapters the base model's alone.
        seeds: one per member; used when sampling. A reply depends on its member's weights and seed and on the place of
            its prompt in the list, not on what else is in the pack.
        max_new_tokens: longest reply.
        stop_ids: tokens that end a reply; they are not part of it.
        temperature: 0 is greedy.
        top_p: sample from the smallest set of likeliest tokens that has this probability (Holtzman et al. 2020,
            arXiv:1904.09751).
        rows_per_batch: rows of one forward pass.
        workers: who generates together, each for some of the prompts; each comes to all replies.

    Returns:
        `[member][prompt]`, tokens without the stop token.
    """
    voices = len(members) if adapters else 1
    if max_new_tokens < 1:
        return [[()] * len(prompts) for _ in range(voices)]
    found: dict[int, list[Reply]] = {}  # prompt -> replies of all members
    uniform = _uniforms(seeds, len(prompts), max_new_tokens) if temperature > 0 else None
    for some in _chunks(prompts, max(1, rows_per_batch // voices) * workers.count):
        own, chunk = workers.deal(some)
        draws = None if uniform is None else uniform[:, chunk].reshape(-1, max_new_tokens)
        decoder = _Decoder(model, stop_ids, pad_id, temperature, top_p, draws, workers, adapters, members)
        out = decoder.run([tuple(prompts[index]) for index in chunk], max_new_tokens)
        found.update((some[place], out[row :: len(chunk)]) for row, place in enumerate(own))
    together = {prompt: replies for part in workers.gather(found) for prompt, replies in part.items()}
    return [[together[prompt][voice] for prompt in range(len(prompts))] for voice in range(voices)]


def _chunks(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of prompts, similar lengths together, so that little is spent on padding, and equal ones side by side."""
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), tuple(prompts[index]), index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _uniforms(seeds: Sequence[int], num_prompts: int, num_tokens: int) -> np.ndarray:
    """One number in [0, 1) per member, prompt and token, `[M, prompts, tokens]`, from (seed, prompt) alone."""
    rows = [[np.random.default_rng([seed, index]).random(num_tokens) for index in range(num_prompts)] for seed in seeds]
    return np.asarray(rows)


def nucleus(probabilities_RV: Tensor, top_p: float) -> Tensor:
    """The probabilities with those outside the smallest set of likeliest tokens of at least `top_p` set to 0, `[R, V]`.

    Not normalised again. The token that reaches `top_p` belongs to the set, so that there is always one.
    """
    if top_p >= 1.0:
        return probabilities_RV
    ordered, places = probabilities_RV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities_RV).scatter_(-1, places, kept)


class _Decoder:
    """Token-by-token decoding of one chunk with a key-value cache. A prompt that is asked several times is read once.

    Prompts are padded on the right and the replies follow the padding, which later tokens do not see. Unlike padding on
    the left this leaves no position without anything to attend to (a source of NaN), and the prompts need no mask.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: frozenset[int],
        pad_id: int,
        temperature: float,
        top_p: float,
        draws: np.ndarray | None,
        workers: ProcessGroup,
        adapters: PackedAdapters | None,
        members: Sequence[int],
    ) -> None:
        self.adapters, self.members = adapters, tuple(members)
        self.model, self.head, self.pad_id, self.workers = model, head_of(model), pad_id, workers
        self.temperature, self.top_p = temperature, top_p
        self.stop = torch.tensor(sorted(stop_ids), device=model.device)
        self.draws = None if draws is None else torch.from_numpy(draws).to(model.device)

    def run(self, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[Reply]:
        """The replies of all members to the prompts, member after member."""
        device, longest = self.model.device, max(map(len, prompts))
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        cache = DynamicCache(config=self.model.config)
        hidden = self._read(list(places), cache)
        voices = len(hidden) // len(places)
        rows = torch.tensor([voice * len(places) + places[prompt] for voice in range(voices) for prompt in prompts])
        if len(places) < len(prompts):
            rows = rows.to(device)
            hidden = hidden[rows]
            cache.batch_select_indices(rows)
        length = torch.tensor([len(prompt) for prompt in prompts] * voices, device=device)
        mask = (torch.arange(longest, device=device) < length[:, None]).long()
        with self._routed(len(prompts)):
            return self._write(hidden, cache, mask, max_new_tokens)

    def _read(self, prompts: Sequence[tuple[int, ...]], cache: DynamicCache) -> Tensor:
        """The hidden state of each member at the end of each prompt; fills the cache."""
        longest = max(map(len, prompts))
        voices = len(self.members) if self.adapters else 1
        padded = [list(prompt) + [self.pad_id] * (longest - len(prompt)) for prompt in prompts] * voices
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts] * voices, device=self.model.device)
        with self._routed(len(prompts)):
            hidden = self._forward(torch.tensor(padded, device=self.model.device), None, cache)
        return hidden[torch.arange(len(ends), device=self.model.device), ends]

    def _routed(self, rows: int) -> AbstractContextManager[None]:
        """Sends so many rows to each member, one member after the other."""
        if self.adapters is None:
            return nullcontext()
        return self.adapters.routed(Route(self.members, (rows,) * len(self.members)))

    def _write(self, hidden: Tensor, cache: DynamicCache, mask: Tensor, max_new_tokens: int) -> list[Reply]:
        """Token after token, from the hidden states at the ends of the prompts, where `mask` has its last ones."""
        length, padded = mask.sum(dim=1), not bool(mask.all())
        finished = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        written: list[Tensor] = []
        while True:
            token = torch.where(finished, self.pad_id, self._pick(self._logits(hidden), len(written)))
            finished = finished | torch.isin(token, self.stop)
            written.append(token)
            if len(written) == max_new_tokens or all(self.workers.gather(bool(finished.all()))):
                return [self._reply(row) for row in torch.stack(written, dim=1).tolist()]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = (length + len(written) - 1)[:, None]
            hidden = self._forward(token[:, None], mask if padded else None, cache, positions)[:, -1]

    def _forward(
        self, ids: Tensor, mask: Tensor | None, cache: DynamicCache, positions: Tensor | None = None
    ) -> Tensor:
        with autocast(ids.device):
            return self.model.base_model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state

    def _logits(self, hidden_RD: Tensor) -> Tensor:
        with autocast(hidden_RD.device):
            return self.head(hidden_RD)

    def _pick(self, logits_RV: Tensor, number: int) -> Tensor:
        """The next token of each row: the most likely one, or by inverse transform sampling."""
        if self.draws is None:
            return logits_RV.argmax(dim=-1)
        probabilities_RV = torch.softmax(logits_RV.double() / self.temperature, dim=-1)
        cumulative = nucleus(probabilities_RV, self.top_p).cumsum(dim=-1)
        draw = self.draws[:, number : number + 1] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, draw, right=True).squeeze(-1).clamp(max=logits_RV.shape[-1] - 1)

    def _reply(self, tokens: Sequence[int]) -> Reply:
        stops = set(self.stop.tolist())
        end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
        return tuple(tokens[:end])
