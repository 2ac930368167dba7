"""Processes that train one pack together, each on its share of the rows. Usually there is one.

Every worker holds all adapters and their optimizer. A worker sends its rows through the base model; an all-reduce joins
the hidden states at the positions that count, so that every worker computes the same losses as a single machine would,
whatever the method. Each then backpropagates the gradients of its own rows, and the adapters' gradients are summed. The
base model has no gradients, and its weights may be sharded (FSDP) if one device cannot hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class ProcessGroup:
    """One process; `TorchProcessGroup` is several. All workers call the same methods in the same order.

    Attributes:
        rank: rank of this worker, 0 .. count - 1.
        count: the number of workers.
        sharded: whether each worker holds only a part of the base model's layers.
    """

    rank = 0
    count = 1
    sharded = False

    @property
    def first(self) -> bool:
        """Whether this worker writes the files."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> tuple[range, Sequence[T]]:
        """Return this worker's indices and items.

        A worker without any gets the first item as a stand-in and must drop its outputs: layers of a sharded model run
        on all workers or on none.
        """
        indices = range(self.rank, len(items), self.count)
        return indices, ([items[index] for index in indices] if indices else items[:1])

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of all workers' tensors, with the same bits on each."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, by rank."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the first worker's value."""
        return value


SINGLE_PROCESS = ProcessGroup()


class TorchProcessGroup(ProcessGroup):
    """The workers of a running `torch.distributed` process group. Accelerate chooses the device and reduces.

    Args:
        sharded: shard the base model's layers over the workers.
        cpu: stay on the CPU even if there are GPUs.
    """

    def __init__(self, *, sharded: bool = False, cpu: bool = False) -> None:
        from accelerate import Accelerator

        self._accelerator: Accelerator = Accelerator(cpu=cpu)
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.sharded = sharded

    @property
    def device(self) -> torch.device:
        """The device of this worker."""
        return self._accelerator.device

    def all_reduce(self, tensor: Tensor) -> Tensor:
        total: Any = self._accelerator.reduce(tensor, reduction="sum")
        return total

    def gather(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def broadcast(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the blocks of a transformer, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def shard_model(model: PreTrainedModel, device: torch.device) -> None:
    """Shard a frozen model's layers over the process group (FSDP2), and move all of it to the device.

    A layer's weights are gathered when it runs, forward or backward, and freed afterwards. Embeddings and head are not
    sharded: losses use the head at any time, and on different numbers of positions.
    """
    from torch.distributed import get_world_size, init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (get_world_size(),))
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh)  # moves one layer at a time
    model.to(device)


def full_tensor(weight: Tensor) -> Tensor:
    """Return the whole of a possibly sharded weight, on its device; every worker must call this."""
    from torch.distributed.tensor import DTensor

    return weight.full_tensor() if isinstance(weight, DTensor) else weight
