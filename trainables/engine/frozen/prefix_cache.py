"""Hidden states below the lowest adapted layer, computed once per row and shared by all trials of all sweeps.

The hidden states that enter that layer are the base model's for every trial, seed, step and evaluation. They are stored
at every position of each row, in files named by their content, like the outputs of `reference_cache`.

Shape legend: R rows, T padded length in tokens, N positions of all rows concatenated, D hidden width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from settings.encoding import EncodedRow
from trainables.engine.base import LoadedBase
from trainables.engine.batches import to_device
from trainables.engine.forward import autocast
from trainables.engine.frozen.prefix import Prefix, Start, find_start, states_below
from trainables.engine.frozen.reference_cache import ROWS_PER_BATCH, SharedTensors, content_key
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup

Progress = Callable[[int, int], None]
MAX_BYTES = 4e9  # per file, which is computed in main memory
VERSION = 1  # part of a file's name; raise it when the same rows would give different numbers


class PrefixCache:
    """The hidden states that enter a layer of base models, by content.

    Args:
        folder: folder of the files.
        max_bytes: limit per file; passes over rows that would take more begin at the bottom.
        workers: the processes that read together. Each must read the same rows, in the same order.
        progress: called with (rows done, all rows) while states are computed.

    Attributes:
        caution: why passes begin at the bottom; "" if they need not.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: float = MAX_BYTES,
        workers: ProcessGroup = SINGLE_PROCESS,
        progress: Progress = lambda done, total: None,
    ) -> None:
        self._tensors, self._max_bytes = SharedTensors(folder, workers), max_bytes
        self._workers, self._progress = workers, progress
        self._prefixes: dict[str, Prefix] = {}
        self._starts: dict[tuple[str, int], Start | str] = {}
        self.caution = ""

    def start(self, base: LoadedBase, first_block: int) -> Start | None:
        """Return how passes begin at a block; None if they must begin at the bottom.

        They must if there are no blocks below, if the base model is sharded, or if such a pass would not reproduce the
        whole pass.
        """
        if first_block == 0 or self._workers.sharded:
            return None
        key = (base.content_id, first_block)
        if key not in self._starts:
            with autocast(base.model.device):
                self._starts[key] = find_start(base.model, first_block)
        start = self._starts[key]
        if isinstance(start, Start):
            return start
        self.caution = f"every step computes all layers of a {base.model.config.model_type} model: {start}"
        return None

    def on(self, base: LoadedBase, first_block: int, rows: Sequence[EncodedRow]) -> Prefix | None:
        """Return the states of rows after the blocks below `first_block`; compute them if they are missing.

        None if passes must begin at the bottom, or the states would be too large.
        """
        start = self.start(base, first_block)
        if start is None or not rows:
            return None
        ids = list(dict.fromkeys(row.ids for row in rows))
        need = prefix_bytes(sum(map(len, ids)), base.model.config.get_text_config().hidden_size, base.model.dtype)
        if need > self._max_bytes:
            self.caution = (
                f"the states below layer {first_block} would take {need / 1e9:.1f} GB, more than"
                f" {self._max_bytes / 1e9:.1f} GB, so they are recomputed in every step"
            )
            return None
        key = _key(base, first_block, ids)
        if key not in self._prefixes:
            self._prefixes[key] = self._read_or_compute(base, start, ids, key)
        return self._prefixes[key]

    def _read_or_compute(self, base: LoadedBase, start: Start, ids: Sequence[tuple[int, ...]], key: str) -> Prefix:
        tensors = self._tensors.get(
            key, lambda: {"states": compute_states(base, start, ids, self._progress)}, base.model.device
        )
        ends = accumulate(map(len, ids))
        place = {row: (end - len(row), end) for row, end in zip(ids, ends, strict=True)}
        return Prefix(start, place, tensors["states"])


@dataclass(frozen=True)
class PackPrefixes:
    """The cached states below the lowest adapted layer of one pack.

    Attributes:
        cache: where they are cached; None means nowhere, and passes begin at the bottom.
        base: the model.
        first_block: the lowest adapted block.
    """

    cache: PrefixCache | None
    base: LoadedBase
    first_block: int

    def on(self, rows: Sequence[EncodedRow]) -> Prefix | None:
        """See `PrefixCache.on`."""
        return self.cache.on(self.base, self.first_block, rows) if self.cache else None

    @property
    def start(self) -> Start | None:
        """See `PrefixCache.start`."""
        return self.cache.start(self.base, self.first_block) if self.cache else None


def prefix_bytes(tokens: float, width: int, dtype: torch.dtype) -> float:
    """Return the bytes of the states of `tokens` tokens."""
    return tokens * width * dtype.itemsize


def compute_states(
    base: LoadedBase, start: Start, ids: Sequence[tuple[int, ...]], progress: Progress = lambda done, total: None
) -> Tensor:
    """Return the hidden states that passes begin with, row after row; similar lengths are read together."""
    order = sorted(range(len(ids)), key=lambda index: (len(ids[index]), index))
    ends = list(accumulate(map(len, ids)))
    states_ND = torch.empty(0)
    for first in range(0, len(order), ROWS_PER_BATCH):
        progress(first, len(order))
        indices = order[first : first + ROWS_PER_BATCH]
        with autocast(base.model.device):
            states_RTD = states_below(base.model, start, _padded([ids[index] for index in indices], base))
        if not first:
            states_ND = torch.empty(ends[-1], states_RTD.shape[2], dtype=states_RTD.dtype)
        for index, row in zip(indices, states_RTD, strict=True):
            states_ND[ends[index] - len(ids[index]) : ends[index]] = row[: len(ids[index])]
    return states_ND


def _padded(ids: Sequence[tuple[int, ...]], base: LoadedBase) -> Tensor:
    padded = np.full((len(ids), max(map(len, ids))), int(base.tokenizer.pad_token_id), dtype=np.int64)
    for number, row in enumerate(ids):
        padded[number, : len(row)] = row
    return to_device(padded, base.model.device)


def _key(base: LoadedBase, first_block: int, ids: Sequence[tuple[int, ...]]) -> str:
    """Return the content id of everything that affects a bit, except the kind of processor."""
    rows = hashlib.sha256(repr(list(ids)).encode()).hexdigest()
    return content_key(base, {"prefix": VERSION, "first_block": first_block, "rows": rows})
