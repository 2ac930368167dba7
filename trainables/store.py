"""The trained adapters of a sweep, by trial id, for later trials that build on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from settings.common.errors import UserError
from settings.common.files import replacing
from trainables.engine.adapters import PackedAdapters
from trainables.engine.edits.files import NOTE, load_edits, save_edits
from trainables.engine.peft_format import load_peft
from trainables.folder import SweepFolder
from trainables.interface.edits import Edit
from trainables.trial import AdapterConfig, TrialConfig

DESCRIPTION = "trial.json"
MIXED = (
    "decoding_mix is {0:g}: this model's logits are (1 - {0:g}) times the base model's plus {0:g} times those of the"
    " base model with the adapter, at each token; the adapter alone, as PEFT loads it, is another model"
)


@dataclass(frozen=True)
class Saved:
    """An adapter of the store.

    Attributes:
        config: its rank and scale. (An adapter trained above a prior is kept as one of the joint rank.)
        tensors: the factors under PEFT's names.
        tokens, seconds: the cost of its training and of all that it was built on.
        edits: edits of hidden states that hold in evaluation.
    """

    config: AdapterConfig
    tensors: Mapping[str, Tensor]
    tokens: int
    seconds: float
    edits: tuple[Edit, ...] = ()


class AdapterStore:
    """The adapters of a sweep, each a PEFT checkpoint with a `trial.json` that gives its trial and cost.

    Args:
        folder: the sweep's folder.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder

    def find(self, trial: TrialConfig) -> Saved | None:
        """Return the adapter of a trial; None if it is missing."""
        cost = self.cost(trial)
        if cost is None:
            return None
        directory = self._folder.adapter(trial.trial_id)
        return Saved(*load_peft(directory), *cost, load_edits(directory))

    def cost(self, trial: TrialConfig) -> tuple[int, float] | None:
        """Return the tokens and seconds of a trial's adapter, as in `Saved`; None if it is missing."""
        file = self._folder.adapter(trial.trial_id) / DESCRIPTION
        if not file.is_file():
            return None
        description = json.loads(file.read_text(encoding="utf-8"))
        return description["tokens"], description["seconds"]

    def save(
        self, trial: TrialConfig, adapters: PackedAdapters, member: int, base_model: str, tokens: int, seconds: float
    ) -> None:
        """Write a member's adapter as that of `trial`, atomically, with what PEFT's files cannot hold beside it.

        Edits of hidden states get their own file; a mix with the base model is recorded in the description.

        Args:
            base_model: the name or path that the checkpoint names as its base model.
            tokens, seconds: the cost of its training and of all that it was built on.
        """
        edits = adapters.edits.holding(member, evaluating=True)
        description = {"trial": trial.to_json(), "tokens": tokens, "seconds": seconds}
        notes = ([NOTE] if edits else []) + ([MIXED.format(trial.decoding_mix)] if trial.decoding_mix != 1.0 else [])
        description |= {"note": "; ".join(notes)} if notes else {}
        with replacing(self._folder.adapter(trial.trial_id)) as directory:
            adapters.save_member(member, directory, base_model)
            save_edits(directory, edits)
            (directory / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def trained_adapter(store: AdapterStore | None, trial: TrialConfig) -> Saved | None:
    """Return the adapter that a trial only reads out, if another trial has trained it.

    Raise UserError if the trial's method edits an adapter that was trained with edits that it does not hold.
    """
    saved = store.find(trial.training) if store and trial.is_readout else None
    if saved and trial.training.method != trial.method:
        _refuse_edits(trial, trial.training, saved)
    return saved


def prior_adapters(store: AdapterStore | None, trial: TrialConfig) -> list[Saved]:
    """Return the adapters that a trial's method needs first. Raise UserError if one is not in the store."""
    adapters = []
    for prior in trial.priors:
        saved = store.find(prior) if store else None
        if saved is None:
            raise UserError(
                f"method {trial.method.name!r} needs the adapter of trial {prior.trial_id} ({prior.method.name}, seed"
                f" {trial.seed}) first"
            )
        _refuse_edits(trial, prior, saved)
        adapters.append(saved)
    return adapters


def _refuse_edits(trial: TrialConfig, needed: TrialConfig, saved: Saved) -> None:
    """Refuse to build on a trial that is more than its adapter. Raise UserError."""
    if saved.edits:
        raise UserError(
            f"method {trial.method.name!r} cannot build on method {needed.method.name!r}, which edits hidden states"
            " in evaluation, too: an adapter cannot hold them"
        )


def merged_config(config: AdapterConfig, saved: Saved | None) -> AdapterConfig:
    """Return the saved adapter's configuration with the layers of `config`; `config` if nothing is saved."""
    return config if saved is None else replace(saved.config, targets=config.targets, layers=config.layers)
