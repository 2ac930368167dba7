"""A pack from its description to its outcomes, in slices of a second. No Ray here.

Base models and settings are kept between packs, so that the next pack in the same process starts in milliseconds
instead of the seconds that loading takes.
"""

from __future__ import annotations

import json
import platform
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from settings import catalog
from settings.base_models import NanoModel
from settings.common.errors import UserError
from settings.common.files import cache_root, is_full, remove, write_json
from settings.reference import SettingRef
from settings.setting import Setting
from trainables.bases.load_base import load_base
from trainables.engine.base import LoadedBase
from trainables.engine.memory import ModelShape, memory_left, training_bytes
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, TorchProcessGroup
from trainables.engine.reference_cache import ReferenceCache
from trainables.evaluation.evaluate import evaluate
from trainables.folder import SweepFolder
from trainables.pack import CheckpointError, Pack
from trainables.store import AdapterStore
from trainables.trial import TrialConfig, base_id

SLICE_SECONDS = 1.0
DEVICE = re.compile(r"\b(CUDA|CUBLAS|cuDNN|CUDNN|NCCL)")  # in errors after which a process may be of no use
ALLOCATION = re.compile(r"can't allocate memory|_ALLOC_FAILED")


class PackRun:
    """One pack on its way, alone or as one of several workers.

    Args:
        config: JSON values:
            pack: `{"kind": "train", "trials": [trial, ...], "snapshots": [step, ...], "pauses": [step or None, ...]}`
                (see `Pack`), or `{"kind": "base", "setting": {"name", "options"}}` to score the untouched base model.
            output: folder for adapters, observations and checkpoints.
            threads: CPU threads of this process.
            memory: main memory that this process may use, in bytes; None if that is not known.
            gpus: GPUs of this process; a share of one limits its memory to that share, and 0 hides them all.
            checkpoint_seconds: time between checkpoints of a running pack.
            rows_per_forward, gradient_checkpointing: see `Pack`; None is all rows.
            cache_references: keep what the base model gives on rows that methods refer to (see `ReferenceCache`).
        workers: who runs the pack together; each calls `slice` until it is done.
    """

    def __init__(self, config: Mapping[str, Any], workers: ProcessGroup = SINGLE_PROCESS) -> None:
        torch.set_num_threads(int(config["threads"]))
        self._spec, self._folder = config["pack"], SweepFolder(Path(config["output"]))
        self._rows_per_forward: int | None = config["rows_per_forward"]
        self._gradient_checkpointing = bool(config["gradient_checkpointing"])
        kept = ReferenceCache(cache_root() / "references", workers=workers)
        self._references = kept if config["cache_references"] else None
        self._checkpoint_seconds, self._saved_at = float(config["checkpoint_seconds"]), time.monotonic()
        self._gpus, self._workers = float(config["gpus"]), workers
        self._memory: float | None = config["memory"]
        self._pack: Pack | None = None
        self._note = ""

    def slice(self) -> dict[str, Any]:
        """Work for about a second.

        Returns:
            `progress` = trial id -> newest values of its curves, `steps` = [done, total], `done`; the last one holds
            `outcomes` (a list of `Outcome` JSON) and `rungs` (the same of trials that pause), or `base` (score ->
            measurement). `note` is a line for the user: how a pack was taken up again. Or `user_error`, one line about
            something that only the user can put right; or `out_of_memory`, one line, and the pack has to be smaller; or
            `failed`, the traceback of what a method or a setting has raised.

        Raises what another process may not run into, and whatever happens to one of several workers, whom only that
        keeps from waiting for each other.
        """
        try:
            self._check_folder()
            return self._train() if self._spec["kind"] == "train" else self._score_base()
        except UserError as error:
            return {"user_error": str(error), "done": True}
        except Exception as error:
            found = self._end_of(error)
            if found:
                return {**found, "done": True}
            raise

    def _end_of(self, error: Exception) -> dict[str, Any] | None:
        """How an error ends the pack; None where only another process, or all workers anew, can go on."""
        if _is_out_of_memory(error):
            self._drop()
            return {"out_of_memory": " ".join(str(error).split())[:300] or "no memory left"}
        if is_full(error):
            return {"user_error": f"{self._folder.path}: no space left on node {platform.node()}"}
        broken = isinstance(error, OSError | SafetensorError | torch.AcceleratorError) or DEVICE.search(str(error))
        if broken or self._workers.count > 1:
            return None
        self._drop()
        return {"failed": traceback.format_exc()}

    def stop(self) -> None:
        """Let go of the pack; one that has not ended keeps a checkpoint, an older one where the disk is full."""
        try:
            if self._pack is not None and self._pack.active and self._pack.steps_done:
                self._pack.save(self._checkpoint(self._pack))
        except (OSError, SafetensorError) as error:
            if not is_full(error):
                raise
        self._drop()

    def _drop(self) -> None:
        if self._pack is not None:
            self._pack.close()
            self._pack = None

    def _check_folder(self) -> None:
        """Refuse to write where nobody reads. Raises UserError, on all workers or on none."""
        blind = [node for node in self._workers.gather("" if self._folder.path.is_dir() else platform.node()) if node]
        if blind:
            raise UserError(
                f"node {blind[0]} does not see {self._folder.path}; --output must lie on storage that all nodes share"
            )

    def _checkpoint(self, pack: Pack) -> Path:
        return self._folder.checkpoint(pack.pack_id)

    def _train(self) -> dict[str, Any]:
        if self._pack is None:
            self._pack = self._open()
        pack, until = self._pack, time.monotonic() + SLICE_SECONDS
        pack.advance(1)
        while bool(pack.active) and self._workers.broadcast(time.monotonic() < until):
            pack.advance(1)
        if not pack.active:
            outcomes = [outcome.to_json() for outcome in pack.finish(self._folder)]
            for index in pack.paused:
                pack.keep_member(index, self._folder.paused(pack.trials[index].trial_id))
            rungs = [outcome.to_json() for outcome in pack.rungs]
            return {**self._report(pack), "outcomes": outcomes, "rungs": rungs, "done": True}
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
        base = _base(setting, self._gpus, self._workers)
        self._check_memory(base, setting, trials)
        pack = Pack(
            base,
            setting,
            trials,
            store=AdapterStore(self._folder),
            snapshots=self._spec["snapshots"],
            pauses=self._spec.get("pauses", ()),
            rows_per_forward=self._rows_per_forward,
            gradient_checkpointing=self._gradient_checkpointing,
            references=self._references,
            workers=self._workers,
        )
        try:
            self._resume(pack)
        except BaseException:
            pack.close()
            raise
        return pack

    def _check_memory(self, base: LoadedBase, setting: Setting, trials: Sequence[TrialConfig]) -> None:
        """Refuse several members that would not fit, before they are trained. Raises MemoryError.

        One member is tried in any case: the need is an estimate, and it cannot be dealt any smaller.
        """
        left = memory_left(base.model.device, self._gpus, self._memory)
        if left is None or len(trials) == 1:
            return
        encoded = base.encoded(setting, max(trial.max_length for trial in trials))
        streams = {stream for trial in trials for stream in trial.method.streams}
        lengths = {stream: max(len(row.ids) for row in encoded.rows(stream)) for stream in streams}
        need = training_bytes(
            ModelShape.of_config(base.model.config.get_text_config().to_dict()),
            trials,
            lengths,
            self._rows_per_forward,
            self._gradient_checkpointing,
            base.model.dtype.itemsize,
            self._workers.count,
        )
        if need > left:
            gigabytes = f"{need / 1e9:.1f} GB, and {left / 1e9:.1f} GB are left"
            raise MemoryError(f"a pack of {len(trials)} would take {gigabytes}")

    def _resume(self, pack: Pack) -> None:
        """Continue from the pack's checkpoint, else with what its members were elsewhere.

        One that cannot be read is discarded, and its trials start anew.
        """
        paths = {self._folder.paused(trial.trial_id): index for index, trial in enumerate(pack.trials)}
        try:
            path = self._checkpoint(pack)
            if pack.resume(path):
                self._note = f"continued after {pack.steps_done} of {pack.steps} steps"
                return
            for path, index in paths.items():
                pack.take_up_member(index, path)
        except CheckpointError as error:
            self._note = f"{error}; its trials start anew"
            if self._workers.first:
                remove(path)

    def _score_base(self) -> dict[str, Any]:
        setting = _setting(SettingRef(**self._spec["setting"]))
        base = _base(setting, self._gpus, self._workers)
        encoded = base.encoded(setting, setting.recipe.max_length)
        (found,) = evaluate(base.model, encoded, workers=self._workers)
        if setting.judged and self._workers.first:
            write_json(self._folder.observations(base_id(setting)), found.observations)
        return {"base": {name: asdict(score) for name, score in found.scores.items()}, "done": True}


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory was too small; torch has a class for that of a GPU only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(ALLOCATION.search(str(error)))


def _setting(ref: SettingRef) -> Setting:
    return _cached_setting(ref.name, json.dumps(dict(ref.options), sort_keys=True))


@lru_cache(maxsize=4)
def _cached_setting(name: str, options: str) -> Setting:
    return catalog.build(name, json.loads(options))


def _base(setting: Setting, gpus: float, workers: ProcessGroup) -> LoadedBase:
    """The setting's base model, loaded once per process: bfloat16 on a GPU, float32 on a CPU."""
    model = setting.base_model
    on_gpu = gpus > 0 and not isinstance(model, NanoModel)
    device = (
        workers.device
        if isinstance(workers, TorchProcessGroup) and on_gpu
        else torch.device("cuda" if on_gpu else "cpu")
    )
    key = (json.dumps(model.to_json(), sort_keys=True), str(device), workers.sharded)
    if key not in _bases:
        _bases.clear()
        if 0 < gpus < 1 and on_gpu:
            torch.cuda.set_per_process_memory_fraction(gpus)
        dtype = torch.bfloat16 if on_gpu else torch.float32
        _bases[key] = load_base(model, dtype=dtype, device=device, sharded=workers.sharded)
    return _bases[key]


_bases: dict[tuple[str, str, bool], LoadedBase] = {}
