"""A pack's life: build, step, evaluate, checkpoint, resume, finish. No Ray here.

A pack trains its trials side by side in one copy of the base model. Nothing that happens to one member reaches another:
rows, learning rates, clipping and random numbers are its own, and a member that diverges is marked invalid and left out
of the next steps. What a member is built on (a prior, or a training that it only edits) comes from an `AdapterStore`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from settings.common.errors import UserError
from settings.common.files import replacing_file, write_json
from settings.setting import Measurement, Setting, Status, Stream
from trainables.engine.adapters import PackedAdapters
from trainables.engine.base import LoadedBase, tuning_directions
from trainables.engine.forward import check_head
from trainables.engine.optimizer import PackedAdamW
from trainables.engine.peft_format import from_peft
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup, full_tensor
from trainables.engine.reference_cache import CachedOutputs, ReferenceCache
from trainables.engine.step import train_step
from trainables.engine.stream import MemberStep
from trainables.evaluation.evaluate import Evaluated, evaluate
from trainables.folder import SweepFolder
from trainables.method import Method
from trainables.outcome import Outcome
from trainables.projections import Direction, Factors, LowRankDirection
from trainables.store import AdapterStore, Saved
from trainables.trial import AdapterConfig, TrialConfig, pack_id

CURVE_POINTS = 20
ASKED_STEPS = 2  # in which the base model itself is the reference: a term that is not connected is then exactly 0
EXPLODED = 3.0  # a task loss of so many times that of guessing among all tokens is no training any more


class CheckpointError(Exception):
    """A checkpoint is damaged or belongs to other trials; its text says which and why, in one line."""


@dataclass
class MemberState:
    """What is known of a member besides its weights."""

    status: Status = "finished"
    reason: str | None = None
    tokens: int = 0
    tokens_cut: int = 0
    seconds: float = 0.0
    inherited_tokens: int = 0
    inherited_seconds: float = 0.0
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def extend(self, step: int, values: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        """Add a point to each curve: the mean of `values`, which are (step, value) pairs."""
        for name, some in values.items():
            self.curves.setdefault(name, []).append((step, sum(value for _, value in some) / len(some)))

    def inherit(self, saved: Saved) -> None:
        """Count what another adapter took."""
        self.inherited_tokens += saved.tokens
        self.inherited_seconds += saved.seconds


class Pack:
    """Trials side by side in one copy of the base model. A solo run is a pack of one.

    Args:
        base: the frozen model; its linear layers are replaced until `close`.
        setting: the setting of all members.
        trials: the members. They share the base model, the adapter's targets and nothing else.
        dtype: of the adapters.
        store: where priors and finished trainings are found, and where adapters are kept. Without one, a trial that
            only edits another's training does that training itself, and a trial with a prior cannot run.
        snapshots: updates after which the adapters in training are kept in the store, for trials that stop there.
        pauses: updates after which members stop for the time being, one per member; None is never. `finish` then says
            what they have come to, and `keep_member` and `take_up_member` bring them into a later pack.
        rows_per_forward, gradient_checkpointing: see `train_step`.
        references: where the base model's outputs on rows are kept; None asks the base model at every step.
        workers: who trains the pack together. Each builds the same pack; the first one writes its files.

    Raises:
        UserError: a row does not fit, an adapter target does not exist, the architecture is not supported, a prior is
            not in the store.
    """

    def __init__(
        self,
        base: LoadedBase,
        setting: Setting,
        trials: Sequence[TrialConfig],
        dtype: torch.dtype = torch.float32,
        *,
        store: AdapterStore | None = None,
        snapshots: Sequence[int] = (),
        pauses: Sequence[int | None] = (),
        rows_per_forward: int | None = None,
        gradient_checkpointing: bool = False,
        references: ReferenceCache | None = None,
        workers: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.base, self.setting, self.trials, self._workers = base, setting, tuple(trials), workers
        self._store, self._snapshots, self._references = store, frozenset(snapshots), references
        self._rows_per_forward, self._gradient_checkpointing = rows_per_forward, gradient_checkpointing
        self._known_outputs: dict[tuple[object, ...], CachedOutputs | None] = {}
        check_head(base.model)
        self._encoded = {length: base.encoded(setting, length) for length in {trial.max_length for trial in trials}}
        self.records = [MemberState() for _ in trials]
        self._exploded = EXPLODED * math.log(base.model.config.get_text_config().vocab_size)
        trained = {index: saved for index, trial in enumerate(trials) if (saved := self._trained(trial))}
        priors = {index: saved for index, trial in enumerate(trials) if (saved := self._prior(trial))}
        configs = [_merged(trial.adapter, trained.get(index)) for index, trial in enumerate(trials)]
        self.adapters = PackedAdapters(base.model, configs, [trial.seed for trial in trials], dtype)
        try:
            self._fill(trained, priors)
        except BaseException:  # the model is others' next
            self.adapters.detach()
            raise
        self._updates = [0 if index in trained else trial.updates for index, trial in enumerate(trials)]
        pauses = pauses or [None] * len(trials)
        self._ends = [
            min(updates, updates if at is None else at) for updates, at in zip(self._updates, pauses, strict=True)
        ]
        self.rungs: list[Outcome] = []
        self._pending: list[dict[str, list[tuple[int, Tensor]]]] = [{} for _ in trials]

    def _fill(self, trained: Mapping[int, Saved], priors: Mapping[int, Saved]) -> None:
        """Give the members what others have trained, and all of them an optimizer."""
        trials = self.trials
        for index, saved in trained.items():
            self.adapters.load_member(index, saved.tensors)
            self.records[index].inherit(saved)
        self._prior_factors: dict[int, Sequence[Factors]] = {}
        for index, saved in priors.items():
            config = _merged(trials[index].adapter, saved)
            prior = from_peft(self.adapters.layers, saved.tensors, config)
            self._prior_factors[index] = [own.to(self.adapters.theta_KP) for own in prior]
            self.records[index].inherit(saved)
        self.adapters.attach_priors(
            {
                index: prior
                for index, prior in self._prior_factors.items()
                if trials[index].method.prior_is_active and index not in trained
            }
        )
        self.optimizer = PackedAdamW(
            self.adapters.theta_KP, [trial.optimizer for trial in trials], [trial.steps for trial in trials]
        )

    def _trained(self, trial: TrialConfig) -> Saved | None:
        """The adapter that a trial only reads out, if another trial has trained it."""
        return self._store.find(trial.training) if self._store and trial.is_readout else None

    def _prior(self, trial: TrialConfig) -> Saved | None:
        if trial.prior is None:
            return None
        saved = self._store.find(trial.prior) if self._store else None
        if saved is None:
            raise UserError(
                f"method {trial.method.name!r} needs the adapter of trial {trial.prior.trial_id}"
                f" ({trial.prior.method.name}, seed {trial.seed}) first"
            )
        return saved

    @property
    def pack_id(self) -> str:
        """Content id of the members, in order."""
        return pack_id(self.trials)

    @property
    def steps_done(self) -> int:
        """Updates of the member that has most."""
        return max(self.optimizer.updates)

    @property
    def steps(self) -> int:
        """Updates of the longest member, up to its end or pause."""
        return max(self._ends)

    @property
    def active(self) -> list[int]:
        """Members that still train."""
        return [
            index
            for index in range(len(self.trials))
            if self.records[index].status == "finished" and self.optimizer.updates[index] < self._ends[index]
        ]

    @property
    def paused(self) -> list[int]:
        """Members that have come to their pause and not to their end."""
        return [
            index
            for index, record in enumerate(self.records)
            if record.status == "finished" and self._ends[index] <= self.optimizer.updates[index] < self._updates[index]
        ]

    def advance(self, num_steps: int) -> None:
        """Train up to `num_steps` more steps."""
        for _ in range(num_steps):
            members = {index: self.member_step(index) for index in self.active}
            if not members:
                break
            began = time.perf_counter()
            pad_id = int(self.base.tokenizer.pad_token_id)
            measured = train_step(
                self.base.model,
                self.adapters,
                self.optimizer,
                members,
                pad_id,
                self._rows_per_forward,
                self._gradient_checkpointing,
                self._workers,
            )
            self._count(members, time.perf_counter() - began)
            for index, terms in measured.items():
                self._measured(index, terms)
                self._snapshot(index)

    def _measured(self, index: int, terms: dict[str, Tensor]) -> None:
        """Keep a step's terms on the device; every few steps read them, and see whether the member is still sound."""
        pending, done = self._pending[index], self.optimizer.updates[index]
        for name, value in terms.items():
            pending.setdefault(name, []).append((done, value))
        if done < self._updates[index] and len(pending["loss"]) < max(1, self.trials[index].steps // CURVE_POINTS):
            return
        values = {
            name: list(zip([step for step, _ in some], torch.stack([v for _, v in some]).tolist(), strict=True))
            for name, some in pending.items()
        }
        values = self._workers.broadcast(values)  # a last bit that differs must not let them differ on who is sound
        record = self.records[index]
        record.extend(done, values)
        record.reason = self._problem(index, values)
        record.status = "invalid" if record.reason else "finished"
        pending.clear()

    def _snapshot(self, index: int) -> None:
        """Keep the adapter for trials that stop at this update of the same training."""
        trial, done = self.trials[index], self.optimizer.updates[index]
        if self._store is None or done not in self._snapshots or done >= trial.updates:
            return
        if trial.training == trial and self.records[index].status == "finished":
            self._keep(self._store, index, replace(trial, checkpoint_step=done))

    def _keep(self, store: AdapterStore, index: int, trial: TrialConfig) -> None:
        if not self._workers.first:
            return
        record = self.records[index]
        tokens, seconds = record.tokens + record.inherited_tokens, record.seconds + record.inherited_seconds
        store.save(trial, self.adapters, index, self.base.source, tokens, seconds)

    def member_step(self, index: int) -> MemberStep:
        """Return what a member does at its next step."""
        trial, step = self.trials[index], self.optimizer.updates[index]
        rows = self._encoded[trial.max_length].batch(trial.method, trial.sizes, trial.seed, step)
        known = self._known(trial) if step >= ASKED_STEPS else {}
        return MemberStep(trial.method, rows, trial.max_length, known, checked=step == 1)

    def _known(self, trial: TrialConfig) -> dict[Stream, CachedOutputs]:
        """What the base model is known to give on the rows that a trial's method refers to."""
        found = {stream: self._outputs(trial, stream) for stream in trial.method.reference}
        return {stream: outputs for stream, outputs in found.items() if outputs is not None}

    def _outputs(self, trial: TrialConfig, stream: Stream) -> CachedOutputs | None:
        method, encoded = trial.method, self._encoded[trial.max_length]
        positions, deep = method.positions(stream), stream in method.layers
        key = (trial.max_length, stream, method.definition, positions, deep)
        if self._references is not None and key not in self._known_outputs:
            rows = encoded.rows(stream, method.definition)
            self._known_outputs[key] = self._references.on(self.base, rows, positions, with_layers=deep)
        return self._known_outputs.get(key)

    def _count(self, members: Mapping[int, MemberStep], seconds: float) -> None:
        for index, member in members.items():
            record = self.records[index]
            record.seconds += seconds / len(members)
            for stream, rows in member.rows.items():
                passes = 2 if stream in member.method.reference else 1
                record.tokens += passes * sum(len(row.ids) for row in rows)
                record.tokens_cut += sum(row.num_cut for row in rows)

    def _problem(self, index: int, values: Mapping[str, Sequence[tuple[int, float]]]) -> str | None:
        """Why a member's numbers cannot be trusted, or None."""
        for name, some in values.items():
            for step, value in some:
                if not math.isfinite(value):
                    return f"{name} is {value} at step {step}"
        for step, value in values.get("task", ()):
            if value > self._exploded:
                guessing = self._exploded / EXPLODED
                return f"the task loss is {value:.3g} at step {step}; guessing tokens would give {guessing:.3g}"
        for name in self.trials[index].method.must_stay_active:
            if any(value == 0.0 for step, value in values.get(name, ()) if step > 1):
                return (
                    f"the term {name!r} is exactly 0 after the first update, or pulls at nothing: it is not connected"
                )
        return None

    def finalize(self) -> None:
        """Let methods edit the trained adapters of their members, and scale those that want it."""
        for index, trial in enumerate(self.trials):
            if self.records[index].status != "finished" or index in self.paused:
                continue
            if trial.method.trained_as != trial.method:
                self._edit(index, trial.method)
            if trial.adapter_scale != 1.0:
                self.adapters.scale_member(index, trial.adapter_scale)

    def _edit(self, index: int, method: Method) -> None:
        """Let a method edit its member's adapter; invalid when what it projects on is nothing."""
        adapter = self.adapters.member_factors(index)
        directions: list[Direction] = [LowRankDirection(own) for own in self._prior_factors.get(index, ())]
        if method.needs_pretrained:
            layers = {name: full_tensor(layer.base.weight) for name, layer in self.adapters.layers.items()}
            directions = list(tuning_directions(self.setting.base_model, layers))
        pairs = zip(adapter, directions, strict=False)
        if directions and not any(direction.project(own.B_OR).any() for own, direction in pairs):
            record = self.records[index]
            record.status, record.reason = "invalid", "the projection leaves nothing of the adapter in any layer"
            return
        self.adapters.set_member_factors(index, method.finalize(adapter, directions))

    def evaluate(self) -> dict[int, Evaluated]:
        """Evaluate the members whose numbers can be trusted: index -> scores and observations."""
        sound = [index for index, record in enumerate(self.records) if record.status == "finished"]
        found: dict[int, Evaluated] = {}
        began = time.perf_counter()
        for length, encoded in self._encoded.items():
            some = [index for index in sound if self.trials[index].max_length == length]
            seeds = [self.trials[index].seed for index in some]
            if some:
                results = evaluate(
                    self.base.model,
                    encoded,
                    adapters=self.adapters,
                    members=some,
                    seeds=seeds,
                    workers=self._workers,
                )
                found.update(zip(some, results, strict=True))
        for index in sound:
            self.records[index].seconds += (time.perf_counter() - began) / len(sound)
        return found

    def progress(self) -> dict[str, dict[str, float]]:
        """The newest point of each member's curves, by trial id."""
        newest = {}
        for trial, record in zip(self.trials, self.records, strict=True):
            if record.curves:
                newest[trial.trial_id] = {
                    "step": record.curves["loss"][-1][0],
                    **{name: curve[-1][1] for name, curve in record.curves.items()},
                }
        return newest

    def finish(self, folder: SweepFolder) -> list[Outcome]:
        """Finalize, evaluate, write each sound member's adapter and observations under `folder`, and say how all ended.

        Files: `adapters/<trial id>/` (see `AdapterStore`) and `observations/<trial id>.json`. Of members that pause,
        `rungs` then has the outcomes so far, as those of trials of fewer updates, and nothing is written.
        """
        self.finalize()
        evaluated, paused = self.evaluate(), self.paused
        for index, result in evaluated.items():
            if index not in paused:
                self._keep(AdapterStore(folder), index, self.trials[index])
                if self._workers.first:
                    write_json(folder.observations(self.trials[index].trial_id), result.observations)
        for index in paused:
            trial = replace(self.trials[index], checkpoint_step=self.optimizer.updates[index])
            self.rungs.append(replace(self._outcome(index, evaluated[index]), trial=trial, adapter=None))
        ended = (index for index in range(len(self.trials)) if index not in paused)
        return [self._outcome(index, evaluated.get(index)) for index in ended]

    def _outcome(self, index: int, evaluated: Evaluated | None) -> Outcome:
        trial, record = self.trials[index], self.records[index]
        scores: dict[str, Measurement] = evaluated.scores if evaluated else {}
        return Outcome(
            trial=trial, scores=scores, adapter=trial.trial_id if evaluated else None, **_without_none(asdict(record))
        )

    def save(self, path: Path) -> None:
        """Write everything that `resume` needs: one file, which takes the place of an older one in one move."""
        if not self._workers.first:
            return
        tensors = {"theta": self.adapters.theta_KP, **self.optimizer.state()}
        self._write(path, self.pack_id, tensors, range(len(self.trials)))

    def keep_member(self, index: int, path: Path) -> None:
        """Write what a later pack needs to go on with one member, whatever its other members."""
        if not self._workers.first:
            return
        state = {"theta": self.adapters.theta_KP, **self.optimizer.state()}
        tensors = {
            name: value[index : index + 1] if name == "updates" else self.adapters.cut(index, value[index])
            for name, value in state.items()
        }
        self._write(path, self.trials[index].trial_id, tensors, [index])

    def _write(self, path: Path, name: str, tensors: Mapping[str, Tensor], members: Sequence[int]) -> None:
        """A checkpoint of members: tensors, terms that wait to be recorded, and records."""
        tensors = dict(tensors)
        for number, index in enumerate(members):
            for term, some in self._pending[index].items():
                tensors[f"pending.{number}.{term}"] = torch.stack([value for _, value in some])
                tensors[f"pending_steps.{number}.{term}"] = torch.tensor([step for step, _ in some])
        records = json.dumps([asdict(self.records[index]) for index in members])
        with replacing_file(path) as temporary:
            contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, temporary, {"pack": name, "records": records})

    def resume(self, path: Path) -> bool:
        """Continue from a checkpoint of the same members; False when there is none. Every later bit is the same.

        Raises CheckpointError; the pack is then as it was.
        """
        if not path.is_file():
            return False
        state, records = self._read(path, self.pack_id, len(self.trials))
        own = {"theta": self.adapters.theta_KP, **self.optimizer.state()}
        if any(name not in state or state[name].shape != tensor.shape for name, tensor in own.items()):
            raise CheckpointError(f"checkpoint {path.name} cannot be read: its tensors have other shapes")
        self.adapters.theta_KP.copy_(state["theta"])
        self.optimizer.load_state(state)
        self.records = records
        self._take_pending(state, range(len(self.trials)))
        return True

    def take_up_member(self, index: int, path: Path) -> bool:
        """Go on with a member that paused in another pack (`keep_member`); False when nothing is there.

        Raises CheckpointError; the pack is then as it was.
        """
        if not path.is_file():
            return False
        state, records = self._read(path, self.trials[index].trial_id, 1)
        try:
            rows = {name: self.adapters.pad(index, state[name]) for name in ("theta", "mean", "square")}
            done = int(state["updates"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"checkpoint {path.name} cannot be read: {error}") from error
        self.adapters.theta_KP[index] = rows["theta"]
        self.optimizer.mean_KP[index], self.optimizer.square_KP[index] = rows["mean"], rows["square"]
        self.optimizer.updates[index] = done
        self.records[index] = records[0]
        self._take_pending(state, [index])
        return True

    def _take_pending(self, state: Mapping[str, Tensor], members: Sequence[int]) -> None:
        for key, values in state.items():
            kind, _, rest = key.partition(".")
            if kind == "pending":
                number, _, name = rest.partition(".")
                steps = state[f"pending_steps.{rest}"].tolist()
                self._pending[members[int(number)]][name] = list(zip(steps, values, strict=True))

    def _read(self, path: Path, name: str, num_members: int) -> tuple[dict[str, Tensor], list[MemberState]]:
        """Tensors and records of a checkpoint."""
        try:
            with safe_open(path, framework="pt", device=str(self.base.model.device)) as file:
                about = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            if about["pack"] != name:
                raise ValueError("it is of another pack")
            records = [MemberState(**saved) for saved in json.loads(about["records"])]
            if len(records) != num_members:
                raise ValueError("it is of more or fewer members")
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"checkpoint {path.name} cannot be read: {error}") from error
        for record in records:
            record.curves = {
                name: [(int(step), value) for step, value in curve] for name, curve in record.curves.items()
            }
        return state, records

    def close(self) -> None:
        """Give the base model its own layers back."""
        self.adapters.detach()


def _merged(config: AdapterConfig, saved: Saved | None) -> AdapterConfig:
    """The configuration of a saved adapter with the targets of this one."""
    return config if saved is None else replace(saved.config, targets=config.targets)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
