"""Writes what was measured into README.md, between marks that name the tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Sheet

PAGE = Path(__file__).with_name("README.md")


def filled(text: str, sections: Mapping[str, str]) -> str:
    """A page whose sections between `<!-- name -->` and `<!-- /name -->` are replaced. Raise KeyError for others."""
    for name, content in sections.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise KeyError(f"the page has no section {name!r}")
        text = pattern.sub(lambda found, content=content: f"{found[1]}\n{content}\n\n{found[2]}", text)  # type: ignore[misc]
    return text


def write(machine: Mapping[str, Any], sheets: Mapping[str, Sequence[Sheet]]) -> None:
    """Put tables into their sections of the page; each says on what it was measured."""
    where = described(machine)
    sections = {name: "\n\n".join([where, *(sheet.markdown() for sheet in some)]) for name, some in sheets.items()}
    PAGE.write_text(filled(PAGE.read_text(), {name: content for name, content in sections.items() if sheets[name]}))


def described(machine: Mapping[str, Any]) -> str:
    """The machine in a paragraph."""
    gpu = f", {machine['gpu']} ({machine['gpu_memory_gb']} GB)" if "gpu" in machine else ""
    names = [name for name in ("torch", "transformers", "peft", "ray", "mlflow") if name in machine]
    packages = ", ".join(f"{name} {machine[name]}" for name in names)
    return (
        f"Measured on: {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB{gpu};"
        f" {machine['threads']} thread(s) a process; load {machine['load_before']} when it began; Python"
        f" {machine['python']}, {packages}."
    )
