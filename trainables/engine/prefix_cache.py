"""What lies below the lowest adapted layer, computed once for each row and shared by all trials of all sweeps.

The hidden states that enter that layer are the base model's for every trial, seed, step and evaluation. They lie in
files named by their content, as the outputs of `reference_cache` do, at every position of each row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from settings.encoding import EncodedRow
from trainables.engine.base import LoadedBase
from trainables.engine.batches import to_device
from trainables.engine.forward import autocast
from trainables.engine.prefix import Prefix, outputs_below, states_below
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.engine.reference_cache import MAX_BYTES, ROWS_PER_BATCH, content_key, shared_tensors

VERSION = 1  # part of a file's name; raise it when the same rows would give other numbers
CHECKED_ROWS = 4  # on which a pass that begins above is compared with the whole pass
PrefixOn = Callable[[Sequence[EncodedRow]], Prefix | None]
"""Return what lies below the lowest adapted layer on rows; None where passes begin at the bottom."""


class PrefixCache:
    """The hidden states that enter a layer of base models, by content.

    Args:
        folder: where the files lie.
        max_bytes: of one file; passes over rows that would take more begin at the bottom.
        workers: the processes that read together. Each must read the same rows, in the same order.

    Attributes:
        caution: why passes begin at the bottom; "" where they need not.
    """

    def __init__(self, folder: Path, *, max_bytes: float = MAX_BYTES, workers: ProcessGroup = SINGLE_PROCESS) -> None:
        self._folder, self._max_bytes, self._workers = folder, max_bytes, workers
        self._prefixes: dict[str, Prefix] = {}
        self._num_outputs: dict[tuple[str, int], tuple[int | None, str]] = {}
        self.caution = ""

    def on(self, base: LoadedBase, first_block: int, rows: Sequence[EncodedRow]) -> Prefix | None:
        """Return what the blocks below `first_block` make of rows, computed now unless it is there.

        None where nothing lies below, where it would be too large, where the base model is sharded, and where a pass
        that begins above would not give what the whole pass gives.
        """
        if first_block == 0 or not rows or self._workers.sharded:
            return None
        ids = list(dict.fromkeys(row.ids for row in rows))
        need = sum(map(len, ids)) * base.model.config.get_text_config().hidden_size * base.model.dtype.itemsize
        if need > self._max_bytes:
            self.caution = (
                f"the states below layer {first_block} take {need / 1e9:.1f} GB, more than {self._max_bytes / 1e9:.1f}"
                " GB, and are computed anew in every step"
            )
            return None
        key = _key(base, first_block, ids)
        if key not in self._prefixes:
            num_outputs, problem = self._try(base, first_block, ids)
            if problem:
                self.caution = f"every step computes all layers of a {base.model.config.model_type} model: {problem}"
                return None
            self._prefixes[key] = self._read_or_compute(base, first_block, num_outputs, ids, key)
        return self._prefixes[key]

    def _try(self, base: LoadedBase, first_block: int, ids: Sequence[tuple[int, ...]]) -> tuple[int | None, str]:
        """See `outputs_below`; asked once of each base model and layer."""
        key = (base.content_id, first_block)
        if key not in self._num_outputs:
            ids_RT = _padded(sorted(ids, key=len)[:CHECKED_ROWS], base)
            with autocast(base.model.device):
                self._num_outputs[key] = outputs_below(base.model, first_block, ids_RT)
        return self._num_outputs[key]

    def _read_or_compute(
        self, base: LoadedBase, first_block: int, num_outputs: int | None, ids: Sequence[tuple[int, ...]], key: str
    ) -> Prefix:
        ends = np.cumsum([len(row) for row in ids]).tolist()
        place = {row: (end - len(row), end) for row, end in zip(ids, ends, strict=True)}
        tensors = shared_tensors(
            self._folder / f"{key}.safetensors",
            lambda: {"states": compute_states(base, first_block, num_outputs, ids)},
            self._workers,
            base.model.device,
        )
        return Prefix(first_block, place, tensors["states"], num_outputs)


def compute_states(
    base: LoadedBase, first_block: int, num_outputs: int | None, ids: Sequence[tuple[int, ...]]
) -> Tensor:
    """Return the hidden states that enter a block at every position of rows; similar lengths are read together."""
    order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), index))
    states: dict[int, Tensor] = {}
    for start in range(0, len(order), ROWS_PER_BATCH):
        indices = order[start : start + ROWS_PER_BATCH]
        with autocast(base.model.device):
            states_RTD = states_below(
                base.model, first_block, num_outputs, _padded([ids[index] for index in indices], base)
            )
        states.update((index, row[: len(ids[index])].clone()) for index, row in zip(indices, states_RTD, strict=True))
    return torch.cat([states[index] for index in range(len(ids))])


def _padded(ids: Sequence[tuple[int, ...]], base: LoadedBase) -> Tensor:
    padded = np.full((len(ids), max(map(len, ids))), int(base.tokenizer.pad_token_id), dtype=np.int64)
    for number, row in enumerate(ids):
        padded[number, : len(row)] = row
    return to_device(padded, base.model.device)


def _key(base: LoadedBase, first_block: int, ids: Sequence[tuple[int, ...]]) -> str:
    """Return the content id of everything that decides a bit, but for the kind of processor."""
    rows = hashlib.sha256(repr(list(ids)).encode()).hexdigest()
    return content_key(base, {"prefix": VERSION, "first_block": first_block, "rows": rows})
