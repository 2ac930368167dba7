"""Run, watch and read sweeps from a notebook or a script.

    from sweeps import run, status

    sweep = run("quickstart")           # a name of the catalog, a file, or a Sweep; shows the frontier as it grows
    sweep.results().configurations

`status` attaches to a sweep that runs elsewhere: `status("quickstart").watch()`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings.common.errors import UserError

if TYPE_CHECKING:
    from analysis.results import SweepResults
    from sweeps.sweep import Sweep

EVERY_S = 10.0  # between two updates of a running sweep


@dataclass(frozen=True)
class SweepHandle:
    """A sweep in an output folder, running or not. In a notebook's cell it shows its progress and its frontier.

    Attributes:
        name: name of the sweep.
        output: root of all sweeps' folders and of the MLflow store.
        declared: file that declares the sweep, if it has not started yet.
    """

    name: str
    output: Path
    declared: str | None = None

    @property
    def state(self) -> dict[str, Any]:
        """The progress of the sweep, as `selgen sweep status --json` prints it. Raise UserError."""
        from sweeps.results.status import status as read_status

        return read_status(self.declared or self.name, self.output)

    @property
    def is_running(self) -> bool:
        """Whether a process is running the sweep now."""
        return self.state["state"] == "running"

    def results(self, setting: str | None = None) -> SweepResults:
        """Read the results so far, while the sweep runs or afterwards. Raise UserError.

        Args:
            setting: the label of a setting or a part of it; needed if the sweep has several.
        """
        from analysis.results import SweepResults
        from sweeps.results.readers import open_sweep

        return SweepResults(open_sweep(self.name, self.output, None).load(setting))

    def watch(self, every: float = EVERY_S, show: Callable[[SweepHandle], None] | None = None) -> SweepHandle:
        """Show progress and frontier until the sweep has ended, or the cell is interrupted.

        Args:
            every: seconds between two updates.
            show: called with this handle at each update; None draws into the notebook's cell, or prints the lines.
        """
        shown = show or _display()
        shown(self)
        while self.is_running:
            time.sleep(every)
            shown(self)
        return self

    def __str__(self) -> str:
        """Return the lines of `selgen sweep status`."""
        return "\n".join(self.state["lines"])

    def _repr_html_(self) -> str:
        """Show progress, and the frontier of each setting, in a notebook's cell."""
        parts = [f"<pre>{escape(str(self))}</pre>"]
        for label in self._labels():
            try:
                parts.append(self.results(label)._repr_html_())
            except UserError:  # no trial has finished yet
                continue
        return "".join(parts)

    def _labels(self) -> list[str]:
        from sweeps.names import folder_of
        from sweeps.results.from_ledger import LedgerReader, is_readable

        folder = folder_of(self.name, self.output)
        return LedgerReader.open(folder).labels if is_readable(folder) else []


def run(
    sweep: Sweep | str | Path,
    output: str | Path = "runs",
    *,
    tracking_uri: str | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    every: float = EVERY_S,
) -> SweepHandle:
    """Run what is left of a sweep, in this process; the cell shows progress and frontier until it ends.

    Interrupt the cell to stop: packs keep their checkpoints, and another `run` continues.

    Args:
        sweep: a `Sweep`, a name (of the catalog or of a sweep that ran), or a file that declares one.
        output: root of all sweeps' folders and of the MLflow store.
        tracking_uri: URI of MLflow; None is SQLite under `output`.
        address: address of a Ray cluster; None starts a local one.
        retry_failed: train failed trials again.
        every: seconds between two updates of the cell.

    Raises:
        UserError: what `selgen sweep run` reports in one line.
    """
    from rich.console import Console

    from settings.reference import forget_settings
    from sweeps.driver import launch
    from sweeps.driver.run_options import RunOptions
    from sweeps.find import file_of, find
    from sweeps.sweep import Sweep

    forget_settings()  # their files may have changed since an earlier cell
    root = Path(output)
    declared = sweep if isinstance(sweep, Sweep) else find(str(sweep), root)
    file = None if isinstance(sweep, Sweep) else file_of(str(sweep))
    handle = SweepHandle(declared.name, root.resolve())
    with _drawn(handle, every) as drawn:
        console = Console(quiet=drawn)
        summary = launch.run(declared, RunOptions(root, tracking_uri, address, retry_failed), console, file=file)
    for line in (*summary.notes, *((summary.retry_line,) if summary.num_failed else ())):
        Console().print(line, highlight=False)
    return handle


def resume(sweep: Sweep | str | Path, output: str | Path = "runs", **options: Any) -> SweepHandle:
    """Continue a sweep that was interrupted; like `run`, but it must have been started. Raise UserError."""
    from sweeps.ledger_lines import read_raw
    from sweeps.names import folder_of

    read_raw(folder_of(status(sweep, output).name, Path(output)))
    return run(sweep, output, **options)


def status(sweep: Sweep | str | Path, output: str | Path = "runs") -> SweepHandle:
    """Attach to a sweep that runs elsewhere or has ended. Raise UserError if there is no such sweep."""
    from sweeps.find import find, is_file
    from sweeps.names import folder_of
    from sweeps.results.from_ledger import is_readable

    root = Path(output).resolve()
    if isinstance(sweep, str | Path):
        text = str(sweep)
        if not is_file(text) and is_readable(folder_of(text, root)):
            return SweepHandle(text, root)
        return SweepHandle(find(text, root).name, root, text)
    return SweepHandle(sweep.name, root)


def _display() -> Callable[[SweepHandle], None]:
    """Return a function that redraws a sweep in one place of a notebook's cell; outside a notebook it prints."""
    if not _in_notebook():
        from rich.console import Console

        return lambda sweep: Console().print(str(sweep), highlight=False)
    from IPython.display import display

    place = display(display_id=True)
    return place.update


def _in_notebook() -> bool:
    """Return whether a notebook front end draws what a cell displays."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def _drawn(handle: SweepHandle, every: float) -> Iterator[bool]:
    """Draw a sweep into the cell from another thread while the block runs it; yield whether there is a cell."""
    if not _in_notebook():
        yield False
        return
    show, ended = _display(), threading.Event()

    def draw() -> None:
        while not ended.wait(every):
            _draw(show, handle)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        _draw(show, handle)


def _draw(show: Callable[[SweepHandle], None], handle: SweepHandle) -> None:
    """Draw once. An error here is shown in the cell and does not end the sweep."""
    try:
        show(handle)
    except (UserError, OSError) as error:  # e.g. before the first line of the ledger
        show(error)  # type: ignore[arg-type]
