"""Run the command line: `python -m sweeps.cli`."""

import sys
from pathlib import Path

if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[2]:
    del sys.path[0]  # the current directory, which may hold a `settings.py` that is not ours

from sweeps.cli.app import main

if __name__ == "__main__":
    main()
