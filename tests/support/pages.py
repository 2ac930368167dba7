"""Code blocks of the project's pages, so that tests can run them."""

from __future__ import annotations

import re
from pathlib import Path


def code_blocks(page: Path, heading: str, language: str = "python") -> list[str]:
    """Return the blocks of a language under a heading of level 2, sub-headings included, in order."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)
