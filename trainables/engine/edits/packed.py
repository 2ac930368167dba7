"""Edits of the forward pass of many trials on one frozen base model: a separate kind of adapter, beside LoRA.

A block of the model returns hidden states. Those of a member's rows are edited before anything else sees them: the next
block, the key-value cache above, and callers that ask for the states of all layers. Rows of no member (the null
adapter, i.e. the reference) are never edited.

Shape legend: R rows, T padded length, D hidden width, Q orthonormal directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from settings.common.errors import UserError
from trainables.engine.process_group import layers_of
from trainables.interface.edits import Edit

ORTHONORMAL = 1e-4  # how far an entry of Q Q^T may differ from the identity


class Rows(Protocol):
    """Which rows of a forward pass belong to which members, and whether it evaluates; see `packed_linear.Route`."""

    @property
    def members(self) -> tuple[int, ...]: ...

    @property
    def counts(self) -> tuple[int, ...]: ...

    @property
    def unadapted(self) -> int: ...

    @property
    def evaluating(self) -> bool: ...


class PackedEdits:
    """The edits of the members of a pack, attached to the blocks of a base model until `detach`.

    Args:
        model: a causal language model.
        route: returns whose rows are going through the model now; None is the null adapter.
    """

    def __init__(self, model: nn.Module, route: Callable[[], Rows | None]) -> None:
        self._model, self._route = model, route
        self._edits: dict[int, tuple[Edit, ...]] = {}
        self._hooks: list[Any] = []

    @property
    def lowest_start(self) -> int | None:
        """The highest block at which a pass may begin with unedited states; None means any."""
        blocks = [edit.block for edits in self._edits.values() for edit in edits]
        return min(blocks) + 1 if blocks else None

    def attach(self, edits: Mapping[int, Sequence[Edit]], like: Tensor) -> None:
        """Let blocks edit the rows of members: member -> edits. Edits that do nothing are left out.

        Args:
            like: a tensor with the type and device that the edits' tensors get.

        Raises:
            ValueError: an edit names a block that the model does not have, has another width, is not finite, or has
                directions that are not orthonormal.
        """
        blocks, width = layers_of(self._model), int(self._config.get_text_config().hidden_size)
        for member, of_member in edits.items():
            for edit in of_member:
                _check(edit, len(blocks), width)
            kept = tuple(_to(edit, like) for edit in of_member if edit.add_D is not None or _removes(edit))
            if kept:
                self._edits[member] = kept
        self.detach()
        for number in sorted({edit.block for of_member in self._edits.values() for edit in of_member}):
            # Before all other hooks, so that those that record a block's output see what the next block sees.
            self._hooks.append(blocks[number].register_forward_hook(partial(self._edit, number), prepend=True))

    def detach(self) -> None:
        """Stop editing: let the blocks return what they compute. The edits stay readable."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def holding(self, member: int, *, evaluating: bool) -> list[Edit]:
        """Return the edits of a member that hold in training passes, or in evaluation passes."""
        when = "evaluation" if evaluating else "training"
        return [edit for edit in self._edits.get(member, ()) if edit.when in (when, "always")]

    def scale(self, member: int, share: float) -> None:
        """Scale what a member's edits change; 0 leaves the base model."""
        scaled = [
            replace(edit, add_D=None if edit.add_D is None else edit.add_D * share, share=edit.share * share)
            for edit in self._edits.get(member, ())
        ]
        if scaled:
            self._edits[member] = tuple(scaled)

    @property
    def _config(self) -> Any:
        return self._model.config

    def _edit(self, number: int, block: nn.Module, inputs: Any, output: Any) -> Any:
        """Return a block's output, edited; None if nothing changes. A forward hook."""
        route = self._route()
        if route is None:
            return None
        edits = [
            [edit for edit in self.holding(member, evaluating=route.evaluating) if edit.block == number]
            for member in route.members
        ]
        if not any(edits):
            return None
        states_RTD = output[0] if isinstance(output, tuple) else output
        if states_RTD.ndim != 3 or len(states_RTD) != sum(route.counts) + route.unadapted:
            kind = self._config.model_type
            raise UserError(
                f"model type {kind!r} is not supported by methods that edit hidden states: its blocks do not return one"
                " vector for each token"
            )
        *parts, unadapted = states_RTD.split([*route.counts, route.unadapted])
        changed = [edited(part, of_member) for part, of_member in zip(parts, edits, strict=True)]
        edited_RTD = torch.cat([*changed, unadapted])
        return (edited_RTD, *output[1:]) if isinstance(output, tuple) else edited_RTD


def edited(states_RTD: Tensor, edits: Iterable[Edit]) -> Tensor:
    """Apply edits to hidden states one after the other; keep the states' type."""
    with torch.autocast(states_RTD.device.type, enabled=False):
        for edit in edits:
            tensors = [tensor for tensor in (edit.add_D, edit.remove_QD) if tensor is not None]
            hidden_RTD = states_RTD.to(torch.promote_types(states_RTD.dtype, tensors[0].dtype))
            if edit.remove_QD is not None:
                remove_QD = edit.remove_QD.to(hidden_RTD.dtype)
                hidden_RTD = hidden_RTD - edit.share * (hidden_RTD @ remove_QD.T) @ remove_QD
            if edit.add_D is not None:
                hidden_RTD = hidden_RTD + edit.add_D
            states_RTD = hidden_RTD.to(states_RTD.dtype)
    return states_RTD


def _removes(edit: Edit) -> bool:
    return edit.remove_QD is not None and len(edit.remove_QD) > 0 and edit.share != 0


def _to(edit: Edit, like: Tensor) -> Edit:
    """Return an edit with the type and device of a tensor."""
    add_D = None if edit.add_D is None else edit.add_D.detach().to(like)
    return replace(edit, add_D=add_D, remove_QD=edit.remove_QD.detach().to(like) if _removes(edit) else None)  # type: ignore[union-attr]


def _check(edit: Edit, num_blocks: int, width: int) -> None:
    """Raise ValueError for an invalid edit."""
    if not 0 <= edit.block < num_blocks:
        raise ValueError(f"edit after block {edit.block}: the model has blocks 0 to {num_blocks - 1}")
    for name, tensor, dimensions in (("add_D", edit.add_D, 1), ("remove_QD", edit.remove_QD, 2)):
        if tensor is None:
            continue
        if tensor.ndim != dimensions or tensor.shape[-1] != width or not torch.isfinite(tensor).all():
            shape = f"[{'Q, ' * (dimensions - 1)}{width}]"
            raise ValueError(f"edit after block {edit.block}: {name} must be finite, of shape {shape}")
    if edit.remove_QD is not None:
        gram_QQ = (edit.remove_QD @ edit.remove_QD.T).double()
        if len(gram_QQ) and (gram_QQ - torch.eye(len(gram_QQ)).to(gram_QQ)).abs().max() > ORTHONORMAL:
            raise ValueError(f"edit after block {edit.block}: the rows of remove_QD are not orthonormal")
