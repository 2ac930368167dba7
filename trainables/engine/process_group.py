"""Processes that train one pack together, each on its share of the rows. One process alone is the rule.

Every worker holds all adapters and their optimiser. A worker sends its rows through the base model; the hidden states
at the positions that count are put together, so that every worker sees what a method would see on one machine and
comes to the same losses, whatever the method. Each then sends the gradients of its own rows back, and the adapters'
gradients are summed. No gradient of the base model exists, and its weights may be sharded (FSDP) where one device
cannot hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


class ProcessGroup:
    """One process alone; `TorchProcessGroup` is several. All workers call the same methods in the same order.

    Attributes:
        rank: of this worker, 0 .. count - 1.
        count: how many there are.
        sharded: whether each holds a part of the base model's layers only.
    """

    rank = 0
    count = 1
    sharded = False

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def deal(self, items: Sequence[T]) -> tuple[range, Sequence[T]]:
        """Which of the items are this worker's, and those themselves.

        A worker that gets none is given the first one as a stand-in, of which it must use nothing: layers of a sharded
        model run on all workers or on none.
        """
        own = range(self.rank, len(items), self.count)
        return own, ([items[index] for index in own] if own else items[:1])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all workers' tensors, the same bits on each."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """Every worker's value, by rank."""
        return [value]

    def agree(self, value: T) -> T:
        """The first worker's value."""
        return value


SINGLE_PROCESS = ProcessGroup()


class TorchProcessGroup(ProcessGroup):
    """The workers of a `torch.distributed` process group that is up already. Accelerate finds the device and reduces.

    Args:
        sharded: shard the base model's layers over the workers.
        cpu: stay on the CPU even where there are GPUs.
    """

    def __init__(self, *, sharded: bool = False, cpu: bool = False) -> None:
        from accelerate import Accelerator

        self._accelerator: Accelerator = Accelerator(cpu=cpu)
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.sharded = sharded

    @property
    def device(self) -> torch.device:
        """This worker's own."""
        return self._accelerator.device

    def sum(self, tensor: Tensor) -> Tensor:
        total: Any = self._accelerator.reduce(tensor, reduction="sum")
        return total

    def gather(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def agree(self, value: T) -> T:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def layers_of(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """The blocks of a transformer, in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def shard(model: PreTrainedModel, device: torch.device) -> None:
    """Shard a frozen model's layers over the process group (FSDP2), and put all of it on the device.

    A layer's weights are gathered when it runs, forth or back, and dropped afterwards. Embeddings and head stay whole
    on every worker: the hidden states of a batch are of a few rows, and the head is needed at any time.
    """
    from torch.distributed import get_world_size, init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (get_world_size(),))
    for layer in layers_of(model):
        fully_shard(layer, mesh=mesh)  # moves one layer at a time
    model.to(device)


def whole(weight: Tensor) -> Tensor:
    """A weight that may be sharded, on the device it lives on; every worker has to ask."""
    from torch.distributed.tensor import DTensor

    return weight.full_tensor() if isinstance(weight, DTensor) else weight
