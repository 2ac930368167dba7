"""Lines on the terminal in one manner: numbers are not highlighted, brackets are no markup, and paths stay whole."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from settings.common.addresses import has_password, redacted
from sweeps.driver.run_options import RunOptions

URI_VARIABLE = "MLFLOW_TRACKING_URI"  # where an address with a password is kept out of sight


@dataclass(frozen=True)
class Say:
    """Says one line at a time on a console."""

    console: Console

    def note(self, line: str, style: str | None = None) -> None:
        """Print a line, unbroken, for paths and commands in it."""
        self.console.print(redacted(line), style=style, highlight=False, markup=False, soft_wrap=True)

    def prose(self, text: str, style: str | None = None) -> None:
        """Print a sentence or more, broken between words where the terminal ends."""
        self.console.print(redacted(text), style=style, highlight=False, markup=False)

    def warn(self, line: str) -> None:
        """Print a line that a user should not miss."""
        self.note(line, style="yellow")

    def wrote(self, file: Path) -> None:
        """Print that a file was written."""
        self.note(f"wrote {file}")


def command(*words: object) -> str:
    """Return a command as it can be pasted into a shell."""
    return shlex.join(map(str, words))


def places(options: RunOptions) -> str:
    """Return the options of a command that reads what a start of a sweep has written, as they can be pasted."""
    output = command("--output", options.output)
    uri = options.tracking_uri
    if uri is None:
        return output
    shown = f'"${URI_VARIABLE}"' if has_password(uri) else shlex.quote(uri)
    return f"{output} --tracking-uri {shown}"


def hidden_address(options: RunOptions) -> str:
    """Say that the address of MLflow has to be in the variable that `places` uses; "" where that is needless."""
    uri = options.tracking_uri
    if uri is None or not has_password(uri) or os.environ.get(URI_VARIABLE) == uri:
        return ""
    return f"${URI_VARIABLE} stands for the address of MLflow, whose password is not shown: set it first"
