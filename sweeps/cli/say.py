"""Lines on the terminal in one manner: numbers are not highlighted, brackets are no markup, and paths stay whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console


@dataclass(frozen=True)
class Say:
    """Says one line at a time on a console."""

    console: Console

    def note(self, line: str, style: str | None = None) -> None:
        """Print a line, unbroken, for paths and commands in it."""
        self.console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    def prose(self, text: str, style: str | None = None) -> None:
        """Print a sentence or more, broken between words where the terminal ends."""
        self.console.print(text, style=style, highlight=False, markup=False)

    def warn(self, line: str) -> None:
        """Print a line that a user should not miss."""
        self.note(line, style="yellow")

    def wrote(self, file: Path) -> None:
        """Print that a file was written."""
        self.note(f"wrote {file}")
