"""The benchmark: `python -m tests.benchmarks`. What it measures, and what it found, is in README.md."""
