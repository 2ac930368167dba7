"""The frozen base model's outputs on a setting's rows: computed once, then shared by all trials of all sweeps.

The head is frozen, too, so a reference distribution needs only final hidden states, which are V / D times smaller than
its logits. They are stored in files named by their content, which the processes of a node map into the same memory and
all nodes find in the shared cache. Batching does not depend on the pack, so every run reads the same bits; they agree
with a reference that is forwarded beside the policy up to rounding (in float32, the last bits).

Shape legend: N positions that count, of all rows concatenated; M those of them whose states of all layers are kept; L
layers, D hidden width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from settings.common.content import content_id
from settings.common.files import replacing_file
from settings.common.shared_files import FOLDER_BYTES, SharedFiles
from settings.encoding import EncodedRow
from trainables.engine.base import LoadedBase
from trainables.engine.batches import RowPositions, collate
from trainables.engine.forward import autocast, hidden_states
from trainables.engine.memory import ON_DEVICE_BYTES
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, layers_of
from trainables.method import Positions

VERSION = 1  # part of a file's name; raise it when the same rows would give different numbers
ROWS_PER_BATCH = 32
MAX_BYTES = 8e9  # per file; larger outputs are forwarded beside the policy in every step


@dataclass(frozen=True)
class CachedOutputs:
    """The base model's outputs at the positions that count, for some rows.

    Attributes:
        place: row -> start and end of its positions.
        hidden_ND: final hidden states.
        layers_LND: hidden states after each layer; None unless they were computed.
    """

    place: Mapping[EncodedRow, tuple[int, int]]
    hidden_ND: Tensor
    layers_LND: Tensor | None

    def of(self, rows: Sequence[EncodedRow], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return the outputs on rows, one row after the other. Raise KeyError for a missing row."""
        at_N = torch.cat([torch.arange(*self.place[row]) for row in rows]).to(self.hidden_ND.device, non_blocking=True)
        hidden_ND = self.hidden_ND[at_N].to(device, non_blocking=True)
        return hidden_ND, None if self.layers_LND is None else self.layers_LND[:, at_N].to(device, non_blocking=True)

    @staticmethod
    def over(row_positions: Sequence[RowPositions], tensors: Mapping[str, Tensor]) -> CachedOutputs:
        """Assign the tensors of `compute_outputs` to their rows."""
        ends = accumulate(len(row.columns) for row in row_positions)
        place = {row.row: (end - len(row.columns), end) for row, end in zip(row_positions, ends, strict=True)}
        return CachedOutputs(place, tensors["hidden"], tensors.get("layers"))


@dataclass(frozen=True)
class FrozenAdapter:
    """A finished adapter attached to the base model while it reads.

    Attributes:
        content_id: content id of its factors.
        routed: routes a number of rows through it.
    """

    content_id: str
    routed: Callable[[int], AbstractContextManager[None]]


class ReferenceCache:
    """The base models' outputs, by content.

    Args:
        folder: folder of the files.
        max_bytes: limit per file; rows that would take more are not cached.
        workers: the processes that read together. Each must read the same outputs, in the same order.
        progress: called with (rows done, all rows) while outputs are computed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: float = MAX_BYTES,
        workers: ProcessGroup = SINGLE_PROCESS,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._files, self._max_bytes, self._progress = SharedTensors(folder, workers), max_bytes, progress
        self._outputs: dict[str, CachedOutputs] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}

    def on(
        self,
        base: LoadedBase,
        rows: Sequence[EncodedRow],
        positions: Positions,
        *,
        with_layers: bool = False,
        adapter: FrozenAdapter | None = None,
    ) -> CachedOutputs | None:
        """Return the outputs on rows; compute them if they are missing. None if they would be too large.

        Args:
            positions: which positions count; those that include padding are never cached.
            with_layers: also the hidden states after each layer.
            adapter: the adapter on the model; None is the base model itself.
        """
        row_positions = [RowPositions(row, positions) for row in dict.fromkeys(rows)]
        if any(row.padded for row in row_positions) or self._bytes(base, row_positions, with_layers) > self._max_bytes:
            return None
        key = _key(base, row_positions, with_layers, adapter)
        if key not in self._outputs:
            compute = partial(compute_outputs, base, row_positions, with_layers, self._progress, adapter)
            self._outputs[key] = CachedOutputs.over(row_positions, self._read_or_compute(base, key, compute))
        return self._outputs[key]

    def kept(
        self, base: LoadedBase, described: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return other tensors that a base model gives for `described` inputs; compute them if they are missing."""
        key = content_key(base, described)
        if key not in self._tensors:
            self._tensors[key] = self._read_or_compute(base, key, compute)
        return self._tensors[key]

    def _bytes(self, base: LoadedBase, row_positions: Sequence[RowPositions], with_layers: bool) -> int:
        number = sum(len(row.columns) for row in row_positions) * (1 + with_layers * len(layers_of(base.model)))
        return number * base.model.config.get_text_config().hidden_size * base.model.dtype.itemsize

    def _read_or_compute(
        self, base: LoadedBase, key: str, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        return self._files.get(key, compute, base.model.device)


def _key(
    base: LoadedBase, row_positions: Sequence[RowPositions], with_layers: bool, adapter: FrozenAdapter | None
) -> str:
    """Return the content id of everything that affects a bit, except the kind of processor."""
    described = {"version": VERSION, **described_rows(row_positions), "with_layers": with_layers}
    return content_key(base, described | ({"adapter": adapter.content_id} if adapter else {}))


def described_rows(row_positions: Sequence[RowPositions]) -> dict[str, str]:
    """Return a key of rows and their positions that count."""
    rows = repr([(row.row.ids, row.row.prompt_length) for row in row_positions]).encode()
    positions = row_positions[0].positions if row_positions else ""
    return {"rows": hashlib.sha256(rows).hexdigest(), "positions": positions}


def content_key(base: LoadedBase, described: Mapping[str, Any]) -> str:
    """Return the content id of a base model's result on `described` inputs: its weights, and library versions."""
    numbers = [str(base.model.dtype), base.model.device.type]
    packages = [torch.__version__, transformers.__version__]
    return content_id({**described, "base": base.content_id, "numbers": numbers, "packages": packages})


class SharedTensors:
    """Tensors in files that processes share: one computes them; the others wait and map them into memory.

    Args:
        folder: folder of the files, and of nothing else.
        workers: the processes that read together. Layers of a sharded model run on all of them or on none, so they
            must read together or compute together; other processes are independent.
        max_bytes: limit for all files in the folder (see `SharedFiles`).
    """

    def __init__(self, folder: Path, workers: ProcessGroup, max_bytes: float = FOLDER_BYTES) -> None:
        self._files, self._workers = SharedFiles(folder, max_bytes), workers
        self._left_on_device = ON_DEVICE_BYTES

    def get(self, key: str, compute: Callable[[], dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
        """Return the tensors of a file; compute and write them if it is missing.

        They are put on the device as long as all tensors there fit into `ON_DEVICE_BYTES`.
        """
        path = self._files.folder / f"{key}.safetensors"
        tensors = self._read_together(path, compute) if self._workers.sharded else self._read(path)
        if tensors is None:
            with self._files.making(path):
                tensors = self._read(path) or self._written(path, compute())
        size = sum(tensor.nbytes for tensor in tensors.values())
        if device.type == "cpu" or size > self._left_on_device:
            return tensors
        self._left_on_device -= size
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    def _read_together(self, path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        tensors = self._read(path)
        if not all(self._workers.gather(tensors is not None)) or tensors is None:
            tensors = compute()
            if self._workers.first:
                tensors = self._written(path, tensors)
        return tensors

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        """Map the tensors of a file into memory; None if there is no readable file."""
        try:
            return load_file(path) if self._files.use(path) else None
        except SafetensorError:
            return None

    def _written(self, path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Write tensors and return them as they are read: mapped, so that the processes of a node hold them once."""
        with replacing_file(path) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        written = self._read(path)
        self._files.trim()
        return written or tensors


@torch.no_grad()
def compute_outputs(
    base: LoadedBase,
    row_positions: Sequence[RowPositions],
    with_layers: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
    adapter: FrozenAdapter | None = None,
) -> dict[str, Tensor]:
    """Forward rows, similar lengths together, through the base model, with an adapter if one is given."""
    order = sorted(range(len(row_positions)), key=lambda index: (len(row_positions[index].row.ids), index))
    hidden: dict[int, Tensor] = {}
    layers: dict[int, Tensor] = {}
    for start in range(0, len(order), ROWS_PER_BATCH):
        progress(start, len(order))
        indices = order[start : start + ROWS_PER_BATCH]
        batch = collate(
            [row_positions[index] for index in indices], int(base.tokenizer.pad_token_id), base.model.device
        )
        layers_M = torch.arange(len(batch.row_N), device=base.model.device) if with_layers else None
        with autocast(base.model.device), adapter.routed(len(indices)) if adapter else nullcontext():
            hidden_ND, layers_LND = hidden_states(base.model, batch, layers_M)
        hidden.update(zip(indices, hidden_ND.split(batch.positions_per_row), strict=True))
        if layers_LND is not None:
            layers.update(zip(indices, layers_LND.split(batch.positions_per_row, dim=1), strict=True))
    tensors = {"hidden": torch.cat([hidden[index] for index in range(len(row_positions))])}
    return tensors | (
        {"layers": torch.cat([layers[i] for i in range(len(row_positions))], dim=1)} if with_layers else {}
    )
