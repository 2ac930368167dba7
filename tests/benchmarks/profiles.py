"""Where the time of a packed step goes: by part of the step, and by operation of torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.measure import Sheet, timed
from tests.benchmarks.shapes import GROWING, LARGE, NANO, SMALL, World, fitting, world
from tests.studies.driver_scale import Meter
from trainables import pack
from trainables.engine import step
from trainables.engine.optimizer import PackedAdamW
from trainables.pack import Pack

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("rows", Pack, "member_step"),
    ("batch", step, "collate"),
    ("forward", step, "hidden_states"),
    ("losses", step, "_losses"),
    ("backward", step, "_gradients"),
    ("optimizer", PackedAdamW, "step"),
    ("records", Pack, "record"),
    ("step", pack, "train_step"),
)
"""Part, and the function whose time it is, less that of the parts inside it. One that is gone shows no time."""
TOP = 12  # operations


def parts(where: World, method: str, members: int, steps: int, **options: Any) -> dict[str, float]:
    """Share of a pack's steps by part; "rest" is what is in none. CPU time of this thread."""
    own = where.pack(where.trials(method, members, steps + 1, **options))
    own.advance(1)
    meter = Meter()
    with ExitStack() as patches:
        for name, owner, function in PARTS:
            if hasattr(owner, function):
                patches.enter_context(patch.object(owner, function, meter.wrapped(name, getattr(owner, function))))
        whole = timed(lambda: own.advance(steps), where.device)
    own.detach()
    shares = {name: meter.seconds[name] / whole for name, _, _ in PARTS}
    return shares | {"rest": 1 - sum(shares.values()), "ms": 1000 * whole / steps}


def operations(where: World, method: str, members: int, steps: int, **options: Any) -> list[tuple[str, float, float]]:
    """The operations that take most: name, share of all operations' own time, calls per step."""
    own = where.pack(where.trials(method, members, steps + 1, **options))
    own.advance(1)
    cuda = where.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as found:
        own.advance(steps)
    own.detach()

    def spent(event: Any) -> float:
        return float(event.self_device_time_total if cuda else event.self_cpu_time_total)

    events = sorted(found.key_averages(), key=spent, reverse=True)
    total = sum(map(spent, events)) or 1.0
    return [(event.key, spent(event) / total, event.count / steps) for event in events[:TOP]]


def cases(device: torch.device, short: bool) -> Iterator[tuple[str, World, str, int, int]]:
    """(name, world, method, members, steps) from one end to the other: bound by calls, and by arithmetic."""
    nano = world(NANO, device)
    yield "nano, plain, pack of 3", nano, "plain", 3, 20
    if short:
        return
    yield "nano, plain, pack of 8", nano, "plain", 8, 20
    yield "nano, kl_penalty, pack of 3", nano, "kl_penalty", 3, 20
    yield f"{SMALL.name}, plain, pack of 3", world(SMALL, device), "plain", 3, 4
    largest = GROWING[-1]
    yield f"{largest.name}, plain, pack of 3", world(largest, device), "plain", 3, 2
    for shape in fitting(LARGE, device, copies=1):
        yield f"{shape.name}, plain, pack of 3", world(shape, device, length=256, rank=16), "plain", 3, 3


def measure(device: torch.device, short: bool) -> Iterator[Sheet]:
    """A table of parts for all cases, then the operations of each."""
    rows: list[tuple[Any, ...]] = []
    tables: list[Sheet] = []
    names: Sequence[str] = ()
    for name, where, method, members, steps in cases(device, short):
        shares = parts(where, method, members, steps)
        names = tuple(shares)
        rows.append((name, *shares.values()))
        found = operations(where, method, members, steps)
        title = f"operations: {name}"
        tables.append(Sheet(title, ("operation", "share of own time", "calls per step"), tuple(found)))
    yield Sheet("parts of a packed step: share of its time; ms is absolute", ("pack", *names), tuple(rows))
    yield from tables
