"""Trains packs on one worker or on several: `test_process_group.py` starts two processes of this and compares.

A worker is `python -m tests.support.together FOLDER RANK COUNT`, with a folder that all of them see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.tiny import prepare, tiny_base, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, TorchProcessGroup, shard_model
from trainables.folder import SweepFolder
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.trial import TrialConfig

STEPS, LENGTH = 3, 16
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
Packs = dict[str, tuple[list[TrialConfig], dict[str, Any]]]


def trials() -> dict[str, TrialConfig]:
    """A trial of every method that trains; 5 task rows and 3 alignment rows are uneven for two workers."""
    sizes: dict[str, Any] = {"batch_size": 5, "alignment_batch_size": 3, "max_length": LENGTH}
    made = {
        title: tiny_trial(methods.make(title.split(" ")[0].rstrip(","), values), SEED, **sizes)
        for title, values in VARIANTS.items()
    }
    return {title: trial for title, trial in made.items() if trial.training == trial}


def packs(precision: str) -> Packs:
    """Name -> members and options of a pack: each method alone, in float32 also accumulated, in float64 all in one.

    Not all in float32, because of the many seeds there is one whose representation constraint is a difference of all
    but equal states, which makes 500 times what it was of a rounding, on any number of workers.
    """
    found: Packs = {title: ([trial], {}) for title, trial in trials().items()}
    if precision == "float32":
        return found | {f"{title}, accumulated": (some, {"rows_per_forward": 2}) for title, (some, _) in found.items()}
    everyone = [_different(trial, number) for number, trial in enumerate(trials().values())]
    found["all methods in one pack"] = (everyone, {})
    found["accumulated"] = (everyone, {"rows_per_forward": 3})
    found["one row at a time, recomputed"] = (everyone[2:5], {"rows_per_forward": 1, "gradient_checkpointing": True})
    return found


def _different(trial: TrialConfig, number: int) -> TrialConfig:
    """A trial of the same method with another seed, rank and other batches, of one row for some."""
    return tiny_trial(
        trial.method,
        number,
        rank=2 + number % 3,
        batch_size=1 + number % 4,
        alignment_batch_size=1 + number % 3,
        max_length=LENGTH,
    )


def prepared(folder: Path) -> AdapterStore:
    """A store with all that the trials are built on."""
    needed = [trial for some, _ in packs("float64").values() for one in some for trial in one.requires]
    return prepare(needed, folder)


def trained(precision: str, store: AdapterStore, workers: ProcessGroup) -> Iterator[tuple[str, Pack]]:
    """Every pack after its steps, to be looked at before the next."""
    dtype = DTYPES[precision]
    base = tiny_base(dtype=dtype)
    if workers.sharded:
        shard_model(base.model, torch.device("cpu"))
    for name, (members, options) in packs(precision).items():
        pack = Pack(base, tiny_setting(), members, dtype, store=store, workers=workers, **options)
        pack.advance(STEPS)
        yield name, pack
        pack.detach()


def results(folder: Path, store: AdapterStore, workers: Sequence[ProcessGroup]) -> dict[str, Tensor | list[Any]]:
    """Adapters of every pack by every kind of workers; scores, replies and files of the pack of all methods."""
    found: dict[str, Tensor | list[Any]] = {}
    for crew in workers:
        kind = "sharded" if crew.sharded else "replicated"
        for precision in DTYPES:
            for name, pack in trained(precision, store, crew):
                found[f"{kind} {precision} {name}"] = pack.adapters.theta_KP.clone()
                if name == "all methods in one pack":
                    outcomes = pack.finish(SweepFolder(folder / f"{kind}-{precision}-{crew.rank}")).outcomes
                    found[f"{kind} {precision} scores"] = [outcome.scores for outcome in outcomes]
                    found[f"{kind} {precision} losses"] = [outcome.curves["loss"] for outcome in outcomes]
    return found


def main(folder: Path, rank: int, count: int) -> None:
    """One of several workers."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    crews = [TorchProcessGroup(cpu=True), TorchProcessGroup(sharded=True, cpu=True)]
    found = results(folder, AdapterStore(SweepFolder(folder / "store")), crews)
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def alone(folder: Path, store: AdapterStore) -> dict[str, Tensor | list[Any]]:
    """The same on one worker."""
    return results(folder, store, [SINGLE_PROCESS])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
