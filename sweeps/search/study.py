"""The search as Optuna studies on disk, for people and dashboards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from settings.common.errors import UserError
from sweeps.search.proposer import Directions, Proposer
from trainables.folder import SweepFolder

logger = logging.getLogger(__name__)


class StudyMirror:
    """Keep one Optuna study per arm equal to its proposer. Studies follow the ledger; nothing is read back from them.

    Args:
        folder: the sweep's folder; the file is `study.journal`. The ledger's lock protects it: open the ledger first.
        sweep: its name, the first part of each study's name.
    """

    def __init__(self, folder: Path, sweep: str) -> None:
        self._path = SweepFolder(folder).study
        self._sweep = sweep
        self._studies: dict[str, optuna.Study] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Only this process writes, so a lock here is left by a dead driver; Optuna would wait 30 seconds for it.
            Path(f"{self._path}.lock").unlink(missing_ok=True)
            self._storage = self._load()
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror or error}") from error

    def _load(self) -> JournalStorage:
        try:
            if self._path.exists() and not (b"\n" + self._path.read_bytes()).endswith(b"\n"):
                raise ValueError("torn")
            return JournalStorage(JournalFileBackend(str(self._path)))
        except (ValueError, KeyError, AssertionError):  # torn by a kill; the ledger has everything
            if self._path.exists():
                self._path.replace(self._path.with_suffix(".torn"))
            return JournalStorage(JournalFileBackend(str(self._path)))

    def name(self, proposer: Proposer) -> str:
        """Return the study's name: sweep and arm."""
        return f"{self._sweep}/{proposer.arm.key}"

    def open(self, proposer: Proposer) -> None:
        """Make the arm's study equal to the proposer. Raise UserError if the study has other directions."""
        name, expected = self.name(proposer), proposer.trials()
        study = self._study(name, proposer.directions)
        directions = tuple(direction.name.lower() for direction in study.directions)
        if directions != proposer.directions:
            raise UserError(
                f"{self._path}: study {name!r} has directions {', '.join(directions)}, but the sweep wants"
                f" {', '.join(proposer.directions)}; rename the sweep or choose another output folder (--output)"
            )
        if list(map(_content, study.get_trials(deepcopy=False))) != list(map(_content, expected)):
            optuna.delete_study(study_name=name, storage=self._storage)
            study = self._study(name, proposer.directions)
            study.add_trials(expected)
        self._studies[proposer.arm.key] = study

    def _study(self, name: str, directions: Directions) -> optuna.Study:
        if name in optuna.get_all_study_names(self._storage):
            return optuna.load_study(study_name=name, storage=self._storage)
        return optuna.create_study(study_name=name, storage=self._storage, directions=directions)

    def add(self, proposer: Proposer, number: int) -> None:
        """Add a configuration that was asked for, marked as running."""
        with self._writable_study(proposer) as study:
            study.add_trial(proposer.trial(number))

    def tell(self, proposer: Proposer, number: int) -> None:
        """Record how a configuration ended."""
        summary = proposer.told[number]
        with self._writable_study(proposer) as study:
            trial = study.get_trials(deepcopy=False)[number]
            for key, value in summary.notes.items():
                self._storage.set_trial_user_attr(trial._trial_id, key, value)
            study.tell(number, values=summary.values, state=summary.state)

    @contextmanager
    def _writable_study(self, proposer: Proposer) -> Iterator[optuna.Study]:
        """Yield the arm's study. If a write fails, warn and continue: the next `open` rebuilds the study."""
        try:
            yield self._studies[proposer.arm.key]
        except OSError as error:
            logger.warning("%s: %s; the study is incomplete until the sweep is resumed", self._path, error.strerror)


def _content(trial: FrozenTrial) -> tuple[Any, ...]:
    """Return what equal trials have in common; their times differ."""
    return trial.state, trial.values, trial.params, trial.distributions, trial.user_attrs
