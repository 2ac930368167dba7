"""Replies of many trials to the same prompts in one series of forward passes.

Shape legend: R rows of a forward pass, one per member and prompt, then those that the base model reads; T tokens so
far, padding included; D hidden width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trainables.engine.adapters import PackedAdapters
from trainables.engine.forward import autocast, head_of
from trainables.engine.frozen.prefix import Start
from trainables.engine.frozen.prefix_cache import PackPrefixes
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.evaluation.cached import CachedReader
from trainables.evaluation.mixing import Readers

Reply = tuple[int, ...]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    adapters: PackedAdapters | None = None,
    members: Sequence[int] = (),
    mixes: Sequence[float] = (),
    seeds: Sequence[int | str] = (),
    max_new_tokens: int,
    stop_ids: frozenset[int],
    pad_id: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    rows_per_batch: int = 256,
    prefixes: PackPrefixes | None = None,
    workers: ProcessGroup = SINGLE_PROCESS,
    progress: Callable[[float], None] = lambda done: None,
) -> list[list[Reply]]:
    """Reply to every prompt with every member.

    Args:
        prompts: tokens of each prompt, up to the place where the reply starts.
        adapters, members, mixes: who replies, and how much each is mixed with the base model; see `Readers`.
        seeds: one per member, used when sampling; give different ones for lists of prompts whose draws shall differ. A
            reply depends on its member's weights and seed and on its prompt's place in the list, but not on other
            members.
        max_new_tokens: longest reply.
        stop_ids: tokens that end a reply; they are not part of it.
        temperature: 0 is greedy.
        top_p: sample from the smallest set of most likely tokens with this probability (Holtzman et al. 2020,
            arXiv:1904.09751).
        rows_per_batch: rows per forward pass.
        prefixes: the pack's; the layers below its lowest adapted one read each prompt once for all members.
        workers: the processes that generate together, each for a part of the prompts; each returns all replies.
        progress: called after every token with the number of prompts done, including fractions of a reply.

    Returns:
        `[member][prompt]`, tokens without the stop token.
    """
    readers = Readers(adapters, tuple(members), tuple(mixes))
    num_members, num_rows = readers.count, readers.count + len(readers.mixed)  # per prompt
    if max_new_tokens < 1:
        return [[()] * len(prompts) for _ in range(num_members)]
    replies: dict[int, list[Reply]] = {}  # prompt -> replies of all members
    start = prefixes.start if prefixes else None
    uniform = _uniforms(seeds, len(prompts), max_new_tokens) if temperature > 0 else None
    for indices in _chunks(prompts, max(1, rows_per_batch // num_rows) * workers.count):
        places, chunk = workers.shard(indices)
        draws = None if uniform is None else uniform[:, chunk].reshape(-1, max_new_tokens)
        decoder = Decoder(model, stop_ids, pad_id, temperature, top_p, draws, workers, readers, start)
        decoder.progress = partial(_tell, progress, len(replies), len(chunk) / max_new_tokens)
        out = decoder.run([tuple(prompts[index]) for index in chunk], max_new_tokens)
        replies.update((indices[place], out[row :: len(chunk)]) for row, place in enumerate(places))
    gathered = {prompt: of_prompt for part in workers.gather(replies) for prompt, of_prompt in part.items()}
    return [[gathered[prompt][member] for prompt in range(len(prompts))] for member in range(num_members)]


def _tell(progress: Callable[[float], None], before: int, part: float, tokens: int) -> None:
    """Report how many prompts are done: those of earlier chunks, and this chunk's share by tokens."""
    progress(before + part * tokens)


def _chunks(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Yield indices of prompts in chunks: similar lengths together to save padding, equal ones side by side."""
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), tuple(prompts[index]), index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _uniforms(seeds: Sequence[int | str], num_prompts: int, num_tokens: int) -> np.ndarray:
    """Draw a number in [0, 1) per member, prompt and token, `[members, prompts, tokens]`, only from (seed, prompt)."""
    rows = [[_generator(seed, place).random(num_tokens) for place in range(num_prompts)] for seed in seeds]
    return np.asarray(rows)


def _generator(seed: int | str, place: int) -> np.random.Generator:
    """Return a generator that shares no numbers with those of other purposes, such as the order of the rows."""
    digest = hashlib.sha256(f"reply/{seed}/{place}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def nucleus(probabilities_RV: Tensor, top_p: float) -> Tensor:
    """Zero the probabilities outside the smallest set of most likely tokens with at least `top_p`, `[R, V]`.

    The rest is not renormalised. The token that reaches `top_p` belongs to the set, which is thus never empty.
    """
    if top_p >= 1.0:
        return probabilities_RV
    ordered, places = probabilities_RV.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities_RV).scatter_(-1, places, kept)


class Decoder(CachedReader):
    """Token-by-token decoding of one chunk of prompts."""

    def __init__(
        self,
        model: PreTrainedModel,
        stop_ids: frozenset[int],
        pad_id: int,
        temperature: float,
        top_p: float,
        draws: np.ndarray | None,
        workers: ProcessGroup,
        readers: Readers,
        start: Start | None = None,
    ) -> None:
        super().__init__(model, pad_id, readers, start)
        self.head, self.workers = head_of(model), workers
        self.temperature, self.top_p = temperature, top_p
        self.stop = torch.tensor(sorted(stop_ids), device=model.device)
        self.draws = None if draws is None else torch.from_numpy(draws).to(model.device)
        self.progress: Callable[[int], None] = lambda tokens: None

    def run(self, prompts: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[Reply]:
        """Return the replies of all members to the prompts, member after member."""
        hidden_RD, mask_RT, cache = self.begin(prompts)
        with self.readers.routed(len(prompts), len(prompts) * len(self.readers.mixed)):
            return self._decode(hidden_RD, cache, mask_RT, max_new_tokens)

    @property
    def blocks_after_prompts(self) -> list[int]:
        """All members, then for each mixed member the base model, which reads that member's reply."""
        return [*range(self.readers.count), *[self.readers.count] * len(self.readers.mixed)]

    def _decode(self, hidden_RD: Tensor, cache: DynamicCache, mask_RT: Tensor, max_new_tokens: int) -> list[Reply]:
        """Reply from the hidden states at the ends of the prompts; `mask_RT` marks their padding."""
        num_replies = len(mask_RT) * self.readers.count // len(self.blocks_after_prompts)
        finished = torch.zeros(num_replies, dtype=torch.bool, device=mask_RT.device)
        tokens: list[Tensor] = []
        while True:
            token = torch.where(finished, self.pad_id, self._sample(self._logits(hidden_RD), len(tokens)))
            finished = finished | torch.isin(token, self.stop)
            tokens.append(token)
            self.progress(len(tokens))
            if len(tokens) == max_new_tokens or all(self.workers.gather(bool(finished.all()))):
                return [self._reply(row) for row in torch.stack(tokens, dim=1).tolist()]
            mask_RT = torch.cat([mask_RT, mask_RT.new_ones(len(mask_RT), 1)], dim=1)
            of_members = token.chunk(self.readers.count)
            read = torch.cat([token, *(of_members[place] for place in self.readers.mixed)])
            hidden_RD = self.read(read[:, None], mask_RT, cache)[:, -1]

    def _logits(self, hidden_RD: Tensor) -> Tensor:
        """Return the logits of the next token of each reply."""
        with autocast(hidden_RD.device):
            logits_RV = self.head(hidden_RD)
        num_replies = len(hidden_RD) * self.readers.count // len(self.blocks_after_prompts)
        return self.readers.mix(logits_RV[:num_replies], logits_RV[num_replies:])

    def _sample(self, logits_RV: Tensor, number: int) -> Tensor:
        """Return the next token of each row: the most likely one, or by inverse transform sampling."""
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
