"""LoRA adapters of many trials on one frozen base model.

Each adapted linear layer sees the factors of all members of a pack, stacked; a forward pass says which rows belong to
which member. Rows of no member, the null adapter, give the base model itself: that is the reference. All factors are
views of one tensor, a row per member, so that an optimizer step is a handful of operations whatever the model's depth.
A member may have a second, frozen adapter beneath its own: its prior, and edits of hidden states (`edits.packed`).
Members may adapt different layers: on the others they have zeros, as where their rank is padded.

Shape legend: K members of the pack, P parameters of a member, R rank (padded to the largest of the pack), I and O in-
and output features of a layer, M members that take part in a forward, m of them in a block with n positions each, F
any number of features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.engine.edits.packed import PackedEdits
from trainables.engine.peft_format import Stack, from_peft, save_peft, to_peft
from trainables.engine.targets import block_names, block_numbers, sizes_of, target_names, weight_of
from trainables.interface.edits import Edit
from trainables.projections import Factors
from trainables.trial import AdapterConfig


@dataclass(frozen=True)
class Route:
    """Which rows of a forward belong to which members.

    Attributes:
        members: indices into the pack, in the order of their rows.
        counts: rows of each of them; the rows of one member are contiguous.
        evaluating: whether the pass is one of evaluation; edits may hold there alone, or in training alone.
    """

    members: tuple[int, ...]
    counts: tuple[int, ...]
    evaluating: bool = False

    @property
    def even(self) -> bool:
        """Whether all members have the same number of rows, so that one batched matmul serves them."""
        return len(set(self.counts)) == 1

    def blocks(self, rows: Tensor) -> list[Tensor]:
        """Cut `[rows, ..., F]` into views `[m, n, F]` of m members with n positions: one view, or one per member."""
        if self.even:
            return [rows.reshape(len(self.members), -1, rows.shape[-1])]
        per_row = len(rows) // sum(self.counts)  # 1, or its tokens where a layer has them one below the other
        parts = rows.split([count * per_row for count in self.counts])
        return [part.reshape(1, -1, rows.shape[-1]) for part in parts]


class PackedLinear(nn.Module):
    """A frozen linear layer plus the adapters of a pack: y = W x + scale_k B_k A_k x for the rows of member k.

    Attributes:
        prior: A, B and scale of frozen prior adapters, stacked in the same way; None when no member has one.
    """

    def __init__(self, base: Any, pack: PackedAdapters, A_KRI: Tensor, B_KOR: Tensor) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = sizes_of(base)
        self._pack = [pack]  # in a list, so that the pack's tensors stay outside the model's state
        self.A_KRI, self.B_KOR = A_KRI, B_KOR
        self.prior: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The frozen layer's, for models that read their layers' weights; sharding replaces it again and again."""
        return self.base.weight

    @property
    def weight_OI(self) -> Tensor:
        """The frozen layer's, whichever way it stores it."""
        return weight_of(self.base)

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map `[rows, ..., I]` to `[rows, ..., O]`."""
        pack = self._pack[0]
        route = pack.route
        if route is None:
            y: Tensor = self.base(x)
            return y
        x = x.to(self.weight.dtype)
        factors = [factor.to(x.dtype) for factor in _of_members(route, self.A_KRI, self.B_KOR, pack.scale_K)]
        y = _Adapted.apply(x, self.weight_OI, self.bias, *factors, route)
        if self.prior is not None:
            y = y + _low_rank(x, route, *(factor.to(x.dtype) for factor in _of_members(route, *self.prior)))
        return y


def _of_members(route: Route, A_KRI: Tensor, B_KOR: Tensor, scale_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Select the factors of the members that take part."""
    if route.members == tuple(range(len(scale_K))):
        return A_KRI, B_KOR, scale_K
    index = torch.tensor(route.members).to(scale_K.device, non_blocking=True)
    return A_KRI[index], B_KOR[index], scale_K[index]


class _Adapted(torch.autograd.Function):
    """A frozen linear layer and the adapters on it: W x + b + B (s A x), with A, B and s of each row's member.

    Autograd would build the same result from a dozen operations; here what the adapters add goes into the outputs of
    the frozen matrix products in place, forward and backward. Tensors of the rank's width have their positions last,
    `[m, R, n]`: a tall, narrow product is two to five times slower on a CPU. All is in the weights' precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        A_MRI: Tensor,
        B_MOR: Tensor,
        scale_M: Tensor,
        route: Route,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            y = torch.nn.functional.linear(x, weight_OI, bias_O)
            lows = []
            for x_mnI, y_mnO, (A, B, scale) in zip(
                route.blocks(x), route.blocks(y), _blocks(route, A_MRI, B_MOR, scale_M), strict=True
            ):
                lows.append(torch.bmm(A, x_mnI.transpose(1, 2)).mul_(scale[:, None, None]))
                y_mnO.baddbmm_(lows[-1].transpose(1, 2), B.transpose(1, 2))
        ctx.save_for_backward(x, weight_OI, A_MRI, B_MOR, scale_M, *lows)
        ctx.route = route
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        x, weight_OI, A_MRI, B_MOR, scale_M, *lows = ctx.saved_tensors
        route: Route = ctx.route
        dx = dy @ weight_OI if ctx.needs_input_grad[0] else None
        dxs = [None] * len(lows) if dx is None else route.blocks(dx)
        dA, dB = [], []
        for x_mnI, dy_mnO, dx_mnI, low_mRn, (A, B, scale) in zip(
            route.blocks(x), route.blocks(dy), dxs, lows, _blocks(route, A_MRI, B_MOR, scale_M), strict=True
        ):
            dlow_mRn = torch.bmm(B.transpose(1, 2), dy_mnO.transpose(1, 2)).mul_(scale[:, None, None])
            if dx_mnI is not None:
                dx_mnI.baddbmm_(dlow_mRn.transpose(1, 2), A)
            dA.append(torch.bmm(dlow_mRn, x_mnI))
            dB.append(torch.bmm(low_mRn, dy_mnO).transpose(1, 2))
        return dx, None, None, torch.cat(dA), torch.cat(dB), None, None


def _low_rank(x: Tensor, route: Route, A_MRI: Tensor, B_MOR: Tensor, scale_M: Tensor) -> Tensor:
    """Return scale B A x of frozen adapters."""
    parts = [
        (x_mnI @ A.transpose(1, 2)) * scale[:, None, None] @ B.transpose(1, 2)
        for x_mnI, (A, B, scale) in zip(route.blocks(x), _blocks(route, A_MRI, B_MOR, scale_M), strict=True)
    ]
    return torch.cat([part.flatten(0, 1) for part in parts]).view(*x.shape[:-1], B_MOR.shape[1])


def _blocks(route: Route, *of_members: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors `[M, ...]` like `Route.blocks`."""
    if route.even:
        return [of_members]
    return list(zip(*(tensor.split(1) for tensor in of_members), strict=True))


class PackedAdapters:
    """The adapters of a pack, attached to a base model in place of its linear layers until `detach`.

    Args:
        model: a causal language model whose parameters are frozen.
        configs: one per member. Ranks may differ: shorter ones are padded with zeros, which stay zero, as the gradient
            of a padded row of A is B's zero column times something, and vice versa. On a layer that others adapt and
            not it, a member is nothing but such padding.
        seeds: what each member's initial A is drawn from (`TrialConfig.adapter_seed`).
        dtype: the factors' type.

    Attributes:
        first_block: the lowest block of the model that a member adapts, or the one above the lowest whose output one
            edits. What enters it is the base model's, before edits.
        edits: of hidden states.
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
        # The layers of each member, by their places among all layers.
        self._places = [[at for at, name in enumerate(bases) if name in names] for names in names_of_members]
        blocks = block_numbers(model)
        self.first_block = min(blocks.get(name, 0) for name in bases)
        device = next(iter(bases.values())).weight.device
        self.scale_K = torch.tensor([config.scale for config in configs], dtype=dtype, device=device)
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
        self.edits = PackedEdits(model, lambda: self.route)

    def _initialise(self, member: int, rank: int, seed: int | str) -> None:
        """Draw A uniformly in +- 1/sqrt(I) from the seed and the layer's name alone; B is zero (PEFT's default)."""
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
        """Select those of a sequence like `factors` that are of the layers which a member adapts."""
        return [tensors[2 * at + kind] for at in self._places[member] for kind in (0, 1)]

    def attach_priors(self, priors: Mapping[int, Sequence[Factors]]) -> None:
        """Add frozen adapters to members: member -> factors, layer after layer of those that the member adapts.

        They are stacked, padded to the largest rank, with zeros for members without one.
        """
        self._priors = {member: [factors.to(self.theta_KP) for factors in prior] for member, prior in priors.items()}
        if not self._priors:
            return
        rank = max(factors.A_RI.shape[0] for prior in self._priors.values() for factors in prior)
        by_layer = {
            member: dict(zip(self._places[member], prior, strict=True)) for member, prior in self._priors.items()
        }
        for number, layer in enumerate(self.layers.values()):
            A_KRI = layer.A_KRI.new_zeros(self.num_members, rank, layer.in_features)
            B_KOR = layer.B_KOR.new_zeros(self.num_members, layer.out_features, rank)
            scale_K = torch.zeros_like(self.scale_K)
            for member in [member for member, prior in by_layer.items() if number in prior]:
                A_RI, B_OR = by_layer[member][number].A_RI, by_layer[member][number].B_OR
                A_KRI[member, : A_RI.shape[0]], B_KOR[member, :, : B_OR.shape[1]] = A_RI, B_OR
                scale_K[member] = by_layer[member][number].scale
            layer.prior = (A_KRI, B_KOR, scale_K)

    def attach_edits(self, edits: Mapping[int, Sequence[Edit]]) -> None:
        """Edit the hidden states of members' rows: member -> edits. Raise ValueError for one that cannot be made."""
        self.edits.attach(edits, self.theta_KP)
        if (lowest := self.edits.lowest_start) is not None:
            self.first_block = min(self.first_block, lowest)

    @property
    def factors(self) -> list[Tensor]:
        """A then B of every layer, in the model's order: views of `theta_KP`, and the leaves to differentiate by."""
        return [factor for layer in self.layers.values() for factor in (layer.A_KRI, layer.B_KOR)]

    def flat(self, tensors_K: Sequence[Tensor]) -> Tensor:
        """Join tensors shaped like `factors` into one `[K, P]`, in the layout of `theta_KP`."""
        return torch.cat([tensor.reshape(self.num_members, -1) for tensor in tensors_K], dim=1)

    def unflat(self, theta: Tensor) -> list[Tensor]:
        """Cut a `[K, P]`, or one member's row `[P]` of it, into tensors shaped like the factors."""
        shapes = [factor.shape[1:] for factor in self.factors]
        pieces = theta.split([shape.numel() for shape in shapes], dim=-1)
        return [piece.view(*theta.shape[:-1], *shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def cut(self, member: int, theta_P: Tensor) -> Tensor:
        """Drop what pads the member's rank and layers from its row `[P]`; `pad` is the inverse."""
        return torch.cat([view.reshape(-1) for view in self._unpadded(member, theta_P)])

    def pad(self, member: int, values: Tensor) -> Tensor:
        """Return what `cut` gave as a row `[P]`, zeros elsewhere. Raise ValueError if sizes differ."""
        theta_P = torch.zeros_like(self.theta_KP[member])
        views = self._unpadded(member, theta_P)
        sizes = [view.numel() for view in views]
        if values.numel() != sum(sizes):
            raise ValueError(f"{values.numel()} numbers do not fit an adapter of {sum(sizes)}")
        for view, part in zip(views, values.split(sizes), strict=True):
            view.copy_(part.view(view.shape))
        return theta_P

    def _unpadded(self, member: int, theta_P: Tensor) -> list[Tensor]:
        """Return views of a row `[P]` without what pads the member's rank and layers."""
        rank, factors = self.configs[member].rank, self.of_member(member, self.unflat(theta_P))
        pairs = zip(factors[::2], factors[1::2], strict=True)
        return [view for A_RI, B_OR in pairs for view in (A_RI[:rank], B_OR[:, :rank])]

    @contextmanager
    def routed(self, route: Route | None) -> Iterator[None]:
        """Send the rows of forward passes inside to the members of a route; None is the null adapter."""
        previous, self.route = self.route, route
        try:
            yield
        finally:
            self.route = previous

    def detach(self) -> None:
        """Give the model its frozen layers back. The factors stay readable."""
        self.edits.detach()
        for name, layer in self.layers.items():
            _replace(self.model, name, layer.base)

    def leaves(self, member: int) -> list[Tensor]:
        """Return copies of one member's `factors` to differentiate by, padded like these, of the layers it adapts."""
        return [factor[member].detach().clone().requires_grad_() for factor in self.of_member(member, self.factors)]

    def member_factors(self, member: int, factors: Sequence[Tensor] | None = None) -> list[Factors]:
        """Return one member's adapter, layer after layer of those it adapts, cut to its rank.

        Args:
            factors: A then B of each, as `leaves` returns them; None is the current ones, detached.
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

    def prior_factors(self, member: int) -> list[Factors]:
        """Return the frozen prior of a member; empty if it has none."""
        return self._priors.get(member, [])

    def scale_member(self, member: int, share: float) -> None:
        """Scale what a member adds to the base model, its prior and its edits included."""
        self.edits.scale(member, share)
        with torch.no_grad():
            for layer in self.layers.values():
                layer.B_KOR[member] *= share
        self.attach_priors(
            {
                index: [replace(factors, B_OR=factors.B_OR * share) for factors in prior] if index == member else prior
                for index, prior in self._priors.items()
            }
        )

    def member(self, member: int) -> dict[str, Tensor]:
        """Return the factors of one member under PEFT's names, without its prior."""
        return to_peft(self.layers_of(member), self.member_factors(member))

    def load_member(self, member: int, factors: Mapping[str, Tensor]) -> None:
        """Set the factors of one member from PEFT's names. Raise UserError for missing, unknown or misshapen ones."""
        config = self.configs[member]
        self.set_member_factors(member, from_peft(self.layers_of(member), factors, config))

    def save_member(self, member: int, directory: Path, base_model: str) -> None:
        """Write one member as a PEFT checkpoint that `peft.PeftModel.from_pretrained` loads.

        An active prior becomes a part of it: ranks add up, [A; A'] and [scale B, scale' B'] with a scale of one.

        Args:
            directory: created if needed.
            base_model: the name or path that the checkpoint says it belongs to.
        """
        adapter, config = self.member_factors(member), self.configs[member]
        if prior := self.prior_factors(member):
            adapter = [_joined(*pair) for pair in zip(adapter, prior, strict=True)]
            rank = max(factors.A_RI.shape[0] for factors in adapter)
            config = replace(config, rank=rank, alpha=float(rank), rslora=False)
        layers = self.layers_of(member)
        transposed = any(layer.weight_OI is not layer.weight for layer in layers.values())
        stack = Stack(block_names(self.model)[0].split(".")[-2], config.layer_numbers(len(block_names(self.model))))
        save_peft(directory, list(layers), adapter, config, base_model, stack, transposed=transposed)


def _joined(trained: Factors, prior: Factors) -> Factors:
    """Return the sum of two adapters of a layer as one adapter."""
    A_RI = torch.cat([trained.A_RI, prior.A_RI])
    return Factors(A_RI, torch.cat([trained.scale * trained.B_OR, prior.scale * prior.B_OR], dim=1), 1.0)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _seed_of(seed: int | str, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
