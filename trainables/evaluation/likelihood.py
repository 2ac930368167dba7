"""How likely given replies are under models: mean token losses, and log-likelihoods of several replies to a prompt.

Members of a pack read in one series of forward passes. Equal rows are read once, similar lengths together. Which rows
share a pass is not part of any identity, because it depends on the numbers of members and workers. Up to rounding, a
row's value depends only on the row (`tests/trainables/evaluation/test_likelihood.py`); its last bits may change.

Shape legend: R rows of a forward pass, one per block (a member, or the base model beside them) and row; T tokens of a
prompt, C tokens of a reply without its last one, both with padding; N predicted tokens of all rows concatenated, n
those of a chunk; D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from settings.encoding import EncodedRow
from trainables.chunked import per_position
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import RowPositions, collate, to_device
from trainables.engine.forward import autocast, head_of, hidden_states
from trainables.engine.frozen.prefix import Prefix, Span
from trainables.engine.frozen.prefix_cache import PackPrefixes
from trainables.engine.memory import LOGITS
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.evaluation.cached import CachedReader
from trainables.evaluation.mixing import Readers, mixed_logits
from trainables.interface.outputs import Forward
from trainables.losses import token_nll

ROWS_PER_BATCH, TOKENS_PER_BATCH = 256, 1 << 14  # of all members together, padding included; a single row may exceed it
Measure = Callable[[Sequence[EncodedRow]], Sequence[Tensor]]
"""Return the negative log-likelihoods of each row's response tokens, member after member."""
Progress = Callable[[float], None]


@torch.no_grad()
def token_losses(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    pad_id: int,
    *,
    adapters: PackedAdapters | None = None,
    members: Sequence[int] = (),
    mixes: Sequence[float] = (),
    prefixes: PackPrefixes | None = None,
    workers: ProcessGroup = SINGLE_PROCESS,
    progress: Progress = lambda share: None,
) -> list[list[float]]:
    """Return the mean cross-entropy in nats per response token, `[member][row]`.

    Args:
        adapters, members, mixes: who reads, and how much each is mixed with the base model; see `Readers`.
        prefixes: cached states below the lowest adapted layer; None computes them.
        workers: the processes that read together, each a part of the rows; each returns all values.
        progress: called with the share of rows read.
    """

    def measure(batch_rows: Sequence[EncodedRow]) -> Sequence[Tensor]:
        repeated = [RowPositions(row) for row in batch_rows] * readers.blocks
        batch = collate(repeated, pad_id, model.device)
        begun: AbstractContextManager[None] = nullcontext()
        if known is not None:
            states_RTD = known.of_rows([row.ids for row in batch_rows], batch.ids_RT.shape[1], model.device)
            begun = known.start.begun(model, states_RTD.repeat(readers.blocks, 1, 1))
        with autocast(model.device), readers.routed_evenly(len(batch_rows)), begun:
            hidden_ND, _ = hidden_states(model, batch)
        return _nll(model, readers, hidden_ND, batch.labels_N, batch.positions_per_row)

    known = prefixes.on(rows) if prefixes else None
    readers = Readers(adapters, tuple(members), tuple(mixes))
    order = sorted(set(rows), key=lambda row: (len(row.ids), row.ids))
    return _values(rows, order, measure, torch.mean, readers, workers, progress)


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    pad_id: int,
    *,
    adapters: PackedAdapters | None = None,
    members: Sequence[int] = (),
    mixes: Sequence[float] = (),
    prefixes: PackPrefixes | None = None,
    workers: ProcessGroup = SINGLE_PROCESS,
    progress: Progress = lambda share: None,
) -> list[list[float]]:
    """Return the log-likelihood in nats of each row's response given its prompt, `[member][row]`.

    A prompt shared by several rows is read once, and gives the probabilities of all their first tokens; only responses
    of more than one token are read beyond it.

    Args:
        adapters, members, mixes, prefixes, workers, progress: see `token_losses`.
    """
    readers = Readers(adapters, tuple(members), tuple(mixes))
    order = sorted(set(rows), key=lambda row: (row.prompt_length, row.ids[: row.prompt_length], len(row.ids), row.ids))
    # Layers of a sharded model run on all workers or on none, so this must not depend on a worker's rows.
    beyond = any(len(row.ids) > row.prompt_length + 1 for row in rows)
    known = prefixes.on(rows) if prefixes else None
    reader = CachedReader(model, pad_id, readers, prefixes.start if prefixes else None)
    measure = partial(_reply_nll, model, reader, known, beyond)
    values = _values(rows, order, measure, torch.sum, readers, workers, progress)
    return [[-nats for nats in of_member] for of_member in values]


def _reply_nll(
    model: PreTrainedModel, reader: CachedReader, known: Prefix | None, beyond: bool, rows: Sequence[EncodedRow]
) -> Sequence[Tensor]:
    """See `Measure`. The hidden state at a prompt's end predicts the first token of its reply."""
    replies = [row.ids[row.prompt_length :] for row in rows] * reader.readers.blocks
    prompts = [row.ids[: row.prompt_length] for row in rows]
    hidden_RD, mask_RT, cache = reader.begin(prompts, known, [row.ids for row in rows])
    hidden_RCD = hidden_RD[:, None]
    if beyond:
        lengths = [len(reply) - 1 for reply in replies]
        ids_RC = np.full((len(replies), max(1, *lengths)), reader.pad_id, dtype=np.int64)
        for row, reply in enumerate(replies):
            ids_RC[row, : lengths[row]] = reply[:-1]
        reply_mask_RC = (np.arange(ids_RC.shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
        mask_RT = torch.cat([mask_RT, to_device(reply_mask_RC, model.device)], dim=1)
        reader.padded = reader.padded or len(set(lengths)) > 1
        begun: AbstractContextManager[None] = nullcontext()
        if known is not None:
            spans = [Span(row.ids, row.prompt_length, len(row.ids) - 1) for row in rows]
            begun = reader.begun(known.start, known.of(spans, ids_RC.shape[1], model.device), cache)
        with reader.readers.routed_evenly(len(rows)), begun:
            following_RCD = reader.read(to_device(ids_RC, model.device), mask_RT, cache)
        hidden_RCD = torch.cat([hidden_RCD, following_RCD], dim=1)
    counts = [len(reply) for reply in replies]
    row_N = np.repeat(np.arange(len(replies)), counts)
    column_N = np.concatenate([np.arange(count) for count in counts])
    hidden_ND = hidden_RCD[to_device(row_N, model.device), to_device(column_N, model.device)]
    labels_N = to_device(np.concatenate([np.asarray(reply, dtype=np.int64) for reply in replies]), model.device)
    return _nll(model, reader.readers, hidden_ND, labels_N, counts)


def _nll(
    model: PreTrainedModel, readers: Readers, hidden_ND: Tensor, labels_N: Tensor, counts: Sequence[int]
) -> Sequence[Tensor]:
    """Return the negative log-likelihoods of the labels, split into rows, without holding all logits at once.

    Args:
        hidden_ND: hidden states of all blocks, each at the same positions.
        counts: number of positions of each row of each block.
    """
    chunk = max(1, LOGITS // model.config.get_text_config().vocab_size)
    per_block, of_members = len(labels_N) // readers.blocks, len(counts) * readers.count // readers.blocks
    head = head_of(model)
    base_ND = hidden_ND[readers.count * per_block :]

    def nll(place: int, hidden_nD: Tensor, at: slice) -> Tensor:
        logits_nV = mixed_logits(head(hidden_nD), head(base_ND[at]), readers.mixes[place])
        return torch.nn.functional.cross_entropy(logits_nV, labels_N[:per_block][at], reduction="none")

    with autocast(model.device):
        row_N = torch.zeros_like(labels_N)  # unused
        nll_N = token_nll(Forward(hidden_ND, labels_N, row_N, len(counts), head, chunk=chunk))
        for place in readers.mixed:
            own = slice(place * per_block, (place + 1) * per_block)
            nll_N[own] = per_position(partial(nll, place), hidden_ND[own], chunk)
    return nll_N.split(list(counts))[:of_members]


def _values(
    rows: Sequence[EncodedRow],
    order: Sequence[EncodedRow],
    measure: Measure,
    reduce: Callable[[Tensor], Tensor],
    readers: Readers,
    workers: ProcessGroup,
    progress: Progress,
) -> list[list[float]]:
    """Return a value for each row, `[member][row]`.

    Args:
        order: the distinct rows, in reading order.
        reduce: reduces a row's negative log-likelihoods to one number.
    """
    values: dict[int, list[float]] = {}  # place in the order -> values of all members
    for batch in _batches(order, readers.blocks, workers.count):
        shared, of_worker = workers.shard([order[place] for place in batch])
        numbers = torch.stack([reduce(nll) for nll in measure(of_worker)]).tolist()
        values.update((batch[index], numbers[at :: len(of_worker)]) for at, index in enumerate(shared))
        progress(batch.stop / len(order))
    gathered = {place: of_row for part in workers.gather(values) for place, of_row in part.items()}
    places = {row: place for place, row in enumerate(order)}
    return [[gathered[places[row]][member] for row in rows] for member in range(readers.count)]


def _batches(order: Sequence[EncodedRow], num_blocks: int, num_workers: int) -> Iterator[range]:
    """Cut the order into batches that are small enough once their rows are split over the workers."""
    start, longest = 0, 0
    for end, row in enumerate(order):
        longest = max(longest, len(row.ids))
        read = -(-(end - start + 1) // num_workers) * num_blocks  # rows of a forward pass with this one
        if end > start and (read > ROWS_PER_BATCH or read * longest > TOKENS_PER_BATCH):
            yield range(start, end)
            start, longest = end, len(row.ids)
    if order:
        yield range(start, len(order))
