"""How the cost of training grows: with the pack, the rank, the batch, the rows' length, the model, and the sweep.

Each row of a table is measured in turns: packs of several sizes and the baseline. Steps per second are absolute; all
else is relative to the baseline's steps of one trial at a time.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks.baseline import PeftTrial
from tests.benchmarks.measure import Sheet, interleaved
from tests.benchmarks.processes import watch
from tests.benchmarks.shapes import GROWING, LARGE, NANO, SMALL, Shape, World, fitting, world

BATCH = 4
PACKS = (1, 3, 8)
PACK_SIZES = (1, 2, 4, 8, 16, 32)
RANKS = (2, 8, 32, 128)
BATCHES = (1, 2, 4, 8, 16)
LENGTHS = (16, 32, 64, 128, 256)
PEAK_RESET = Path("/proc/self/clear_refs")
SIMULATED = 160  # configurations of the simulated sweep, with three seeds
MADE_UP = replace(NANO, name="nano, random weights", pretrained=False)


def seconds_of(where: World, sizes: Sequence[int], rounds: int, **options: Any) -> dict[str, float]:
    """Seconds of a trial's step, alone in the baseline ("peft") and in packs of these sizes; medians."""
    trials = where.trials("plain", max(sizes), rounds + 1, **options)
    packs = {str(size): where.pack(trials[:size], copied=True) for size in sizes}
    peft = PeftTrial(where.copy(), where.base.tokenizer, where.setting, trials[0])
    actions: dict[str, Callable[[], object]] = {
        size: (lambda pack=pack: pack.advance(1))  # type: ignore[misc]
        for size, pack in packs.items()
    }
    found = interleaved(actions | {"peft": peft.step}, rounds, where.device)
    for pack in packs.values():
        pack.detach()
    return {name: median(some) / (1 if name == "peft" else int(name)) for name, some in found.items()}


def along(
    title: str, name: str, cases: Mapping[Any, Callable[[], dict[str, float]]], sizes: Sequence[int] = PACKS
) -> Sheet:
    """A table with a row per case: the baseline's steps per second, and how many times more packs make."""
    rows = []
    for label, measure in cases.items():
        found = measure()
        packs = [found["peft"] / found[str(size)] if str(size) in found else None for size in sizes]
        rows.append((label, 1 / found["peft"], *packs))
    return Sheet(title, (name, "PEFT alone, steps/s", *(f"pack of {size}" for size in sizes)), tuple(rows))


def throughput(device: torch.device, rounds: int, short: bool) -> Iterator[Sheet]:
    """Steps of trials per second."""
    nano = world(NANO, device)
    sizes = PACK_SIZES[:2] if short else PACK_SIZES
    packs = {"nano": lambda: seconds_of(nano, sizes, rounds, batch_size=BATCH)}
    yield along(f"pack size: trial-steps over PEFT's, batch {BATCH}", "model", packs, sizes)
    few = (1, 2) if short else PACKS

    def nano_with(**options: Any) -> Callable[[], dict[str, float]]:
        return lambda: seconds_of(nano, few, rounds, **({"batch_size": BATCH} | options))

    ranks = {rank: nano_with(rank=rank) for rank in (RANKS[:1] if short else RANKS)}
    yield along(f"rank: trial-steps over PEFT's, nano, batch {BATCH}", "rank", ranks, few)
    batches = {size: nano_with(batch_size=size) for size in (BATCHES[:1] if short else BATCHES)}
    yield along("rows of a batch: trial-steps over PEFT's, nano", "batch", batches, few)

    def as_long(length: int) -> Callable[[], dict[str, float]]:
        return lambda: seconds_of(world(MADE_UP, device, length), few, max(2, rounds // 2), batch_size=BATCH)

    lengths = {length: as_long(length) for length in (LENGTHS[:1] if short else LENGTHS)}
    yield along(f"tokens of a row: trial-steps over PEFT's, nano, batch {BATCH}", "tokens", lengths, few)
    shapes = GROWING[1:2] if short else (*GROWING, *fitting(LARGE, device, copies=4))
    models = {f"{each.name}, {each.parameters / 1e6:.1f} M": _as_large(each, device, rounds, few) for each in shapes}
    yield along(f"model: trial-steps over PEFT's, batch {BATCH}, 32 tokens", "model", models, few)


def _as_large(shape: Shape, device: torch.device, rounds: int, sizes: Sequence[int]) -> Callable[[], dict[str, float]]:
    """Fewer rounds and smaller packs for a model whose steps take seconds."""
    big = shape.parameters > 5e7
    sizes = sizes[:2] if big else sizes
    number = 2 if big else max(2, rounds // 3)
    return lambda: seconds_of(world(shape, device), sizes, number, batch_size=BATCH)


# --- memory ---


def peak_bytes(shape: Shape, members: int, device: str) -> tuple[float, float]:
    """Peak memory of a process (or GPU) that takes two steps with a pack; bytes of a member's adapter and moments."""
    torch.set_num_threads(1)
    where = world(shape, torch.device(device))
    if PEAK_RESET.exists():
        PEAK_RESET.write_text("5")  # imports and loading have a higher peak than a small pack
    pack = where.pack(where.trials("plain", members, 2, batch_size=BATCH))
    pack.advance(2)
    each = sum(tensor.nbytes for tensor in (pack.adapters.theta_KP, *pack.optimizer.state().values())) / members
    if where.device.type == "cuda":
        return float(torch.cuda.max_memory_allocated()), each
    return _peak_bytes_of_process(), each


def _peak_bytes_of_process() -> float:
    """Since the last reset; since the start where the system knows no reset."""
    if not PEAK_RESET.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    status = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def memory(device: torch.device, short: bool) -> Sheet:
    """What each further trial adds, from fresh processes."""
    sizes = {NANO: (1, 4) if short else (1, 8, 32)} | ({} if short else {SMALL: (1, 8)})
    rows = []
    for shape, members in sizes.items():
        first = 0.0
        for number in members:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                peak, each = fresh.submit(peak_bytes, shape, number, str(device)).result()
            first = first or peak
            added = (peak - first) / (number - members[0]) / 1e6 if number > members[0] else None
            rows.append((f"{shape.name}, pack of {number}", peak / 1e6, added, each / 1e6))
    columns = ("pack", "peak MB (absolute)", "added per trial, MB", "of it adapter and moments, MB")
    return Sheet(f"memory of a worker, batch {BATCH}", columns, tuple(rows))


# --- the sweep itself ---


def overhead(configurations: int) -> Sheet:
    """CPU seconds of the driver against the number of trials, where workers answer at once."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scale.json"
        arguments = ["--configurations", str(configurations), "--no-ray", "--out", str(out)]
        watch(["tests.studies.driver_scale", *arguments], Path(folder) / "log")
        found = json.loads(out.read_text())
    figures = {name: values for name, values in found["figures"].items() if name.startswith(("CPU s", "memory"))}
    rows = [(name, *values, found["exponents"][name]) for name, values in figures.items()]
    columns = ("driver", *(f"{count} trials" for count in found["trials"]), "exponent")
    return Sheet("a simulated sweep: the driver's CPU seconds and memory (absolute)", columns, tuple(rows))


def measure(device: torch.device, rounds: int, short: bool) -> Iterator[Sheet]:
    """All tables, one after the other."""
    yield from throughput(device, rounds, short)
    yield memory(device, short)
    if not short:
        yield overhead(SIMULATED)
