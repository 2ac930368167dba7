"""Read a finished or running sweep by name: from its folder if it has one here, or else from MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from analysis.tables import mlflow_runs
from analysis.tables.loaded_sweep import LoadedSweep
from analysis.tables.scores import TrialRecord
from settings.common.errors import UserError, did_you_mean
from sweeps.names import SAFE_NAME, STORE, default_uri, folder_of
from sweeps.results.from_ledger import LedgerReader, is_readable
from sweeps.results.status import unfinished
from trainables.folder import SweepFolder


class SweepReader(Protocol):
    """Reads a sweep's numbers. Every method raises UserError if it cannot read them."""

    @property
    def labels(self) -> Sequence[str]:
        """The settings that trials were started on, sorted."""
        ...

    def load(self, setting: str | None = None, objectives: Sequence[str] | None = None) -> LoadedSweep:
        """Read one setting, given by its label or a part that no other label has."""
        ...

    def load_records(self) -> dict[str, list[TrialRecord]]:
        """Return all trials that ended, by setting."""
        ...


@dataclass(frozen=True)
class MlflowReader:
    """Reads a sweep from MLflow."""

    sweep: str
    uri: str

    @property
    def labels(self) -> Sequence[str]:
        """The settings that trials were started on, sorted."""
        return mlflow_runs.settings_of(self.sweep, self.uri)

    def load(self, setting: str | None = None, objectives: Sequence[str] | None = None) -> LoadedSweep:
        """Read one setting."""
        return mlflow_runs.load(self.sweep, self.uri, setting, objectives)

    def load_records(self) -> dict[str, list[TrialRecord]]:
        """Return all trials that ended, by setting."""
        return mlflow_runs.load_records(self.sweep, self.uri)


def unfinished_note(reader: SweepReader, count: int) -> str:
    """Say that a sweep is not finished; "" if it is.

    Args:
        count: of trials that were begun and have not ended, which is all that MLflow knows.
    """
    if isinstance(reader, LedgerReader):
        return unfinished(reader.folder)
    return f"{count} trial{'s have' if count > 1 else ' has'} not ended" if count else ""


def open_sweep(sweep: str, output: Path, tracking_uri: str | None) -> SweepReader:
    """Return the reader of a sweep. Raise UserError.

    Args:
        sweep: its name.
        output: root of all sweeps' folders, and of the MLflow store unless another is given.
        tracking_uri: URI of MLflow; None prefers the ledger under `output`, which is quicker and has the same numbers.
    """
    if not SAFE_NAME.fullmatch(sweep):
        raise UserError(f"{sweep!r} is not a sweep's name; give the name, not the file")
    folder = folder_of(sweep, output)
    if tracking_uri is None and is_readable(folder):
        return LedgerReader.open(folder)
    if tracking_uri is None and not (SweepFolder(folder).ledger.is_file() or (output / STORE).is_file()):
        raise UserError(_nowhere(sweep, output))
    return MlflowReader(sweep, tracking_uri or default_uri(output))


def _nowhere(sweep: str, output: Path) -> str:
    """Say that a sweep is not under the output root, and where it may be."""
    there = [folder.name for folder in sorted(output.glob("*")) if is_readable(folder)]
    listed = f"{did_you_mean(sweep, there)}; there: {', '.join(there)}" if there else ""
    where = "run this where you ran the sweep, or give --output DIR (or --tracking-uri)"
    return f"no sweep {sweep!r} under {output.resolve()}{listed}; {where}"
