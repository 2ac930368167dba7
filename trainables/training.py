"""The training of a pack: build, step, checkpoint, resume. No Ray here.

A pack trains its trials side by side in one copy of the base model. Nothing that happens to one member affects another:
each has its own rows, learning rates, clipping and random numbers, and a member that diverges is marked invalid and
left out of later steps. What a member is built on (a prior, or a training that it only edits) comes from an
`AdapterStore`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from settings.setting import Setting
from trainables import checkpoint
from trainables.engine.adapters import PackedAdapters
from trainables.engine.base import LoadedBase
from trainables.engine.forward import check_architectures
from trainables.engine.frozen.known import KnownStates
from trainables.engine.frozen.prefix_cache import PackPrefixes, PrefixCache
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.engine.optimizer import PackedAdamW
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.engine.step import train_step
from trainables.engine.stream import MemberStep
from trainables.member import MemberState
from trainables.outcome import Cost
from trainables.preparing.built_on import BuiltOn
from trainables.preparing.passes import prepare_all
from trainables.preparing.rewritten import Progress, TrainingRows
from trainables.projections import Direction
from trainables.store import AdapterStore
from trainables.trial import TrialConfig, pack_id

CURVE_POINTS = 20
ASKED_STEPS = 2  # first steps, with the base model itself as reference: a disconnected term is then exactly 0


class PackTraining:
    """Trials that train side by side in one copy of the base model; `Pack` also evaluates them.

    Args:
        base: the frozen model; its linear layers are replaced until `detach`.
        setting: the setting of all members.
        trials: the members. They share only the base model and the adapter's targets.
        dtype: the adapters' type.
        store: source of priors and finished trainings, and destination of adapters. Without one, a trial that only
            edits another's training does that training itself, and a trial with a prior cannot run.
        snapshots: updates after which the adapters in training are kept in the store, for trials that stop there.
        pause_after: updates after which members pause, one per member; None means never. `finish` then returns their
            interim results, and `save_member_state` and `load_member_state` move them into a later pack.
        rows_per_forward, gradient_checkpointing: see `train_step`.
        references: cache of the base model's outputs on rows; None asks the base model at every step.
        prefixes: cache of the states below the lowest adapted layer; None computes them at every step.
        workers: the processes that train the pack together. Each builds the same pack; the first one writes its files.
        preparing: called with (rows done, all rows) while the base model replies to rows that a method rewrites.

    Raises:
        UserError: a row does not fit, an adapter target does not exist, the architecture is not supported, or a prior
            is not in the store.
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
        pause_after: Sequence[int | None] = (),
        rows_per_forward: int | None = None,
        gradient_checkpointing: bool = False,
        references: ReferenceCache | None = None,
        prefixes: PrefixCache | None = None,
        workers: ProcessGroup = SINGLE_PROCESS,
        preparing: Progress = lambda done, total: None,
    ) -> None:
        self.base, self.setting, self.trials, self._workers = base, setting, tuple(trials), workers
        self._store, self._snapshots = store, frozenset(snapshots)
        self._rows_per_forward, self._gradient_checkpointing = rows_per_forward, gradient_checkpointing
        check_architectures(base.model, [trial.adapter for trial in trials])
        self.encoded = {length: base.encoded(setting, length) for length in {trial.max_length for trial in trials}}
        self._guessing = math.log(base.model.config.get_text_config().vocab_size)  # nats
        self._built_on = BuiltOn(store, trials)
        rows = TrainingRows(base, self.encoded, references, workers, preparing)
        inputs = prepare_all(base, rows, trials, self._built_on, dtype, references, workers)
        self.prepared = [each.prepared for each in inputs]
        self.rows_read = [each.rows_read for each in inputs]
        self.members = [
            MemberState(cost=self._built_on.cost(index) + Cost(inherited_tokens=each.tokens))
            for index, each in enumerate(inputs)
        ]
        self.adapters = PackedAdapters(
            base.model, self._built_on.configs, [trial.adapter_seed for trial in trials], dtype
        )
        try:
            self._edit_states()
            self.prefixes = PackPrefixes(prefixes, base, self.adapters.first_block)
            self._known = KnownStates(base, rows.of, references, self.prefixes)
            self._begin()
        except BaseException:  # other packs need the model
            self.adapters.detach()
            raise
        self._updates = [0 if index in self._built_on.trained else trial.updates for index, trial in enumerate(trials)]
        self._edited = set[int]()  # members whose adapter is final: evaluated and kept, and no longer trained
        pauses = pause_after or [None] * len(trials)
        self._ends = [
            updates if pause is None else min(updates, pause)
            for updates, pause in zip(self._updates, pauses, strict=True)
        ]

    def _edit_states(self) -> None:
        """Attach the edits of hidden states of all members' methods. Raise ValueError for an invalid edit."""
        for index, trial in enumerate(self.trials):
            try:
                self.adapters.attach_edits({index: trial.method.edits(self.prepared[index])})
            except ValueError as error:
                raise ValueError(f"edits(prepared) of method {trial.method.name!r}: {error}") from error

    def _begin(self) -> None:
        """Give the members the adapters that others have trained, an optimizer, and their methods' state."""
        trials, self.priors = self.trials, self._built_on.fill(self.adapters)
        self.optimizer = PackedAdamW(
            self.adapters.theta_KP, [trial.optimizer for trial in trials], [trial.steps for trial in trials]
        )
        for index, member in enumerate(self.members):
            member.begin(trials[index].method, self.adapters.member_factors(index))

    def directions(self, index: int) -> Sequence[Direction]:
        """Return the weight changes that a member's method sees; see `Trained.directions`."""
        return self._built_on.directions(index, self.setting, self.adapters)

    @property
    def pack_id(self) -> str:
        """Content id of the members, in order."""
        return pack_id(self.trials)

    @property
    def steps_done(self) -> int:
        """Updates of the member that has the most."""
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
            if self.members[index].status == "finished" and self.optimizer.updates[index] < self._ends[index]
        ]

    @property
    def paused(self) -> list[int]:
        """Members that have reached their pause but not their end."""
        return [
            index
            for index, member in enumerate(self.members)
            if member.status == "finished" and self._ends[index] <= self.optimizer.updates[index] < self._updates[index]
        ]

    def advance(self, num_steps: int) -> None:
        """Train up to `num_steps` more steps."""
        for _ in range(num_steps):
            steps = {index: self.member_step(index) for index in self.active}
            if not steps:
                break
            began = time.perf_counter()
            pad_id = int(self.base.tokenizer.pad_token_id)
            measured = train_step(
                self.base.model,
                self.adapters,
                self.optimizer,
                steps,
                pad_id,
                self._rows_per_forward,
                self._gradient_checkpointing,
                self._workers,
            )
            seconds = time.perf_counter() - began
            for index, step in steps.items():
                self.members[index].count(step, seconds / len(steps))
                self._carry(index, step)
            for index, terms in measured.items():
                self.record(index, terms)
                self._snapshot(index)

    def _carry(self, index: int, step: MemberStep) -> None:
        """Carry a member's state to the next step."""
        member, kept = self.members[index], step.kept
        if not member.state:
            return
        if kept and self._workers.count > 1:  # a difference in the last bit must not let their states drift apart
            kept = self._workers.broadcast({name: value.cpu() for name, value in kept.items()})
        member.carry(step.method, kept, self.adapters.member_factors(index))

    def record(self, index: int, terms: dict[str, Tensor]) -> None:
        """Keep a step's terms on the device; every few steps, read them and check that the member is still sound."""
        member, trial, done = self.members[index], self.trials[index], self.optimizer.updates[index]
        held = member.hold(done, terms)
        if done >= self._updates[index] or held >= max(1, trial.steps // CURVE_POINTS):
            # A difference in the last bit must not let workers disagree on which members are sound.
            values = self._workers.broadcast(member.read())
            member.judge(done, values, trial.method.must_stay_active, self._guessing, trial.optimizer.moves_after)

    def _snapshot(self, index: int) -> None:
        """Keep the adapter for trials that stop at this update of the same training."""
        trial, done = self.trials[index], self.optimizer.updates[index]
        if self._store is None or done not in self._snapshots or done >= trial.updates:
            return
        if trial.training == trial and self.members[index].status == "finished":
            self._keep(self._store, index, replace(trial, checkpoint_step=done))

    def _keep(self, store: AdapterStore, index: int, trial: TrialConfig) -> None:
        if not self._workers.first:
            return
        cost = self.members[index].cost
        store.save(trial, self.adapters, index, self.base.source, cost.total_tokens, cost.total_seconds)

    def member_step(self, index: int) -> MemberStep:
        """Return what a member does at its next step."""
        trial, step = self.trials[index], self.optimizer.updates[index]
        rows = self.encoded[trial.max_length].batch(trial.method, trial.sizes, trial.seed, step, self.rows_read[index])
        outputs = self._known.outputs(trial) if step >= ASKED_STEPS else {}
        checked = step == trial.optimizer.moves_after
        method, member = trial.method, self.members[index]
        gates = method.gates(trial.adapter.rank, Random(f"{trial.seed}/gates/{step}"))
        return MemberStep(
            method,
            rows,
            trial.max_length,
            outputs,
            self._known.prefixes(trial),
            checked,
            self.priors[index],
            self.prepared[index],
            member.state,
            directions=self.directions(index) if method.weights else (),
            gates=gates,
        )

    def progress(self) -> dict[str, dict[str, float]]:
        """Return the newest point of each member's curves, by trial id."""
        pairs = zip(self.trials, self.members, strict=True)
        return {trial.trial_id: newest for trial, member in pairs if (newest := member.newest())}

    def save(self, path: Path) -> None:
        """Write everything that `resume` needs into one file, which replaces an older one atomically."""
        if self._workers.first:
            checkpoint.save_pack(path, self.pack_id, self.adapters, self.optimizer, self.members)

    def resume(self, path: Path) -> bool:
        """Continue from a checkpoint of the same members; False if there is none. Every later bit is the same.

        Raise CheckpointError; the pack is then unchanged.
        """
        if not path.is_file():
            return False
        self.members = checkpoint.load_pack(path, self.pack_id, self.adapters, self.optimizer, self.members)
        return True

    def save_member_state(self, index: int, path: Path) -> None:
        """Write what a later pack, of whatever other members, needs to continue with one member."""
        if self._workers.first:
            trial_id = self.trials[index].trial_id
            checkpoint.save_member(path, trial_id, self.adapters, self.optimizer, index, self.members[index])

    def load_member_state(self, index: int, path: Path) -> bool:
        """Continue with a member that paused in another pack (`save_member_state`); False if there is no file.

        Raise CheckpointError; the pack is then unchanged.
        """
        if not path.is_file():
            return False
        trial_id, member = self.trials[index].trial_id, self.members[index]
        self.members[index] = checkpoint.load_member(path, trial_id, self.adapters, self.optimizer, index, member)
        return True

    def detach(self) -> None:
        """Restore the base model's own layers."""
        self.adapters.detach()
