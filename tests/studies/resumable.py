"""Run many jobs in several processes; results go into a file of JSON lines, so that the same command resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def resume(
    work: Callable[[Any], Result], jobs: Mapping[str, Any], out: Path | None, workers: int
) -> Iterator[tuple[str, Result]]:
    """Yield the result of each job with its key: first those that the file holds, then each as it ends.

    Args:
        work: a function of a module, which other processes can import.
        jobs: key -> argument of `work`.
        out: file to read and to append to; None keeps nothing.
        workers: processes.
    """
    done: dict[str, Result] = {}
    if out is not None and out.is_file():
        for line in out.read_text().splitlines():
            record = json.loads(line)
            done[record.pop("key")] = record
    yield from ((key, done[key]) for key in jobs if key in done)
    with ProcessPoolExecutor(workers) as pool:
        running = {pool.submit(work, job): key for key, job in jobs.items() if key not in done}
        for future in as_completed(running):
            key, result = running[future], future.result()
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps({"key": key} | result) + "\n")
            yield key, result
