"""Is training in packs right on a GPU, and what is it worth there? One command of a few minutes.

    python -m tests.benchmarks.gpu --out gpu.json            135 M, 1.5 B and 8 B parameters, as far as they fit
    python -m tests.benchmarks.gpu --device cpu --short      a tiny model: does it still run?

It needs torch, transformers and PEFT, and of this project `settings` and `trainables`. Weights are random, so that
nothing is fetched. A line is printed and the file is rewritten after each check: what ends it early costs the rest
alone. What no longer fits into the budget is left out, which its line says. The exit code is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from settings.common.errors import UserError
from settings.common.files import write_json
from tests.benchmarks.gpu_checks import Bench, Found, checks
from tests.benchmarks.measure import machine
from tests.benchmarks.page import described
from tests.benchmarks.shapes import ON_ONE_GPU, TINY, Shape, fitting

BUDGET = 420.0  # seconds
SLOWER = 3.0  # a check on the next model takes so many times as long, at most, where small models leave a GPU idle
COPIES = 2  # of the base model: one for packs, one for PEFT
FAILURES = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError, UserError)


@dataclass
class Run:
    """Checks one after the other, within a budget.

    Attributes:
        out: JSON file that is rewritten after each check; None keeps nothing.
        entries: what was found so far.
        taken: check -> seconds on the model before.
    """

    device: torch.device
    budget: float
    out: Path | None
    about: dict[str, Any]
    began: float = field(default_factory=time.perf_counter)
    entries: list[dict[str, Any]] = field(default_factory=list)
    taken: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.perf_counter() - self.began)

    def check(self, model: str, name: str, measure: Callable[[], Found]) -> None:
        """Run one check if it fits, and tell what it found."""
        if self.left < SLOWER * self.taken.get(name, 0.0):
            self.skip(model, name, f"{max(0.0, self.left):.0f} s of the budget are left")
            return
        began = time.perf_counter()
        try:
            found = measure()
        except torch.OutOfMemoryError:
            self.skip(model, name, "does not fit into the GPU's memory")
            return
        except FAILURES as error:  # of many checks that will not be run again soon, one must not cost the others
            traceback.print_exc()
            found = Found(f"{name}: {type(error).__name__}: {error}", {"error": str(error)}, False)
        self.taken[name] = seconds = time.perf_counter() - began
        values = dict(found.values)
        self._tell(
            {"model": model, "check": name, "holds": found.holds, "seconds": seconds, "found": values}, found.text
        )

    def skip(self, model: str, name: str, why: str) -> None:
        """Tell that a check was not made."""
        self._tell({"model": model, "check": name, "holds": None, "skipped": why}, f"{name}: skipped, {why}")

    def _tell(self, entry: dict[str, Any], text: str) -> None:
        word = {True: "ok    ", False: "FAILED", None: "      "}[entry["holds"]]
        sys.stdout.write(f"{word} {entry['model']}: {text}\n")
        sys.stdout.flush()
        self.entries.append(entry)
        if self.out:
            write_json(self.out, {"machine": self.about, "device": str(self.device), "checks": self.entries})

    def model(self, shape: Shape, short: bool) -> None:
        """Run all checks on one model."""
        if self.device.type == "cuda" and not fitting([shape], self.device, COPIES):
            self.skip(shape.name, "all", f"{COPIES} copies do not fit into the GPU's free memory")
            return
        if self.left <= 0:
            self.skip(shape.name, "all", "the budget is spent")
            return
        self._checks(shape, short)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _checks(self, shape: Shape, short: bool) -> None:
        """Let the model go when all checks are done."""
        bench = Bench(shape, self.device, short)
        for name, measure in checks(short).items():
            self.check(shape.name, name, partial(measure, bench))

    @property
    def failed(self) -> list[str]:
        """The checks that do not hold."""
        return [f"{entry['model']}, {entry['check']}" for entry in self.entries if entry["holds"] is False]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks that the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file, rewritten after each check")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--short", action="store_true", help="a tiny model; results are not worth keeping")
    parser.add_argument("--budget", type=float, default=BUDGET, help="time limit in seconds; the rest is skipped")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --short tries the command without one")
    disable_progress_bar()
    device = torch.device(options.device)
    run = Run(device, options.budget, options.out, machine(device))
    sys.stdout.write(described(run.about) + "\n")
    for shape in (TINY,) if options.short else ON_ONE_GPU:
        run.model(shape, options.short)
    if run.failed:
        sys.stdout.write(f"{len(run.failed)} failed: {'; '.join(run.failed)}\n")
    sys.stdout.write(json.dumps({"failed": len(run.failed), "of": len(run.entries)}) + "\n")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
