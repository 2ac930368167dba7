"""A worker's job from its description to its end, in slices of about a second. No Ray here."""

from __future__ import annotations

import json
import platform
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError

from settings.base_models import NanoModel
from settings.common.errors import UserError
from settings.common.files import cache_root, is_full, remove, write_json
from settings.reference import setting_of
from settings.setting import Setting
from trainables.bases.load_base import load_base
from trainables.bases.pretraining import Progress
from trainables.checkpoint import CheckpointError
from trainables.engine.base import LoadedBase
from trainables.engine.batches import EncodedSetting
from trainables.engine.frozen.known import cache_bytes
from trainables.engine.frozen.prefix_cache import PackPrefixes, PrefixCache
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.engine.memory import ModelShape, kept_on_gpu, memory_left, training_bytes
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, TorchProcessGroup
from trainables.engine.targets import adapted_share, lowest_block, target_names
from trainables.evaluation.evaluate import Evaluated, evaluate
from trainables.folder import SweepFolder
from trainables.messages import (
    ActivityFile,
    Ended,
    Failed,
    Job,
    OutOfMemory,
    PackEnd,
    PackReport,
    Phase,
    ScoreBase,
    TrainPack,
    UserProblem,
    job_from_config,
    worker_from_config,
)
from trainables.pack import Pack, write_questions
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig, TrialConfig, base_id

SLICE_SECONDS = 1.0
FEW_ADAPTED = 0.5  # share of the parameters between embedding and output head
DEVICE = re.compile(r"\b(CUDA|CUBLAS|cuDNN|CUDNN|NCCL)")  # in errors after which a process may be unusable
ALLOCATION = re.compile(r"can't allocate memory|_ALLOC_FAILED")
OTHER_ROWS = (
    "has other rows or questions here than where the sweep was planned: either files have changed since (start the"
    " sweep again), or a function of yours does not return the same everywhere (e.g. it uses the order of a set)"
)


class WorkerCache:
    """What a worker process keeps between jobs: the base model, which takes seconds to load."""

    def __init__(self) -> None:
        self._key: tuple[str, str, bool] | None = None
        self._base: LoadedBase | None = None

    def base(
        self, setting: Setting, gpus: float, workers: ProcessGroup, progress: Progress | None = None
    ) -> LoadedBase:
        """Return the base model of a setting: bfloat16 on a GPU, float32 on a CPU. Drop any other one first.

        Args:
            gpus: GPUs of this process; a fraction limits its memory to that share of one.
            workers: the process group; if it says so, the layers are distributed over it.
            progress: see `load_base`.
        """
        model = setting.base_model
        on_gpu = gpus > 0 and not isinstance(model, NanoModel)
        device = torch.device("cuda" if on_gpu else "cpu")
        if isinstance(workers, TorchProcessGroup) and on_gpu:
            device = workers.device
        key = (json.dumps(model.to_json(), sort_keys=True), str(device), workers.sharded)
        if self._base is None or key != self._key:
            self._base = None
            if 0 < gpus < 1 and on_gpu:
                torch.cuda.set_per_process_memory_fraction(gpus)
            dtype = torch.bfloat16 if on_gpu else torch.float32
            self._base = load_base(model, dtype=dtype, device=device, progress=progress, sharded=workers.sharded)
            self._key = key
        return self._base

    @staticmethod
    def caution(base: LoadedBase, adapter: AdapterConfig) -> str:
        """Return a caution if adapters on all linear layers sit on less than half of the parameters, or "" if not."""
        if adapter.targets != "all-linear" or adapter.layers != "all":
            return ""
        share = adapted_share(base.model, target_names(base.model, adapter))
        if share >= FEW_ADAPTED:
            return ""
        return f"adapters sit on {share:.0%} of the parameters of {base.source}; its other layers stay frozen"


class PackRun:
    """A running job, done by one worker or by several together.

    Args:
        config: a Tune configuration with worker and job (see `trainables.messages`).
        cache: what the process keeps for its next job.
        workers: the processes that do the job together; each calls `slice` until it is done.
    """

    def __init__(
        self, config: Mapping[str, Any], cache: WorkerCache | None = None, workers: ProcessGroup = SINGLE_PROCESS
    ) -> None:
        self._config, self._worker = config, worker_from_config(config)
        self._cache, self._workers = cache or WorkerCache(), workers
        torch.set_num_threads(self._worker.threads)
        self._folder = SweepFolder(self._worker.folder)
        references = ReferenceCache(cache_root() / "references", workers=workers, progress=self._telling("reference"))
        prefixes = PrefixCache(cache_root() / "prefixes", workers=workers, progress=self._telling("reference"))
        self._references = references if self._worker.cache_references else None
        self._prefixes = prefixes if self._worker.cache_references else None
        self._saved_at = time.monotonic()
        self._job: Job | None = None
        self._pack: Pack | None = None
        self._note, self._cautions = "", list[str]()
        self._activity: ActivityFile | None = None

    def slice(self) -> PackReport:
        """Work for about a second.

        Problems that the user can fix, too little memory, and errors of a method or a setting end the job. Everything
        else is raised: it may not happen in another process. With several workers, each raises whatever happens to it:
        only this keeps the others from waiting for it.
        """
        try:
            self._check_folder()
            if self._job is None:
                self._job = job_from_config(self._config)
                self._activity = self._activity_of(self._job) if self._workers.first else None
            return self._train(self._job) if isinstance(self._job, TrainPack) else self._score_base(self._job)
        except UserError as error:
            return PackReport(end=UserProblem(str(error)))
        except Exception as error:
            end = self._end_of(error)
            if end is not None:
                return PackReport(end=end)
            raise

    def _end_of(self, error: Exception) -> PackEnd | None:
        """Return how an error ends the job; None if only another process, or a restart of all workers, can continue."""
        if _is_out_of_memory(error):
            self._drop()
            return OutOfMemory(" ".join(str(error).split())[:300] or "no memory left")
        if is_full(error):
            return UserProblem(f"{self._folder.path}: no space left on node {platform.node()}")
        is_broken = isinstance(error, OSError | SafetensorError | torch.AcceleratorError) or DEVICE.search(str(error))
        if is_broken or self._workers.count > 1:
            return None
        self._drop()
        return Failed(traceback.format_exc())

    def stop(self) -> None:
        """Release the pack. If it has not ended, it keeps a checkpoint, or an older one if the disk is full."""
        try:
            if self._pack is not None and self._pack.active and self._pack.steps_done:
                self._pack.save(self._folder.checkpoint(self._pack.pack_id))
        except (OSError, SafetensorError) as error:
            if not is_full(error):
                raise
        self._drop()

    def _drop(self) -> None:
        if self._activity is not None:
            self._activity.close()
        if self._pack is not None:
            self._pack.detach()
            self._pack = None

    def _check_folder(self) -> None:
        """Refuse a folder that this node does not share. Raise UserError, on all workers or on none."""
        is_there = self._folder.path.is_dir()
        blind = [node for node in self._workers.gather("" if is_there else platform.node()) if node]
        if blind:
            raise UserError(
                f"node {blind[0]} does not see {self._folder.path}; --output must lie on storage that all nodes share"
            )

    def _train(self, job: TrainPack) -> PackReport:
        if self._pack is None:
            self._pack = self._open(job)
        pack, until = self._pack, time.monotonic() + SLICE_SECONDS
        self._advance(pack)
        while bool(pack.active) and self._workers.broadcast(time.monotonic() < until):
            self._advance(pack)
        if not pack.active:
            end = pack.finish(self._folder, self._tell_scoring)
            for index in pack.paused:
                pack.save_member_state(index, self._folder.paused(pack.trials[index].trial_id))
            return self._report(pack, end)
        if time.monotonic() - self._saved_at > self._worker.checkpoint_seconds:
            pack.save(self._folder.checkpoint(pack.pack_id))
            self._saved_at = time.monotonic()
        return self._report(pack)

    def _advance(self, pack: Pack) -> None:
        if pack.active:
            self._tell("training", pack.steps_done, pack.steps)
            pack.advance(1)
            self._tell("training", pack.steps_done, pack.steps)

    def _activity_of(self, job: Job) -> ActivityFile:
        """Return the file from which the driver reads what is being done for a job."""
        if isinstance(job, TrainPack):
            return ActivityFile(self._folder.activity(job.pack_id), [trial.trial_id for trial in job.trials])
        return ActivityFile(self._folder.activity(base_id(setting_of(job.setting))), ())

    def _tell(self, phase: Phase, done: float = 0, total: float = 0, what: str = "") -> None:
        if self._activity is not None:
            self._activity.tell(phase, done, total, what)

    def _telling(self, phase: Phase) -> Callable[[float, float], None]:
        """Return a function that reports the progress of a phase."""
        return lambda done, total: self._tell(phase, done, total)

    def _tell_scoring(self, evaluation: str, done: float, total: int) -> None:
        self._tell("scoring", done, total, evaluation)

    def _base_of(self, setting: Setting) -> LoadedBase:
        self._tell("loading")
        return self._cache.base(setting, self._worker.gpus, self._workers, self._telling("preparing"))

    def _report(self, pack: Pack, end: Ended | None = None) -> PackReport:
        note, self._note = self._note, ""
        return PackReport(
            progress=pack.progress(),
            steps_done=pack.steps_done,
            num_steps=pack.steps,
            note=note,
            cautions=self._new_cautions(),
            end=end,
        )

    def _new_cautions(self) -> tuple[str, ...]:
        """Return the cautions that are new since the last report."""
        cautions, self._cautions = [*self._cautions, self._prefixes.caution if self._prefixes else ""], []
        if self._prefixes:
            self._prefixes.caution = ""
        return tuple(filter(None, cautions))

    def _open(self, job: TrainPack) -> Pack:
        trials, worker = job.trials, self._worker
        setting = setting_of(trials[0].setting)
        if any(trial.data != setting.fingerprint() for trial in trials):
            raise UserError(f"setting {setting.name!r} {OTHER_ROWS}")
        base = self._base_of(setting)
        self._check_memory(base, setting, trials)
        self._cautions.append(self._cache.caution(base, trials[0].adapter))
        pack = Pack(
            base,
            setting,
            trials,
            store=AdapterStore(self._folder),
            snapshots=job.snapshots,
            pause_after=job.pause_after,
            rows_per_forward=worker.rows_per_forward,
            gradient_checkpointing=worker.gradient_checkpointing,
            references=self._references,
            prefixes=self._prefixes,
            workers=self._workers,
            preparing=self._telling("preparing"),
        )
        lowest = lowest_block(base.model, [trial.adapter for trial in trials])
        if pack.adapters.first_block < lowest:
            self._cautions.append(
                f"passes begin at layer {pack.adapters.first_block}, below the lowest adapted one, {lowest}: a method"
                " edits hidden states there, which slows down all trials in its packs"
            )
        try:
            self._resume(pack)
        except BaseException:
            pack.detach()
            raise
        return pack

    def _check_memory(self, base: LoadedBase, setting: Setting, trials: Sequence[TrialConfig]) -> None:
        """Refuse several members that would not fit, before training. Raise MemoryError.

        A single member is always tried: the need is only an estimate, and the pack cannot be smaller.
        """
        left = memory_left(base.model.device, self._worker.gpus, self._worker.memory)
        if left is None or len(trials) == 1:
            return
        encoded = base.encoded(setting, max(trial.max_length for trial in trials))
        streams = {stream for trial in trials for stream in trial.method.streams}
        lengths = {stream: max(len(row.ids) for row in encoded.rows(stream)) for stream in streams}
        shape = ModelShape.of_config(base.model.config.get_text_config().to_dict())
        if shape is None:
            return
        need = training_bytes(
            shape,
            trials,
            lengths,
            self._worker.rows_per_forward,
            self._worker.gradient_checkpointing,
            base.model.dtype.itemsize,
            self._workers.count,
        )
        if base.model.device.type != "cpu":
            need += kept_on_gpu(*cache_bytes(base, encoded, trials, self._references, self._prefixes))
        if need > left:
            gigabytes = f"{need / 1e9:.1f} GB, but only {left / 1e9:.1f} GB are left"
            raise MemoryError(f"a pack of {len(trials)} would take {gigabytes}")

    def _resume(self, pack: Pack) -> None:
        """Continue from the pack's checkpoint, or else from the states of members that paused in other packs.

        An unreadable file is deleted, and its trials start anew.
        """
        path = self._folder.checkpoint(pack.pack_id)
        try:
            if pack.resume(path):
                self._add_note(f"continued after {pack.steps_done} of {pack.steps} steps")
                return
            for index, trial in enumerate(pack.trials):
                path = self._folder.paused(trial.trial_id)
                pack.load_member_state(index, path)
        except CheckpointError as error:
            self._add_note(f"{error}; its trials start again from step 0")
            if self._workers.first:
                remove(path)

    def _add_note(self, text: str) -> None:
        self._note = "; ".join(filter(None, [self._note, text]))

    def _score_base(self, job: ScoreBase) -> PackReport:
        setting = setting_of(job.setting)
        base = self._base_of(setting)
        encoded = base.encoded(setting, setting.recipe.max_length)
        block = lowest_block(base.model, job.adapters) if job.adapters else 0
        prefixes = PackPrefixes(self._prefixes, base, block)
        (evaluated,) = evaluate(
            base.model,
            encoded,
            prefixes=prefixes,
            replying=job.replying,
            workers=self._workers,
            progress=self._tell_scoring,
        )
        if self._workers.first:
            _keep_base(self._folder, encoded, evaluated, job.replying)
        return PackReport(cautions=self._new_cautions(), end=Ended(base=evaluated.scores))


def _keep_base(folder: SweepFolder, encoded: EncodedSetting, evaluated: Evaluated, replying: bool) -> None:
    """Write what the driver needs to complete and grade the base model's observations, if anything."""
    setting = encoded.setting
    if not replying:
        write_questions(folder, encoded, setting.recipe.max_length)
    if setting.judged or not replying:
        write_json(folder.observations(base_id(setting)), evaluated.observed_json())


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out. Torch has an exception class for this only on GPUs."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(ALLOCATION.search(str(error)))
