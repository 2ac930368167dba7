"""What the frozen base model gives on a setting's rows: computed once, then shared by all trials of all sweeps.

The head is frozen, too, so that the final hidden states are all that a reference distribution needs; they are V / D
times smaller than its logits. They lie in files named by their content, which processes of one node map into the same
memory and all nodes find on the shared cache. Rows are computed in batches of their own, whatever pack asks, so that
every run reads the same bits; in float32 they agree with a reference that is forwarded beside the policy to the last
bits, in bfloat16 to its rounding.

Shape legend: N positions that count, of all rows concatenated; L layers, D hidden width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from settings.common.content import content_id
from settings.common.files import replacing_file
from trainables.engine.base import LoadedBase
from trainables.engine.batches import EncodedRow, RowPositions, collate
from trainables.engine.forward import autocast, hidden_states
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, layers_of
from trainables.method import Positions

VERSION = 1  # part of a file's name; raise it when the same rows would give other numbers
ROWS_PER_BATCH = 32
MAX_BYTES = 8e9  # of one file; more is forwarded beside the policy in every step
ON_DEVICE_BYTES = 1e9  # what is larger stays in main memory, and each step's rows are copied


@dataclass(frozen=True)
class CachedOutputs:
    """The base model's outputs at the positions that count of some rows.

    Attributes:
        place: of each row, where its positions start and end.
        hidden_ND: final hidden states.
        layers_LND: those after each layer; None unless asked for.
    """

    place: Mapping[EncodedRow, tuple[int, int]]
    hidden_ND: Tensor
    layers_LND: Tensor | None

    def of(self, rows: Sequence[EncodedRow], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The outputs on these rows, one after the other. Raises KeyError for a row that is not known."""
        at_N = torch.cat([torch.arange(*self.place[row]) for row in rows]).to(self.hidden_ND.device, non_blocking=True)
        hidden_ND = self.hidden_ND[at_N].to(device, non_blocking=True)
        return hidden_ND, None if self.layers_LND is None else self.layers_LND[:, at_N].to(device, non_blocking=True)


class ReferenceCache:
    """The known outputs of base models, by content.

    Args:
        folder: where they are kept.
        max_bytes: of one file; rows that would take more are not known.
        workers: who asks together. Each must ask for the same, in the same order.
    """

    def __init__(self, folder: Path, *, max_bytes: float = MAX_BYTES, workers: ProcessGroup = SINGLE_PROCESS) -> None:
        self._folder, self._max_bytes, self._workers = folder, max_bytes, workers
        self._known: dict[str, CachedOutputs] = {}

    def on(
        self, base: LoadedBase, rows: Sequence[EncodedRow], positions: Positions, *, deep: bool = False
    ) -> CachedOutputs | None:
        """The outputs on rows, computed now unless they are there; None where they would be too large to keep.

        Args:
            positions: which count; those that include padding are never kept.
            deep: also the hidden states after each layer.
        """
        counted = [RowPositions(row, positions) for row in dict.fromkeys(rows)]
        if any(item.padded for item in counted) or self._bytes(base, counted, deep) > self._max_bytes:
            return None
        key = _key(base, counted, deep)
        if key not in self._known:
            self._known[key] = self._found(base, counted, deep, self._folder / f"{key}.safetensors")
        return self._known[key]

    def _bytes(self, base: LoadedBase, counted: Sequence[RowPositions], deep: bool) -> int:
        number = sum(len(item.columns) for item in counted) * (1 + deep * len(layers_of(base.model)))
        return number * base.model.config.get_text_config().hidden_size * base.model.dtype.itemsize

    def _found(self, base: LoadedBase, counted: Sequence[RowPositions], deep: bool, path: Path) -> CachedOutputs:
        """Read a file, or make it. All workers read it, or all compute: a sharded model runs on all or on none."""
        tensors = _read(path)
        if not all(self._workers.gather(tensors is not None)) or tensors is None:
            tensors = _computed(base, counted, deep)
            if self._workers.first:
                with replacing_file(path) as temporary:
                    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        if sum(tensor.nbytes for tensor in tensors.values()) <= ON_DEVICE_BYTES:
            tensors = {name: tensor.to(base.model.device) for name, tensor in tensors.items()}
        ends = list(accumulate(len(item.columns) for item in counted))
        place = {item.row: (end - len(item.columns), end) for item, end in zip(counted, ends, strict=True)}
        return CachedOutputs(place, tensors["hidden"], tensors.get("layers"))


def _key(base: LoadedBase, counted: Sequence[RowPositions], deep: bool) -> str:
    """Content id: of all that decides a bit, but for the kind of processor."""
    rows = repr([(item.row.ids, item.row.prompt_length) for item in counted]).encode()
    return content_id(
        {
            "version": VERSION,
            "base": base.content_id,
            "rows": hashlib.sha256(rows).hexdigest(),
            "positions": counted[0].positions if counted else "",
            "deep": deep,
            "numbers": [str(base.model.dtype), base.model.device.type],
            "packages": [torch.__version__, transformers.__version__],
        }
    )


def _read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file, mapped into memory; None when there is none that can be read."""
    try:
        return load_file(path) if path.is_file() else None
    except SafetensorError:
        return None


@torch.no_grad()
def _computed(base: LoadedBase, counted: Sequence[RowPositions], deep: bool) -> dict[str, Tensor]:
    """Forward the rows through the base model, similar lengths together."""
    order = sorted(range(len(counted)), key=lambda index: (len(counted[index].row.ids), index))
    hidden: dict[int, Tensor] = {}
    layers: dict[int, Tensor] = {}
    for start in range(0, len(order), ROWS_PER_BATCH):
        some = order[start : start + ROWS_PER_BATCH]
        batch = collate([counted[index] for index in some], int(base.tokenizer.pad_token_id), base.model.device)
        deep_M = torch.arange(len(batch.row_N), device=base.model.device) if deep else None
        with autocast(base.model.device):
            hidden_ND, layers_LND = hidden_states(base.model, batch, deep_M)
        hidden.update(zip(some, hidden_ND.split(batch.positions_per_row), strict=True))
        if layers_LND is not None:
            layers.update(zip(some, layers_LND.split(batch.positions_per_row, dim=1), strict=True))
    tensors = {"hidden": torch.cat([hidden[index] for index in range(len(counted))])}
    return tensors | ({"layers": torch.cat([layers[i] for i in range(len(counted))], dim=1)} if deep else {})
