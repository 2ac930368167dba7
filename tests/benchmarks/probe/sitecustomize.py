"""Notes when a process takes its first training step. Python imports this at its start if its folder is on PYTHONPATH.

The first call of `trainables.engine.step.train_step` in each process appends a line to the file
$SELGEN_BENCHMARK_STEPS: when the step began and when it had ended, in seconds since 1970, and the process id.
"""

import functools
import os
import sys
import time
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WATCHED = "trainables.engine.step"


def first_call_noted(function: Any, path: str) -> Any:
    """The function; its first call is written to the file."""
    calls: list[None] = []

    @functools.wraps(function)
    def watched(*arguments: Any, **named: Any) -> Any:
        if calls:
            return function(*arguments, **named)
        calls.append(None)
        began = time.time()
        result = function(*arguments, **named)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, f"{began} {time.time()} {os.getpid()}\n".encode())
        os.close(file)
        return result

    return watched


class Finder:
    """Lets the module be found as usual, and puts the watched function into it once it is there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Of the watched module alone."""
        if name != WATCHED:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            module.train_step = first_call_noted(module.train_step, os.environ["SELGEN_BENCHMARK_STEPS"])  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "SELGEN_BENCHMARK_STEPS" in os.environ:
    sys.meta_path.insert(0, Finder())
