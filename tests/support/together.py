"""Trains packs on one worker or on several: `test_process_group.py` starts two processes of this and compares.

A worker is `python -m tests.support.together FOLDER RANK COUNT`, with a folder that all of them see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.tiny import prepare, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.frozen.prefix_cache import PrefixCache
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, TorchProcessGroup, shard_model
from trainables.folder import SweepFolder
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.trial import TrialConfig

STEPS, LENGTH = 2, 16
SEED = (
    5  # with others a gradient of 1e-9 somewhere lets float32 rounding decide a step of Adam, on any number of workers
)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in methods.names()},
    "kl_penalty (published)": {"definition": "published"},
    "gradient_projection, 3 parts": {"directions": 3, "stage": "update", "scope": "global"},
    "representation, synchronized": {"proxy_schedule": "synchronized"},
}
# In the first steps the KL's gradient is a difference of nearly equal numbers, and surgery keeps its direction alone.
ILL_CONDITIONED = {"two_gradients"}
ALL, UPPER = "all methods in one pack", "all methods on the upper layer"
SCORED = (ALL, UPPER)
Packs = dict[str, tuple[list[TrialConfig], dict[str, Any]]]


def trials() -> dict[str, TrialConfig]:
    """Return a trial of every method that trains; 5 task rows and 3 alignment rows are uneven for two workers."""
    sizes: dict[str, Any] = {"batch_size": 5, "alignment_batch_size": 3, "max_length": LENGTH}
    made = {
        title: tiny_trial(methods.make(title.split(" ")[0].rstrip(","), values), SEED, **sizes)
        for title, values in VARIANTS.items()
    }
    return {title: trial for title, trial in made.items() if trial.training == trial}


def packs(precision: str) -> Packs:
    """Return name -> members and options of a pack: each method alone, accumulated in float32; all in one in float64.

    Not all in one in float32: with some of the seeds, the representation constraint is a difference of nearly equal
    states, which multiplies a rounding error by 500, on any number of workers.
    """
    solo: Packs = {title: ([trial], {}) for title, trial in trials().items()}
    if precision == "float32":
        accumulated = {"rows_per_forward": 2}
        return {
            f"{title}, accumulated": (members, accumulated)
            for title, (members, _) in solo.items()
            if title not in ILL_CONDITIONED
        }
    everyone = [_different(trial, number) for number, trial in enumerate(trials().values())]
    movable = [each for each in everyone if each.method.name != "blocked_directions"]  # which needs a block in between
    upper = [replace(each, adapter=replace(each.adapter, layers="last 1")) for each in movable]
    return solo | {
        UPPER: (upper, {}),
        ALL: (everyone, {}),
        "accumulated": (everyone, {"rows_per_forward": 3}),
        "one row at a time, recomputed": (everyone[2:5], {"rows_per_forward": 1, "gradient_checkpointing": True}),
    }


def _different(trial: TrialConfig, number: int) -> TrialConfig:
    """Return a trial of the same method with another seed, rank and batch size; some batches have one row."""
    rank = 2 + number % 3
    return tiny_trial(
        trial.method,
        number,
        rank=rank + -rank % trial.method.rank_multiple,
        batch_size=1 + number % 4,
        alignment_batch_size=1 + number % 3,
        max_length=LENGTH,
    )


def prepared(folder: Path) -> AdapterStore:
    """Train all that the trials are built on, and return the store that has it."""
    needed = [needed for members, _ in packs("float64").values() for trial in members for needed in trial.requires]
    return prepare(needed, folder)


def trained(precision: str, store: AdapterStore, workers: ProcessGroup, cache: Path) -> Iterator[tuple[str, Pack]]:
    """Yield every pack after its steps; the next one takes its base model.

    Several workers keep what lies below the upper layer; a single one computes it in every pass.
    """
    dtype = DTYPES[precision]
    base = tiny_base(dtype=dtype)
    if workers.sharded:
        shard_model(base.model, torch.device("cpu"))
    for name, (members, options) in packs(precision).items():
        kept = PrefixCache(cache / "prefixes", workers=workers) if name == UPPER and workers.count > 1 else None
        pack = Pack(base, tiny_setting(), members, dtype, store=store, workers=workers, prefixes=kept, **options)
        pack.advance(STEPS)
        yield name, pack
        pack.detach()


def results(folder: Path, store: AdapterStore, workers: Sequence[ProcessGroup]) -> dict[str, Tensor | list[Any]]:
    """Return the adapters of every pack by every kind of workers, and the scores and losses of all methods in one."""
    values: dict[str, Tensor | list[Any]] = {}
    for crew in workers:
        kind = "sharded" if crew.sharded else "replicated"
        for precision in DTYPES:
            for name, pack in trained(precision, store, crew, folder / "cache"):
                values[f"{kind} {precision} {name}"] = pack.adapters.theta_KP.clone()
                if name in SCORED:
                    place = f"{kind}-{precision}-{crew.rank}" + ("-upper" if name == UPPER else "")
                    outcomes = pack.finish(SweepFolder(folder / place)).outcomes
                    values[f"{kind} {precision} {name}, scores"] = [outcome.scores for outcome in outcomes]
                    values[f"{kind} {precision} {name}, losses"] = [outcome.curves["loss"] for outcome in outcomes]
    return values


def main(folder: Path, rank: int, count: int) -> None:
    """Do the work of one of several workers."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    crews = [TorchProcessGroup(cpu=True), TorchProcessGroup(sharded=True, cpu=True)]
    values = results(folder, AdapterStore(SweepFolder(folder / "store")), crews)
    torch.save(values, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def alone(folder: Path, store: AdapterStore) -> dict[str, Tensor | list[Any]]:
    """Return the results of one worker."""
    return results(folder, store, [SINGLE_PROCESS])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
