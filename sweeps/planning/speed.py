"""How fast this machine computes a model's matrix products, measured in a moment.

The probe is the gated MLP of a layer, with realistic numbers of tokens: forward, forward and backward, and one token
per row. It has the shapes of the real products and of the operations between them. CPU time counts, not wall time, so
that other processes matter little: the answer is for an idle machine.

Shape legend: N tokens, D hidden width, I inner width.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from sweeps.planning import apart
from sweeps.planning.work import Work
from trainables.engine.memory import ModelShape

LARGEST_WIDTH, LARGEST_INNER, LARGEST_TOKENS = 1024, 3072, 512  # larger products are no faster
PROBE_SECONDS = 0.1  # for each of the three measurements; each runs at least twice
LAYERS = 4  # used in turn, so that not all weights stay in a CPU cache
# What a step takes besides these products, fitted to runs of models with 0.4 and 135 million parameters on CPUs:
OVERHEAD = 1.5  # attention, norms, adapters and the optimizer, per second of products
CALL_SECONDS = 5e-4  # per call of a layer, however few tokens it gets
STEP_SECONDS = 4e-3  # per update of one member
REPLY_SECONDS = 4e-4  # to sample, decode and grade one reply


@dataclass(frozen=True)
class Speed:
    """Operations per second of each kind of pass.

    Attributes:
        training: forward and backward.
        reading: forward only.
        replying: one token per row.
    """

    training: float
    reading: float
    replying: float

    def seconds(self, work: Work) -> float:
        """Return how long some work takes."""
        products = work.training / self.training + work.reading / self.reading + work.replying / self.replying
        calls = (work.calls + work.reply_calls) * CALL_SECONDS
        return OVERHEAD * products + calls + work.steps * STEP_SECONDS + work.replies * REPLY_SECONDS


ASSUMED_GPU = Speed(training=1e14, reading=1.5e14, replying=1e13)  # for a driver on a machine without a GPU


def measure(shape: ModelShape, tokens: float, rows: float, threads: int, on_gpu: bool = False) -> Speed:
    """Measure the speed of a model's products.

    Args:
        tokens: tokens of a training step.
        rows: number of rows that reply together.
        threads: CPU threads of a worker.
        on_gpu: measure a GPU of this machine, in bfloat16; without one, a large GPU is assumed.
    """
    if on_gpu:  # in another process, because this one would hold GPU memory until it ends
        answer = apart.ask(__name__, {"shape": asdict(shape), "tokens": tokens, "rows": rows, "threads": threads})
        return Speed(**answer) if answer else ASSUMED_GPU
    return _measure(shape, tokens, rows, threads)


def _measure(shape: ModelShape, tokens: float, rows: float, threads: int, on_gpu: bool = False) -> Speed:
    """Measure in this process; see `measure`."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        probe = _Probe(shape, threads, on_gpu)
        many, few = (min(LARGEST_TOKENS, max(1, round(number))) for number in (tokens, rows))
        return Speed(probe.training(many), probe.reading(many), probe.reading(few))
    finally:
        torch.set_num_threads(before)


class _Probe:
    """The gated MLP of a model's layers, with random weights."""

    def __init__(self, shape: ModelShape, threads: int, on_gpu: bool) -> None:
        width = min(shape.width, LARGEST_WIDTH)
        inner = min(shape.inner or 4 * width, LARGEST_INNER)
        self.device, self.dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
        self.width, self.size, self.threads, self.on_gpu = width, width * inner, threads, on_gpu
        self.layers = [
            (self._ones(inner, width), self._ones(inner, width), self._ones(width, inner)) for _ in range(LAYERS)
        ]

    def _ones(self, *sizes: int) -> Tensor:
        return torch.full(sizes, 0.01, device=self.device, dtype=self.dtype)

    def _forward(self, states_ND: Tensor) -> Tensor:
        for gate_ID, up_ID, down_DI in self.layers:
            states_ND = linear(silu(linear(states_ND, gate_ID)) * linear(states_ND, up_ID), down_DI)
        return states_ND

    def reading(self, tokens: int) -> float:
        """Return the operations per second of forward passes."""
        states_ND = self._ones(tokens, self.width)
        with torch.no_grad():
            return 2 * 3 * LAYERS * self.size * tokens / self._seconds(lambda: self._forward(states_ND))

    def training(self, tokens: int) -> float:
        """Return the operations per second of forward and backward passes."""
        states_ND = self._ones(tokens, self.width).requires_grad_()

        def both() -> Tensor:
            return torch.autograd.grad(self._forward(states_ND).sum(), states_ND)[0]

        return 2 * 2 * 3 * LAYERS * self.size * tokens / self._seconds(both)

    def _seconds(self, run: Callable[[], Tensor]) -> float:
        """Return the shortest time of several runs."""
        run()
        best, spent, count = float("inf"), 0.0, 0
        while spent < PROBE_SECONDS or count < 2:
            began = self._time()
            run()
            took = max(self._time() - began, 1e-7)
            best, spent, count = min(best, took), spent + took, count + 1
        return best

    def _time(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() / self.threads


def main() -> None:
    """Measure a GPU as the first argument asks, and print the answer; print null without a GPU."""
    question = json.loads(sys.argv[1])
    speed = None
    if torch.cuda.is_available():
        shape = ModelShape(**question.pop("shape"))
        speed = asdict(_measure(shape, **question, on_gpu=True))
    sys.stdout.write(json.dumps(speed))


if __name__ == "__main__":
    main()
