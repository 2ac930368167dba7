"""The layout of a sweep's folder. Imports nothing heavy, because commands that only read use it, too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from settings.common.files import PARTIAL


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep. Workers and driver both write there, so it must be on storage that all nodes share.

    Attributes:
        path: path of the folder itself.
    """

    path: Path

    # --- written by workers ---

    @property
    def adapters(self) -> Path:
        """Folder of the finished adapters."""
        return self.path / "adapters"

    def adapter(self, trial_id: str) -> Path:
        """Return the folder of a trial's adapter: a PEFT checkpoint, and a description of the trial."""
        return self.adapters / trial_id

    @property
    def observed(self) -> Path:
        """Folder of models' observations on the questions."""
        return self.path / "observations"

    def observations(self, name: str) -> Path:
        """Return the file of a model's observations; `name` is a trial's id or the `base_id` of a setting."""
        return self.observed / f"{name}.json"

    def asked(self, name: str, max_length: int) -> Path:
        """Return the file of a setting's questions as tokens, for sampling replies elsewhere.

        `name` is the `base_id` of the setting.
        """
        return self.path / "asked" / f"{name}-{max_length}.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the states of packs in training and of paused trials."""
        return self.path / "checkpoints"

    def checkpoint(self, pack_id: str) -> Path:
        """Return the file of a pack's state. The worker writes it; the driver deletes it once the outcomes are kept."""
        return self.checkpoints / f"{pack_id}.safetensors"

    def paused(self, trial_id: str) -> Path:
        """Return the file of the state of a trial waiting at a rung."""
        return self.checkpoints / f"{trial_id}.safetensors"

    @property
    def activities(self) -> Path:
        """Folder of what workers are doing now, a file per pack. The driver deletes it when it ends."""
        return self.path / "activities"

    def activity(self, name: str) -> Path:
        """Return the file of what is being done for a pack; `name` is the pack's id or the `base_id` of a setting."""
        return self.activities / f"{name}.json"

    @property
    def train_storage(self) -> Path:
        """Folder of Ray Train's own state. It is of no use to the next driver, which deletes it."""
        return self.path / f".train{PARTIAL}"

    # --- written by the driver ---

    @property
    def ledger(self) -> Path:
        """File of the ledger."""
        return self.path / "ledger.jsonl"

    @property
    def running(self) -> Path:
        """File of the sweep's progress, for other terminals; deleted when its driver ends."""
        return self.path / "running.json"

    @property
    def lock(self) -> Path:
        """File that the driver holds locked while it writes the ledger."""
        return self.path / "ledger.lock"

    @property
    def torn(self) -> Path:
        """File of ledger lines that a kill cut short."""
        return self.path / "ledger.torn"

    @property
    def study(self) -> Path:
        """File of the Optuna studies, a copy of the ledger's contents."""
        return self.path / "study.journal"

    @property
    def graded(self) -> Path:
        """Folder of a judge's grades of the replies."""
        return self.path / "grades"

    def grades(self, name: str) -> Path:
        """Return the file of a judge's grades of the replies in `observations(name)`."""
        return self.graded / f"{name}.json"

    @property
    def errors(self) -> Path:
        """Folder of tracebacks."""
        return self.path / "errors"

    def error(self, name: str) -> Path:
        """Return the file of the traceback that ended a pack; `name` is the pack's id or the `base_id` of a setting."""
        return self.errors / f"{name}.txt"

    @property
    def tune_storage(self) -> Path:
        """Folder of Ray Tune's own state. It is of no use to the next driver, which deletes it."""
        return self.path / f".tune{PARTIAL}"

    @property
    def questions(self) -> Path:
        """Folder of the grades of every question in every trial, a file per setting."""
        return self.path / "questions"

    @property
    def named(self) -> Path:
        """Folder of models from elsewhere that were scored on the sweep's settings, a file each."""
        return self.path / "named"

    @property
    def judges(self) -> Path:
        """Folder of comparisons of several judges on the same replies, a file per setting."""
        return self.path / "judges"

    @property
    def previews(self) -> Path:
        """Folder of the figures that the sweep's description in MLflow shows."""
        return self.path / "description"

    @property
    def report(self) -> Path:
        """Folder of the report, unless the user names another."""
        return self.path / "report"

    @property
    def published(self) -> Path:
        """File that says which results are up to date; only a sweep with nothing left to run has it."""
        return self.path / "published.json"

    @property
    def description(self) -> Path:
        """File that describes the sweep, as its last start declared it, to commands that only read."""
        return self.path / "sweep.json"

    @property
    def declared(self) -> Path:
        """File that says where the sweep was declared."""
        return self.path / "declared.json"
