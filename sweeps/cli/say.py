"""Print lines on the terminal: without highlighted numbers, without markup in brackets, and with paths kept whole."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from settings.common.addresses import has_password, redacted
from sweeps.cli.interrupts import ADVISED
from sweeps.driver.run_options import RunOptions
from sweeps.names import resume_command

URI_VARIABLE = "MLFLOW_TRACKING_URI"  # stands for an address with a password


@dataclass(frozen=True)
class Say:
    """Prints lines on a console."""

    console: Console

    def note(self, line: str, style: str | None = None) -> None:
        """Print a line without wrapping it, so that paths and commands stay whole."""
        self.console.print(redacted(line), style=style, highlight=False, markup=False, soft_wrap=True)

    def prose(self, text: str, style: str | None = None) -> None:
        """Print text: wrapped between words on a terminal or at COLUMNS, on one line in any other file or pipe."""
        one_line = not self.console.is_terminal and "COLUMNS" not in os.environ
        self.console.print(redacted(text), style=style, highlight=False, markup=False, soft_wrap=one_line)

    def warn(self, line: str) -> None:
        """Print a line that a user should not miss."""
        self.note(line, style="yellow")

    def stopped(self, advice: str) -> None:
        """Print that the command was interrupted and how to continue; a second Ctrl-C then says no more."""
        self.note(f"stopped; {advice}")
        ADVISED.set()

    def wrote(self, file: Path) -> None:
        """Print that a file was written."""
        self.note(f"wrote {file}")


def command(*words: object) -> str:
    """Return a command that can be pasted into a shell."""
    return shlex.join(map(str, words))


def places(options: RunOptions) -> str:
    """Return the options, ready to paste, of a command that reads what a start of a sweep has written."""
    return f"{command('--output', options.output)}{_store(options)}"


def resume_with(name_or_file: str, options: RunOptions) -> str:
    """Return the command, ready to paste, that continues an interrupted start of a sweep; defaults are left out."""
    address = f" {command('--address', options.address)}" if options.address else ""
    return f"{resume_command(name_or_file, options.output)}{_store(options)}{address}"


def _store(options: RunOptions) -> str:
    uri = options.tracking_uri
    if uri is None:
        return ""
    shown = f'"${URI_VARIABLE}"' if has_password(uri) else shlex.quote(uri)
    return f" --tracking-uri {shown}"


def hidden_address(options: RunOptions) -> str:
    """Say that the variable in the options of `places` must hold MLflow's address; "" if that is not needed."""
    uri = options.tracking_uri
    if uri is None or not has_password(uri) or os.environ.get(URI_VARIABLE) == uri:
        return ""
    return f"${URI_VARIABLE} stands for the address of MLflow, because its password is not shown: set it first"
