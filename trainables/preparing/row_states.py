"""Hidden states after all layers on whole streams, summed over each row's positions batch by batch.

No more than a batch of single positions is held: in an 8B model each takes 300 kB, and the sums of a row 1.2 MB.

Shape legend: N positions that count, L layers, P rows, D hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from trainables.engine.base import LoadedBase
from trainables.engine.batches import Batch, RowPositions, collate
from trainables.engine.forward import autocast, hidden_states
from trainables.engine.frozen.reference_cache import ROWS_PER_BATCH, FrozenAdapter
from trainables.engine.memory import ROW_STATES_BYTES
from trainables.engine.process_group import layers_of


@torch.no_grad()
def row_states(
    base: LoadedBase, rows: Sequence[RowPositions], adapter: FrozenAdapter | None = None
) -> dict[str, Tensor]:
    """Return the entries of `RowStates` on rows, in main memory; rows of similar lengths go forward together."""
    model, pad_id = base.model, int(base.tokenizer.pad_token_id)
    width, number = model.config.get_text_config().hidden_size, len(layers_of(model))
    sums_LPD = torch.zeros(number, len(rows), width, dtype=torch.float64)
    lengths_LP, counts_P = torch.zeros(number, len(rows), dtype=torch.float64), torch.zeros(len(rows))
    for indices in _batches(rows, number * width * model.dtype.itemsize):
        batch = collate([rows[index] for index in indices], pad_id, model.device)
        with adapter.routed(len(indices)) if adapter else nullcontext():
            sums, lengths = _summed(base, batch)
        sums_LPD[:, indices], lengths_LP[:, indices] = sums.cpu(), lengths.cpu()
        counts_P[indices] = torch.tensor(batch.positions_per_row, dtype=counts_P.dtype)
    return {"sums_LPD": sums_LPD, "lengths_LP": lengths_LP, "counts_P": counts_P}


def _batches(rows: Sequence[RowPositions], token_bytes: int) -> list[list[int]]:
    """Return the row numbers of each batch: shortest first, with at most `ROW_STATES_BYTES` of states."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda index: (len(rows[index].row.ids), index)):
        size = max(len(rows[index].row.ids), rows[index].length if rows[index].padded else 0) * token_bytes
        most = min(ROWS_PER_BATCH, ROW_STATES_BYTES // size)  # as if all were as long as this one, the longest so far
        if batches and len(batches[-1]) < most:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _summed(base: LoadedBase, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the sums over each row of a batch, `[L, P, D]`, and of the lengths, `[L, P]`."""
    with autocast(base.model.device):
        _, layers_LND = hidden_states(base.model, batch, torch.arange(len(batch.row_N), device=batch.row_N.device))
    assert layers_LND is not None
    shape = len(layers_LND), len(batch.positions_per_row)
    sums_LPD = layers_LND.new_zeros(*shape, layers_LND.shape[2], dtype=torch.float64)
    lengths_LP = sums_LPD.new_zeros(shape)
    for layer, states_ND in enumerate(layers_LND):
        wide_ND = states_ND.double()
        sums_LPD[layer].index_add_(0, batch.row_N, wide_ND)
        lengths_LP[layer].index_add_(0, batch.row_N, wide_ND.norm(dim=-1))
    return sums_LPD, lengths_LP
