"""Sweeps that ship with the software: one file, one sweep, run by its name."""
