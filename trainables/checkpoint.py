"""A pack's state in one file, and a single member's state, from which a later pack of other members continues.

A file replaces an older one atomically. Training that continues from it gives every bit as if it had not been
interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from settings.common.files import replacing_file
from trainables.engine.adapters import PackedAdapters
from trainables.engine.optimizer import PackedAdamW
from trainables.member import MemberState


class CheckpointError(Exception):
    """A checkpoint is damaged or belongs to other trials. The text says which checkpoint and why, in one line."""


def save_pack(
    path: Path, pack_id: str, adapters: PackedAdapters, optimizer: PackedAdamW, members: Sequence[MemberState]
) -> None:
    """Write everything that `load_pack` needs."""
    _write(path, pack_id, {"theta": adapters.theta_KP, **optimizer.state()}, members)


def load_pack(
    path: Path, pack_id: str, adapters: PackedAdapters, optimizer: PackedAdamW, members: Sequence[MemberState]
) -> list[MemberState]:
    """Set adapters and optimizer to the state in a pack's checkpoint, and return the members' states.

    Raise CheckpointError; adapters and optimizer are then unchanged.

    Args:
        members: their present states.
    """
    tensors, read = _read(path, pack_id, members, adapters.theta_KP.device)
    expected = {"theta": adapters.theta_KP, **optimizer.state()}
    if any(name not in tensors or tensors[name].shape != tensor.shape for name, tensor in expected.items()):
        raise CheckpointError(f"checkpoint {path.name} cannot be read: its tensors have other shapes")
    adapters.theta_KP.copy_(tensors["theta"])
    optimizer.load_state(tensors)
    return read


def save_member(
    path: Path, trial_id: str, adapters: PackedAdapters, optimizer: PackedAdamW, index: int, member: MemberState
) -> None:
    """Write what a later pack, of whatever other members, needs to continue with one member."""
    state = {"theta": adapters.theta_KP, **optimizer.state()}
    tensors = {
        name: value[index : index + 1] if name == "updates" else adapters.cut(index, value[index])
        for name, value in state.items()
    }
    _write(path, trial_id, tensors, [member])


def load_member(
    path: Path, trial_id: str, adapters: PackedAdapters, optimizer: PackedAdamW, index: int, member: MemberState
) -> MemberState:
    """Set a member's rows of adapters and optimizer to what `save_member` wrote, and return the member's state.

    Raise CheckpointError; adapters and optimizer are then unchanged.

    Args:
        member: its present state.
    """
    tensors, (read,) = _read(path, trial_id, [member], adapters.theta_KP.device)
    try:
        rows = {name: adapters.pad(index, tensors[name]) for name in ("theta", "mean", "square")}
        updates = int(tensors["updates"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path.name} cannot be read: {error}") from error
    adapters.theta_KP[index] = rows["theta"]
    optimizer.mean_KP[index], optimizer.square_KP[index] = rows["mean"], rows["square"]
    optimizer.updates[index] = updates
    return read


def _write(path: Path, name: str, tensors: Mapping[str, Tensor], members: Sequence[MemberState]) -> None:
    tensors = dict(tensors)
    for number, member in enumerate(members):
        for term, pairs in member.pending.items():
            tensors[f"pending.{number}.{term}"] = torch.stack([value for _, value in pairs])
            tensors[f"pending_steps.{number}.{term}"] = torch.tensor([step for step, _ in pairs])
        tensors |= {f"state.{number}.{name}": value for name, value in member.state.items()}
    records = json.dumps([member.to_json() for member in members])
    with replacing_file(path) as temporary:
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, {"pack": name, "records": records})


def _read(
    path: Path, name: str, now: Sequence[MemberState], device: torch.device
) -> tuple[dict[str, Tensor], list[MemberState]]:
    """Return a checkpoint's tensors and members. Raise CheckpointError, also if their states are of another kind."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
        if metadata["pack"] != name:
            raise ValueError("it belongs to another pack")
        members = [MemberState.from_json(data) for data in json.loads(metadata["records"])]
        if len(members) != len(now):
            raise ValueError("it has more or fewer members")
        _read_tensors(tensors, members)
        if [_shapes(member) for member in members] != [_shapes(member) for member in now]:
            raise ValueError("the state that its methods carry is of another kind")
        for member, before in zip(members, now, strict=True):  # tensors in a file have no order
            member.state = {name: member.state[name] for name in before.state}
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise CheckpointError(f"checkpoint {path.name} cannot be read: {error}") from error
    return tensors, members


def _read_tensors(tensors: Mapping[str, Tensor], members: Sequence[MemberState]) -> None:
    """Give the members their tensors."""
    for key, values in tensors.items():
        kind, _, place = key.partition(".")
        number, _, name = place.partition(".")
        if kind == "pending":
            steps = tensors[f"pending_steps.{place}"].tolist()
            members[int(number)].pending[name] = list(zip(steps, values, strict=True))
        elif kind == "state":
            members[int(number)].state[name] = values


def _shapes(member: MemberState) -> dict[str, torch.Size]:
    """Return the shapes of a member's state."""
    return {name: value.shape for name, value in member.state.items()}
