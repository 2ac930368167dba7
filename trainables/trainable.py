"""Ray glue: a long-lived Tune actor that trains one pack after another. Everything it does is `Pack`.

The actor keeps base models and settings between packs, so that with `reuse_actors=True` a new pack starts in
milliseconds instead of the seconds that imports and loading take.
"""

from __future__ import annotations

import json
import platform
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from ray import tune

from settings import catalog
from settings.setting import NanoModel, Setting, UserError
from trainables.base_models import LoadedBase, load_base
from trainables.batches import EncodedSetting
from trainables.evaluate import evaluate
from trainables.files import remove, write_json
from trainables.pack import CheckpointError, Pack
from trainables.store import AdapterStore
from trainables.trial import SettingRef, TrialConfig, base_id, checkpoint_of

SLICE_SECONDS = 1.0


class PackTrainable(tune.Trainable):
    """Trains the pack that its configuration holds, slice by slice.

    Configuration (all JSON values):
        pack: `{"kind": "train", "trials": [trial, ...], "snapshots": [step, ...]}` (see `Pack`), or
            `{"kind": "base", "setting": {"name", "options"}}` to score the untouched base model.
        output: folder for adapters, observations and checkpoints.
        threads: CPU threads of the actor.
        checkpoint_seconds: time between checkpoints of a running pack.
        rows_per_forward, gradient_checkpointing: see `Pack`; None is all rows.

    Results (one per slice): `progress` = trial id -> newest values of its curves, `steps` = [done, total]; the last one
    holds `outcomes` (a list of `Outcome` JSON) or `base` (score -> measurement), or `user_error`, one line about
    something that only the user can put right. `note` is a line for the user to see: how a pack was taken up again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        warnings.filterwarnings("ignore", category=FutureWarning)
        self._pack: Pack | None = None
        self._note = ""
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._release()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        try:
            self._check_folder()
            return self._train() if self._spec["kind"] == "train" else self._score_base()
        except UserError as error:
            return {"user_error": str(error), "done": True}

    def cleanup(self) -> None:
        self._release()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: packs keep their checkpoints by content id under `output`, where any later driver finds them."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see `save_checkpoint`."""

    def _begin(self, config: Mapping[str, Any]) -> None:
        torch.set_num_threads(int(config["threads"]))
        self._spec, self._folder = config["pack"], Path(config["output"])
        self._rows_per_forward: int | None = config["rows_per_forward"]
        self._gradient_checkpointing = bool(config["gradient_checkpointing"])
        self._checkpoint_seconds, self._saved_at = float(config["checkpoint_seconds"]), time.monotonic()

    def _check_folder(self) -> None:
        """Refuse to write where nobody reads. Raises UserError."""
        if not self._folder.is_dir():
            raise UserError(
                f"node {platform.node()} does not see {self._folder}; --output must lie on storage that all nodes share"
            )

    def _release(self) -> None:
        """Let go of the pack; one that was stopped before its end keeps a checkpoint."""
        if self._pack is not None:
            if self._pack.active and self._pack.steps_done:
                self._pack.save(self._checkpoint(self._pack))
            self._pack.close()
            self._pack = None

    def _checkpoint(self, pack: Pack) -> Path:
        return checkpoint_of(self._folder, pack.trials)

    def _train(self) -> dict[str, Any]:
        if self._pack is None:
            self._pack = self._open()
        pack, until = self._pack, time.monotonic() + SLICE_SECONDS
        pack.advance(1)
        while pack.active and time.monotonic() < until:
            pack.advance(1)
        if not pack.active:
            outcomes = [outcome.to_json() for outcome in pack.finish(self._folder)]
            return {**self._report(pack), "outcomes": outcomes, "done": True}
        if time.monotonic() - self._saved_at > self._checkpoint_seconds:
            pack.save(self._checkpoint(pack))
            self._saved_at = time.monotonic()
        return {**self._report(pack), "done": False}

    def _report(self, pack: Pack) -> dict[str, Any]:
        note, self._note = self._note, ""
        report = {"progress": pack.progress(), "steps": [pack.steps_done, pack.steps]}
        return report | ({"note": note} if note else {})

    def _open(self) -> Pack:
        trials = [TrialConfig.from_json(data) for data in self._spec["trials"]]
        setting = _setting(trials[0].setting)
        stale = [trial for trial in trials if trial.data != setting.fingerprint()]
        if stale:
            raise UserError(f"the data of setting {setting.name!r} changed after the sweep was planned; start it anew")
        pack = Pack(
            _base(setting),
            setting,
            trials,
            store=AdapterStore(self._folder),
            snapshots=self._spec["snapshots"],
            rows_per_forward=self._rows_per_forward,
            gradient_checkpointing=self._gradient_checkpointing,
        )
        self._resume(pack)
        return pack

    def _resume(self, pack: Pack) -> None:
        """Continue from the pack's checkpoint; one that cannot be read is discarded, and the pack starts anew."""
        try:
            if pack.resume(self._checkpoint(pack)):
                self._note = f"continued after {pack.steps_done} of {pack.steps} steps"
        except CheckpointError as error:
            remove(self._checkpoint(pack))
            self._note = f"{error}; its trials start anew"

    def _score_base(self) -> dict[str, Any]:
        setting = _setting(SettingRef(**self._spec["setting"]))
        base = _base(setting)
        encoded = EncodedSetting(setting, base.tokenizer, setting.recipe.max_length)
        (found,) = evaluate(base.model, encoded)
        if setting.judged:
            write_json(self._folder / "observations" / f"{base_id(setting)}.json", found.observations)
        return {"base": {name: asdict(score) for name, score in found.scores.items()}, "done": True}


def _setting(ref: SettingRef) -> Setting:
    return _cached_setting(ref.name, json.dumps(dict(ref.options), sort_keys=True))


@lru_cache(maxsize=4)
def _cached_setting(name: str, options: str) -> Setting:
    return catalog.build(name, json.loads(options))


def _base(setting: Setting) -> LoadedBase:
    """The setting's base model, loaded once per process: bfloat16 on a GPU, float32 on a CPU."""
    model = setting.base_model
    device = "cuda" if torch.cuda.is_available() and not isinstance(model, NanoModel) else "cpu"
    key = (json.dumps(model.to_json(), sort_keys=True), device)
    if key not in _bases:
        _bases.clear()
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        _bases[key] = load_base(model, dtype=dtype, device=device)
    return _bases[key]


_bases: dict[tuple[str, str], LoadedBase] = {}
