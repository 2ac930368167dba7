"""The memory of the GPUs that this process sees. Run as a program, it prints the bytes of each as JSON."""

from __future__ import annotations

import json
import sys

from sweeps.planning import apart


def memory_of_gpus() -> float | None:
    """Return the bytes of the smallest GPU that this process may use; None without one.

    Another process asks, because a process that asks a GPU anything keeps some hundred megabytes of it until it ends.
    """
    return min(apart.ask(__name__) or (), default=None)


def main() -> None:
    """Write the bytes of each GPU to standard output."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(count)]
    sys.stdout.write(json.dumps(sizes))


if __name__ == "__main__":
    main()
