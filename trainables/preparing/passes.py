"""Passes over whole streams before training, with the base model or a finished prior: outputs and squared gradients.

They run before a pack attaches its adapters. A pass with an adapter attaches only that one, and rows are batched in the
same way for all callers, so that the numbers do not depend on the pack. Results of passes are cached by content, like
the base model's outputs (`reference_cache`).

Shape legend: N positions that count, D hidden width, V vocabulary, L layers, K copies of an adapter, P its parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from settings.common.content import content_id
from settings.encoding import EncodedRow
from settings.setting import Stream
from trainables.engine.adapters import PackedAdapters
from trainables.engine.base import LoadedBase
from trainables.engine.batches import RowPositions, collate, to_device
from trainables.engine.forward import autocast, head_of, hidden_states
from trainables.engine.frozen.reference_cache import (
    ROWS_PER_BATCH,
    CachedOutputs,
    FrozenAdapter,
    ReferenceCache,
    compute_outputs,
    described_rows,
)
from trainables.engine.memory import LOGITS
from trainables.engine.packed_linear import Route
from trainables.engine.peft_format import from_peft
from trainables.engine.process_group import ProcessGroup, layers_of
from trainables.engine.targets import lowest_block
from trainables.interface.outputs import Forward, RowStates
from trainables.interface.preparation import Pass
from trainables.method import Method
from trainables.preparing.built_on import BuiltOn
from trainables.preparing.rewritten import TrainingRows
from trainables.preparing.row_states import row_states
from trainables.projections import Factors
from trainables.store import Saved, merged_config
from trainables.trial import TrialConfig

VERSION = 1  # part of a file's name; raise it when the same rows would give different numbers
ROWS_AT_A_TIME = 16  # each with its own gradient
GRADIENT_BYTES = 1e9  # of all of them together; larger adapters take fewer rows at a time


class Passes:
    """The passes of one trial; the `Preparation` that its method sees.

    Args:
        base: the frozen model, with no adapter attached.
        rows: the rows that the pack's trials train on.
        trial: the trial whose method asks.
        priors: the adapters that the trial's method needs first.
        dtype: the adapters' type.
        references: cache of passes; None computes them whenever they are asked for.

    Attributes:
        tokens: tokens that went through the model, or would have without the cache.
    """

    def __init__(
        self,
        base: LoadedBase,
        rows: TrainingRows,
        trial: TrialConfig,
        priors: Sequence[Saved],
        dtype: torch.dtype,
        references: ReferenceCache | None,
    ) -> None:
        self._base, self._training_rows, self._trial, self._priors = base, rows, trial, priors
        self._dtype, self._references = dtype, references
        self.tokens = 0

    @torch.no_grad()
    def prepare(self, workers: ProcessGroup) -> dict[str, Tensor]:
        """Return what the trial's method prepares, the same bits for all workers.

        Raise TypeError unless it is a mapping of names to tensors.
        """
        method, device = self._trial.method, self._base.model.device
        if type(method).prepare is Method.prepare:
            return {}
        prepared = method.prepare(self)
        if not isinstance(prepared, Mapping) or not all(isinstance(value, Tensor) for value in prepared.values()):
            raise TypeError(f"prepare(preparation) of method {method.name!r} must return a mapping of names to tensors")
        kept = {name: tensor.detach() for name, tensor in prepared.items()}
        if workers.count > 1:
            kept = workers.broadcast({name: tensor.cpu() for name, tensor in kept.items()})
        return {name: tensor.to(device) for name, tensor in kept.items()}

    @property
    def num_layers(self) -> int:
        """See `Preparation`."""
        return len(layers_of(self._base.model))

    @property
    def lowest_adapted(self) -> int:
        """See `Preparation`."""
        return lowest_block(self._base.model, [self._trial.adapter])

    def factors(self, *, prior: int | None = None) -> Sequence[Factors]:
        """See `Preparation`."""
        with self._attached(prior) as adapters:
            return adapters.member_factors(0)

    def outputs(self, stream: Stream, *, prior: int | None = None) -> Forward:
        """See `Preparation`."""
        rows = self._rows_of(Pass(stream, "outputs", prior))
        with self._with(prior) as adapter:
            return self._forward(rows, self._outputs(rows, adapter))

    def states(self, stream: Stream, *, prior: int | None = None) -> RowStates:
        """See `Preparation`."""
        rows = self._rows_of(Pass(stream, "states", prior))
        with self._with(prior) as adapter:
            described = {"row states": VERSION, **described_rows(rows)}
            described |= {"adapter": adapter.content_id} if adapter else {}
            return RowStates(**self._kept(rows, described, partial(row_states, self._base, rows, adapter)))

    def _outputs(self, rows: Sequence[RowPositions], adapter: FrozenAdapter | None) -> CachedOutputs:
        """Return the outputs on rows from the cache; compute them if there is no cache, or it does not keep them."""
        known = None
        if self._references is not None:
            encoded, positions = [row.row for row in rows], rows[0].positions
            known = self._references.on(self._base, encoded, positions, adapter=adapter)
        if known is None:
            distinct = list(dict.fromkeys(rows))
            known = CachedOutputs.over(distinct, compute_outputs(self._base, distinct, False, adapter=adapter))
        return known

    def _forward(self, rows: Sequence[RowPositions], outputs: CachedOutputs) -> Forward:
        """Return outputs in the form that a method sees."""
        model, pad_id = self._base.model, int(self._base.tokenizer.pad_token_id)
        hidden_ND, _ = outputs.of([row.row for row in rows], model.device)
        batches = [collate(rows[at : at + ROWS_PER_BATCH], pad_id) for at in range(0, len(rows), ROWS_PER_BATCH)]
        labels_N = torch.cat([batch.labels_N for batch in batches]).to(model.device)
        row_N = to_device(np.repeat(np.arange(len(rows)), [len(row.columns) for row in rows]), model.device)
        chunk = max(1, LOGITS // model.config.get_text_config().vocab_size)
        return Forward(hidden_ND, labels_N, row_N, len(rows), head_of(model), chunk=chunk)

    def squared_gradients(self, stream: Stream, *, prior: int | None = None) -> Sequence[Factors]:
        """See `Preparation`."""
        rows = self._rows_of(Pass(stream, "squared_gradients", prior))
        with self._attached(prior) as adapters:
            described = {"squared gradients": VERSION, **described_rows(rows), "adapter": _content_id(adapters)}
            fitting = max(1, int(GRADIENT_BYTES / adapters.theta_KP.nbytes))
        compute = partial(self._squared_gradients, rows, prior, min(fitting, ROWS_AT_A_TIME))
        squared_P = self._kept(rows, described, compute)["squared"]
        with self._attached(prior) as adapters:
            pieces = adapters.unflat(squared_P.to(adapters.theta_KP))
            return adapters.member_factors(0, pieces)

    def _kept(
        self, rows: Sequence[RowPositions], described: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the result of a pass over rows from the cache; compute it if there is no cache, or padding counts."""
        kept = None if rows[0].padded else self._references
        return compute() if kept is None else kept.kept(self._base, described, compute)

    def _squared_gradients(self, rows: Sequence[RowPositions], prior: int | None, at_a_time: int) -> dict[str, Tensor]:
        """Return the mean over rows of each row's squared gradient, `[P]`: each row goes through its own copy."""
        order = sorted(range(len(rows)), key=lambda index: (len(rows[index].row.ids), index))
        with self._attached(prior, copies=min(at_a_time, len(rows))) as adapters:
            total_P = torch.zeros_like(adapters.theta_KP[0])
            for start in range(0, len(order), at_a_time):
                batch = [rows[index] for index in order[start : start + at_a_time]]
                total_P += self._row_gradients(adapters, batch).square().sum(dim=0)
        return {"squared": total_P / len(rows)}

    @torch.enable_grad()
    def _row_gradients(self, adapters: PackedAdapters, rows: Sequence[RowPositions]) -> Tensor:
        """Return the gradient of each row's log-likelihood with respect to its copy, `[K, P]`."""
        model = self._base.model
        batch = collate(rows, int(self._base.tokenizer.pad_token_id), model.device)
        with adapters.routed(Route(tuple(range(len(rows))), (1,) * len(rows))), autocast(model.device):
            hidden_ND, _ = hidden_states(model, batch)
            logits_NV = head_of(model)(hidden_ND)
        nll = torch.nn.functional.cross_entropy(logits_NV, batch.labels_N, reduction="sum")
        return adapters.flat(torch.autograd.grad(nll, adapters.factors))

    def _rows_of(self, asked: Pass) -> list[RowPositions]:
        """Return the rows of a pass with the positions that the method counts; count their tokens."""
        method, length = self._trial.method, self._trial.max_length
        if asked not in method.passes:
            raise TypeError(f"prepare(preparation) of method {method.name!r} asks for {asked}; declare it in `passes`")
        rows = self._training_rows.of(self._trial, asked.stream)
        self.tokens += sum(len(row.ids) for row in rows)
        return [RowPositions(row, method.positions(asked.stream), length) for row in rows]

    @contextmanager
    def _with(self, prior: int | None) -> Iterator[FrozenAdapter | None]:
        """Attach only a prior's adapter; None is the bare base model."""
        if prior is None:
            yield None
            return
        with self._attached(prior) as adapters:
            yield FrozenAdapter(_content_id(adapters), lambda count: adapters.routed(Route((0,), (count,))))

    @contextmanager
    def _attached(self, prior: int | None, copies: int = 1) -> Iterator[PackedAdapters]:
        """Attach copies of a prior's adapter, or of the trial's initial one, with what lies beneath it."""
        trial, saved = self._trial, None if prior is None else self._priors[prior]
        config, seeds = merged_config(trial.adapter, saved), [trial.adapter_seed] * copies
        adapters = PackedAdapters(self._base.model, [config] * copies, seeds, self._dtype)
        try:
            if saved is not None:
                for copy in range(copies):
                    adapters.load_member(copy, saved.tensors)
            elif trial.method.prior_is_active:
                tensors, below = self._priors[0].tensors, merged_config(trial.adapter, self._priors[0])
                beneath = from_peft(adapters.layers_of(0), tensors, below)
                adapters.attach_priors(dict.fromkeys(range(copies), beneath))
            yield adapters
        finally:
            adapters.detach()


def _content_id(adapters: PackedAdapters) -> str:
    """Return the content id of the first member: its factors, their scale, and what lies beneath."""
    tensors = [
        adapters.theta_KP[0],
        *(factor for below in adapters.prior_factors(0) for factor in (below.A_RI, below.B_OR)),
    ]
    hashes = [hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest() for tensor in tensors]
    scales = [adapters.configs[0].scale, *(below.scale for below in adapters.prior_factors(0))]
    return content_id({"layers": list(adapters.layers), "factors": hashes, "scales": scales})


@dataclass(frozen=True)
class MemberInputs:
    """What one trial starts from besides adapters.

    Attributes:
        prepared: what its method prepared (`Method.prepare`).
        rows_read: the rows of each stream that it reads.
        tokens: tokens that the preparation took.
    """

    prepared: Mapping[str, Tensor]
    rows_read: Mapping[Stream, Sequence[EncodedRow]]
    tokens: int


def prepare_all(
    base: LoadedBase,
    rows: TrainingRows,
    trials: Sequence[TrialConfig],
    built_on: BuiltOn,
    dtype: torch.dtype,
    references: ReferenceCache | None,
    workers: ProcessGroup,
) -> list[MemberInputs]:
    """Let the methods of trials prepare, one after the other; see `Passes`.

    A trial that only reads out another training reads no rows; its preparation is part of that training's cost.
    """
    inputs = []
    for index, trial in enumerate(trials):
        passes = Passes(base, rows, trial, built_on.saved_priors[index], dtype, references)
        prepared = passes.prepare(workers)
        if index in built_on.trained:
            inputs.append(MemberInputs(prepared, {}, 0))
        else:
            tokens = passes.tokens + rows.generated_tokens(trial)
            inputs.append(MemberInputs(prepared, rows.read(trial, prepared), tokens))
    return inputs
