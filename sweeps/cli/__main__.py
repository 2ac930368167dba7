"""Run the command line: `python -m sweeps.cli`."""

from sweeps.cli.app import main

if __name__ == "__main__":
    main()
