"""LoRA adapters of many trials on one frozen base model.

Each adapted linear layer holds the stacked factors of all members of a pack; a forward pass says which rows belong to
which member. Rows of no member (the null adapter) go through the base model itself: that is the reference. All factors
are views of one tensor, with a row per member, so that an optimizer step takes a handful of operations whatever the
model's depth. A member may have a second, frozen adapter beneath its own, its prior, and edits of hidden states
(`edits.packed`). For evaluation, another adapter of any rank may stand in for its own. Members may adapt different
layers: on the others they have zeros, as where their rank is padded.

Shape legend: K members of the pack, P parameters of a member, R rank (padded to the largest of the pack), I and O in-
and output features of a layer, M members that take part in a forward, m of them in a block with n positions each, F
any number of features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trainables.engine.edits.packed import PackedEdits
from trainables.engine.packed_linear import PackedLinear, Route
from trainables.engine.peft_format import Stack, from_peft, save_peft, to_peft
from trainables.engine.targets import block_names, block_numbers, sizes_of, target_names
from trainables.interface.edits import Edit
from trainables.projections import Factors, joined
from trainables.trial import AdapterConfig


class PackedAdapters:
    """The adapters of a pack, attached to a base model in place of its linear layers until `detach`.

    Args:
        model: a causal language model whose parameters are frozen.
        configs: one per member. Ranks may differ: smaller ones are padded with zeros, which stay zero because the
            gradient of a padded row of A is a multiple of B's zero column, and vice versa. On a layer that only other
            members adapt, a member has nothing but such padding.
        seeds: seed of each member's initial A (`TrialConfig.adapter_seed`).
        dtype: the factors' type.

    Attributes:
        first_block: the lowest block that any member adapts, or the one above the lowest whose output any member edits.
            Its input is that of the base model, before edits.
        edits: edits of hidden states.
    """

    def __init__(
        self,
        model: nn.Module,
        configs: Sequence[AdapterConfig],
        seeds: Sequence[int | str],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.configs, self.dtype = model, tuple(configs), dtype
        self.num_members, self.rank = len(configs), max(config.rank for config in configs)
        self.route: Route | None = None
        if any(isinstance(module, PackedLinear) for module in model.modules()):
            raise RuntimeError("another pack is attached to this model; detach it first")
        names_of_members = [target_names(model, config) for config in configs]
        adapted = set().union(*names_of_members)
        bases: dict[str, Any] = {name: module for name, module in model.named_modules() if name in adapted}
        # Each member's layers, by their places among all layers.
        self._places = [[at for at, name in enumerate(bases) if name in names] for names in names_of_members]
        blocks = block_numbers(model)
        self.first_block = min(blocks.get(name, 0) for name in bases)
        device = next(iter(bases.values())).weight.device
        self.scale_KR = torch.tensor([[config.scale] for config in configs], dtype=dtype, device=device)
        sizes = [self.rank * features for base in bases.values() for features in sizes_of(base)]
        self.theta_KP = torch.zeros(self.num_members, sum(sizes), dtype=dtype, device=device)
        views = iter(self.theta_KP.split(sizes, dim=1))
        self.layers: dict[str, PackedLinear] = {}
        for name, base in bases.items():
            num_in, num_out = sizes_of(base)
            A_KRI = next(views).view(-1, self.rank, num_in).detach().requires_grad_()
            B_KOR = next(views).view(-1, num_out, self.rank).detach().requires_grad_()
            self.layers[name] = PackedLinear(base, self, A_KRI, B_KOR)
            _replace(model, name, self.layers[name])
        for member, (config, seed) in enumerate(zip(configs, seeds, strict=True)):
            self._initialise(member, config.rank, seed)
        self._priors: dict[int, list[Factors]] = {}
        self._stand_ins: dict[int, list[Factors]] = {}
        self._trained_rows: dict[int, Tensor] = {}  # rows of `theta_KP` of members for which another adapter stands in
        self.edits = PackedEdits(model, lambda: self.route)

    def _initialise(self, member: int, rank: int, seed: int | str) -> None:
        """Draw A uniformly in +- 1/sqrt(I) from only the seed and the layer's name; B is zero (PEFT's default)."""
        for name, layer in self.layers_of(member).items():
            generator = torch.Generator().manual_seed(_seed_of(seed, name))
            bound = 1 / math.sqrt(layer.in_features)
            draw = torch.rand(rank, layer.in_features, generator=generator) * (2 * bound) - bound
            with torch.no_grad():
                layer.A_KRI[member, :rank] = draw.to(layer.A_KRI)

    def layers_of(self, member: int) -> dict[str, PackedLinear]:
        """Return the layers that a member adapts, in the model's order."""
        names = list(self.layers)
        return {names[at]: self.layers[names[at]] for at in self._places[member]}

    def of_member(self, member: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Select, from a sequence like `factors`, the entries of the layers that a member adapts."""
        return [tensors[2 * at + kind] for at in self._places[member] for kind in (0, 1)]

    def attach_priors(self, priors: Mapping[int, Sequence[Factors]]) -> None:
        """Put frozen adapters beneath members: member -> factors, layer by layer of those that the member adapts."""
        self._priors = {member: [factors.to(self.theta_KP) for factors in prior] for member, prior in priors.items()}
        self._stack_frozen()

    def _stack_frozen(self) -> None:
        """Give the layers the frozen factors, padded to the largest rank, with zeros for members without any."""
        frozen: dict[int, dict[int, Factors]] = {}
        for member in sorted({*self._priors, *self._stand_ins}):
            adapters = [held[member] for held in (self._stand_ins, self._priors) if member in held]
            sums = [joined(*parts) if len(parts) > 1 else parts[0] for parts in zip(*adapters, strict=True)]
            frozen[member] = dict(zip(self._places[member], sums, strict=True))
        rank = max((factors.rank for by_place in frozen.values() for factors in by_place.values()), default=0)
        for place, layer in enumerate(self.layers.values()):
            held = {member: by_place[place] for member, by_place in frozen.items() if place in by_place}
            layer.frozen = _stacked(layer, held, rank) if frozen else None

    def attach_edits(self, edits: Mapping[int, Sequence[Edit]]) -> None:
        """Edit the hidden states of members' rows: member -> edits. Raise ValueError for an invalid edit."""
        self.edits.attach(edits, self.theta_KP)
        if (lowest := self.edits.lowest_start) is not None:
            self.first_block = min(self.first_block, lowest)

    @property
    def factors(self) -> list[Tensor]:
        """A then B of every layer, in the model's order: views of `theta_KP`, and the leaves for differentiation."""
        return [factor for layer in self.layers.values() for factor in (layer.A_KRI, layer.B_KOR)]

    def flat(self, tensors_K: Sequence[Tensor]) -> Tensor:
        """Join tensors shaped like `factors` into one `[K, P]`, in the layout of `theta_KP`, for any K."""
        return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors_K], dim=1)

    def split(self, route: Route) -> Route:
        """Return the route with a copy of the factors for each part, so that each part has its own gradient."""
        index = torch.tensor(route.members).to(self.theta_KP.device, non_blocking=True)
        factors = {
            layer: (layer.A_KRI.detach()[index].requires_grad_(), layer.B_KOR.detach()[index].requires_grad_())
            for layer in self.layers.values()
        }
        return replace(route, factors=factors)

    def unflat(self, theta: Tensor) -> list[Tensor]:
        """Split a `[K, P]`, or one member's row `[P]` of it, into tensors shaped like the factors."""
        shapes = [factor.shape[1:] for factor in self.factors]
        pieces = theta.split([shape.numel() for shape in shapes], dim=-1)
        return [piece.view(*theta.shape[:-1], *shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def cut(self, member: int, theta_P: Tensor) -> Tensor:
        """Drop the padding of the member's rank and layers from its row `[P]`; `pad` is the inverse."""
        return torch.cat([view.reshape(-1) for view in self._unpadded(member, theta_P)])

    def pad(self, member: int, values: Tensor) -> Tensor:
        """Return the result of `cut` as a row `[P]`, with zeros elsewhere. Raise ValueError if sizes differ."""
        theta_P = torch.zeros_like(self.theta_KP[member])
        views = self._unpadded(member, theta_P)
        sizes = [view.numel() for view in views]
        if values.numel() != sum(sizes):
            raise ValueError(f"{values.numel()} numbers do not fit an adapter of {sum(sizes)}")
        for view, part in zip(views, values.split(sizes), strict=True):
            view.copy_(part.view(view.shape))
        return theta_P

    def _unpadded(self, member: int, theta_P: Tensor) -> list[Tensor]:
        """Return views of a row `[P]` without the padding of the member's rank and layers."""
        rank, factors = self.configs[member].rank, self.of_member(member, self.unflat(theta_P))
        pairs = zip(factors[::2], factors[1::2], strict=True)
        return [view for A_RI, B_OR in pairs for view in (A_RI[:rank], B_OR[:, :rank])]

    @contextmanager
    def routed(self, route: Route | None) -> Iterator[None]:
        """Route the rows of forward passes in the context to the members of a route; None is the null adapter."""
        previous, self.route = self.route, route
        try:
            yield
        finally:
            self.route = previous

    def detach(self) -> None:
        """Restore the model's own layers. The factors stay readable."""
        self.edits.detach()
        for name, layer in self.layers.items():
            _replace(self.model, name, layer.base)

    def leaves(self, member: int) -> list[Tensor]:
        """Return copies of one member's `factors` for differentiation, with their padding, on the layers it adapts."""
        return [factor[member].detach().clone().requires_grad_() for factor in self.of_member(member, self.factors)]

    def member_factors(self, member: int, factors: Sequence[Tensor] | None = None) -> list[Factors]:
        """Return one member's adapter on the layers it adapts, layer by layer, cut to its rank.

        Args:
            factors: A then B of each layer, as `leaves` returns them; None takes the current ones, detached.
        """
        rank, scale = self.configs[member].rank, self.configs[member].scale
        if factors is None:
            factors = [factor[member].detach() for factor in self.of_member(member, self.factors)]
        return [Factors(A[:rank], B[:, :rank], scale) for A, B in zip(factors[::2], factors[1::2], strict=True)]

    def set_member_factors(self, member: int, adapter: Sequence[Factors]) -> None:
        """Overwrite one member's adapter; its rank and scale stay."""
        rank = self.configs[member].rank
        with torch.no_grad():
            for layer, factors in zip(self.layers_of(member).values(), adapter, strict=True):
                layer.A_KRI[member, :rank] = factors.A_RI.to(layer.A_KRI)
                layer.B_KOR[member, :, :rank] = factors.B_OR.to(layer.B_KOR)

    def stand_in(self, member: int, adapter: Sequence[Factors]) -> None:
        """Let another adapter, of any rank and scale, stand in for a member's own until `restore`.

        It takes part in passes without gradients, and `save_member` writes it. A prior stays beneath.
        """
        self.restore(member)
        config = self.configs[member]
        self._trained_rows[member] = self.theta_KP[member].clone()
        if all(factors.rank == config.rank and factors.scale == config.scale for factors in adapter):
            self.set_member_factors(member, adapter)
            return
        self._stand_ins[member] = [factors.to(self.theta_KP) for factors in adapter]
        self.theta_KP[member] = 0
        self._stack_frozen()

    def restore(self, member: int) -> None:
        """Restore a member's own adapter, bit for bit."""
        if member in self._trained_rows:
            self.theta_KP[member] = self._trained_rows.pop(member)
        if self._stand_ins.pop(member, None) is not None:
            self._stack_frozen()

    def final_factors(self, member: int) -> list[Factors]:
        """Return the adapter that stands in for a member's own, or its own if none does."""
        return self._stand_ins.get(member) or self.member_factors(member)

    def prior_factors(self, member: int) -> list[Factors]:
        """Return the frozen prior of a member; empty if it has none."""
        return self._priors.get(member, [])

    def scale_member(self, member: int, share: float) -> None:
        """Scale everything a member adds to the base model, including its prior and its edits."""
        self.edits.scale(member, share)
        with torch.no_grad():
            for layer in self.layers.values():
                layer.B_KOR[member] *= share
        for held in (self._priors, self._stand_ins):
            if member in held:
                held[member] = [replace(factors, B_OR=factors.B_OR * share) for factors in held[member]]
        self._stack_frozen()

    def member(self, member: int) -> dict[str, Tensor]:
        """Return the final factors of one member under PEFT's names, without its prior."""
        return to_peft(self.layers_of(member), self.final_factors(member))

    def load_member(self, member: int, factors: Mapping[str, Tensor]) -> None:
        """Set the factors of one member from PEFT's names. Raise UserError for missing, unknown or misshapen ones."""
        config = self.configs[member]
        self.set_member_factors(member, from_peft(self.layers_of(member), factors, config))

    def save_member(self, member: int, directory: Path, base_model: str) -> None:
        """Write one member's final adapter as a PEFT checkpoint that `peft.PeftModel.from_pretrained` loads.

        An active prior is merged into it: ranks add up (`projections.joined`). PEFT has one rank for all layers, the
        largest; the padding is zero.

        Args:
            directory: created if needed.
            base_model: the name or path that the checkpoint names as its base model.
        """
        adapter, config = self.final_factors(member), self.configs[member]
        if prior := self.prior_factors(member):
            adapter = [joined(*pair) for pair in zip(adapter, prior, strict=True)]
        if any(factors.rank != config.rank or factors.scale != config.scale for factors in adapter):
            rank = max(factors.rank for factors in adapter)
            adapter = [joined(factors).padded(rank) for factors in adapter]
            config = replace(config, rank=rank, alpha=float(rank), rslora=False)
        layers = self.layers_of(member)
        transposed = any(isinstance(layer.base, Conv1D) for layer in layers.values())
        stack = Stack(block_names(self.model)[0].split(".")[-2], config.layer_numbers(len(block_names(self.model))))
        save_peft(directory, list(layers), adapter, config, base_model, stack, transposed=transposed)


@contextmanager
def gated(adapters: PackedAdapters, gates: Mapping[int, Sequence[float]]) -> Iterator[None]:
    """Scale the ranks of members' own adapters in passes in the context: member -> a factor for each of its ranks.

    Without gates, this adds no computation.
    """
    scale_K1 = adapters.scale_KR
    if gates:
        gates_KR = torch.ones(adapters.num_members, adapters.rank, dtype=adapters.dtype)
        for member, of_ranks in gates.items():
            gates_KR[member, : len(of_ranks)] = torch.tensor(of_ranks, dtype=adapters.dtype)
        adapters.scale_KR = scale_K1 * gates_KR.to(scale_K1.device, non_blocking=True)
    try:
        yield
    finally:
        adapters.scale_KR = scale_K1


def _stacked(layer: PackedLinear, adapters: Mapping[int, Factors], rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stack A, B and scale of members' adapters on a layer, padded to a rank; zeros for the other members."""
    members = len(layer.A_KRI)
    A_KRI = layer.A_KRI.new_zeros(members, rank, layer.in_features)
    B_KOR = layer.B_KOR.new_zeros(members, layer.out_features, rank)
    scales_K = layer.A_KRI.new_zeros(members)
    for member, factors in adapters.items():
        A_KRI[member, : factors.rank], B_KOR[member, :, : factors.rank] = factors.A_RI, factors.B_OR
        scales_K[member] = factors.scale
    return A_KRI, B_KOR, scales_K


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _seed_of(seed: int | str, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
