"""One pass through the frozen base model: precision, final hidden states, the head, gradient checkpointing.

Shape legend: R rows, T padded length, N positions that count, M those of them whose states of all layers are kept, D
hidden width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from settings.common.errors import UserError
from trainables.engine.adapters import PackedAdapters
from trainables.engine.batches import Batch
from trainables.engine.packed_linear import Route
from trainables.engine.process_group import layers_of
from trainables.engine.targets import check_attention, target_names
from trainables.trial import AdapterConfig

Head = Callable[[Tensor], Tensor]


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Compute in bfloat16 on CUDA, and in the weights' type elsewhere."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def head_of(model: PreTrainedModel) -> Head:
    """Return the map from final hidden states to logits in float32 or wider, `[N, D] -> [N, V]`."""
    output, config = model.get_output_embeddings(), model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere's
    factor /= getattr(config, "logits_scaling", None) or 1.0  # Granite's

    def head(hidden_ND: Tensor) -> Tensor:
        logits = output(hidden_ND.to(output.weight.dtype))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits if factor == 1.0 else factor * logits
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    return head


def check_architectures(model: PreTrainedModel, adapters: Sequence[AdapterConfig]) -> None:
    """Check each kind of adapter once; see `check_architecture`."""
    for adapter in {(adapter.targets, adapter.layers): adapter for adapter in adapters}.values():
        check_architecture(model, adapter)


@torch.no_grad()
def check_architecture(model: PreTrainedModel, adapter: AdapterConfig) -> None:
    """Refuse a model that the engine would not train correctly. Raise UserError.

    Its layers must attend to tokens and have weights that adapters can be trained on; its logits must be `head_of` its
    final hidden states; and an adapted layer must see the batch's rows in order, or their tokens stacked, but not a
    selection of tokens as experts do: a token's row decides which adapter it goes through.
    """
    check_attention(model)
    rows, tokens, kind = 3, 5, model.config.model_type
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[name] = tuple(inputs[0].shape)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(partial(note, name))
        for name in target_names(model, adapter)
    ]
    try:
        ids = torch.arange(rows * tokens, device=model.device).view(rows, tokens)
        ids %= model.config.get_text_config().vocab_size
        expected = model(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    selecting = [name for name, shape in shapes.items() if shape[:-1] not in ((rows, tokens), (rows * tokens,))]
    if selecting:
        raise UserError(f"model type {kind!r} is not supported: its layer {selecting[0]!r} sees a selection of tokens")
    hidden = getattr(model.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
    if hidden is None:
        raise UserError(f"model type {kind!r} is not supported: it does not return its final hidden states")
    error = (head_of(model)(hidden) - expected).abs().max()
    if not error <= 1e-2 * expected.abs().max():
        raise UserError(f"model type {kind!r} is not supported: its logits are not the head of its final hidden states")


def hidden_states(model: PreTrainedModel, batch: Batch, layers_M: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return final hidden states at the positions that count, `[N, D]`, and all layers' at some of them, `[L, M, D]`.

    Embeddings do not count as a layer. The last layer's states, i.e. the final ones, are taken after the final norm.

    Args:
        layers_M: the positions (of N) at which to keep the states of all layers; None for none.
    """
    outputs = model.base_model(
        input_ids=batch.ids_RT, attention_mask=batch.mask_RT, use_cache=False, output_hidden_states=layers_M is not None
    )
    hidden_ND = outputs.last_hidden_state[batch.row_N, batch.column_N]
    if layers_M is None:
        return hidden_ND, None
    row_M, column_M = batch.row_N[layers_M], batch.column_N[layers_M]
    return hidden_ND, torch.stack([states[row_M, column_M] for states in outputs.hidden_states[1:]])


class _RestoreRoute(AbstractContextManager[None]):
    """Route rows as when a layer first ran. Entered each time that the layer runs again: once per loss."""

    def __init__(self, adapters: PackedAdapters, route: Route | None) -> None:
        self._adapters, self._route = adapters, route
        self._routed: AbstractContextManager[None] = nullcontext()

    def __enter__(self) -> None:
        self._routed = self._adapters.routed(self._route)
        self._routed.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._routed.__exit__(*error)


@contextmanager
def checkpoint_layers(model: PreTrainedModel, adapters: PackedAdapters) -> Iterator[None]:
    """Let forward passes in the context keep only the inputs of their layers; each layer reruns in the backward pass.

    This is gradient checkpointing (Chen et al. 2016, arXiv:1604.06174), with the rows routed as they were.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _RestoreRoute(adapters, adapters.route)

    rerun = partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    layers = layers_of(model)
    for layer in layers:
        layer._gradient_checkpointing_func = rerun
        layer.gradient_checkpointing = layer.training = True  # of only the layer; its modules stay in evaluation mode
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False
