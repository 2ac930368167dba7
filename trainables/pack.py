"""A pack's life: build, step, evaluate, checkpoint, resume, finish. No Ray here.

A pack trains its trials side by side in one copy of the base model. Nothing that happens to one member reaches another:
rows, learning rates, clipping and random numbers are its own, and a member that diverges is marked invalid and left out
of the next steps. What a member is built on (a prior, or a training that it only edits) comes from an `AdapterStore`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from settings.common.errors import UserError
from settings.common.files import write_json
from settings.setting import Setting, Stream
from trainables import checkpoint
from trainables.checkpoint import MemberState
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
from trainables.messages import Ended
from trainables.method import Method
from trainables.outcome import Cost, Outcome
from trainables.projections import Direction, Factors, LowRankDirection
from trainables.store import AdapterStore, Saved
from trainables.trial import AdapterConfig, TrialConfig, pack_id

CURVE_POINTS = 20
ASKED_STEPS = 2  # in which the base model itself is the reference: a term that is not connected is then exactly 0
EXPLODED = 3.0  # a task loss of so many times that of guessing among all tokens is no training any more


class Pack:
    """Trials side by side in one copy of the base model. A solo run is a pack of one.

    Args:
        base: the frozen model; its linear layers are replaced until `detach`.
        setting: the setting of all members.
        trials: the members. They share the base model, the adapter's targets and nothing else.
        dtype: of the adapters.
        store: where priors and finished trainings are found, and where adapters are kept. Without one, a trial that
            only edits another's training does that training itself, and a trial with a prior cannot run.
        snapshots: updates after which the adapters in training are kept in the store, for trials that stop there.
        pause_after: updates after which members stop for the time being, one per member; None is never. `finish` then
            says what they have come to, and `save_member_state` and `load_member_state` bring them into a later pack.
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
        pause_after: Sequence[int | None] = (),
        rows_per_forward: int | None = None,
        gradient_checkpointing: bool = False,
        references: ReferenceCache | None = None,
        workers: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.base, self.setting, self.trials, self._workers = base, setting, tuple(trials), workers
        self._store, self._snapshots, self._references = store, frozenset(snapshots), references
        self._rows_per_forward, self._gradient_checkpointing = rows_per_forward, gradient_checkpointing
        self._outputs_by_key: dict[tuple[object, ...], CachedOutputs | None] = {}
        check_head(base.model)
        self._encoded = {length: base.encoded(setting, length) for length in {trial.max_length for trial in trials}}
        self.members = [MemberState() for _ in trials]
        self._exploded = EXPLODED * math.log(base.model.config.get_text_config().vocab_size)
        trained = {index: saved for index, trial in enumerate(trials) if (saved := self._trained(trial))}
        priors = {index: saved for index, trial in enumerate(trials) if (saved := self._prior(trial))}
        configs = [_merged(trial.adapter, trained.get(index)) for index, trial in enumerate(trials)]
        self.adapters = PackedAdapters(base.model, configs, [trial.seed for trial in trials], dtype)
        try:
            self._fill(trained, priors)
        except BaseException:  # other packs need the model
            self.adapters.detach()
            raise
        self._updates = [0 if index in trained else trial.updates for index, trial in enumerate(trials)]
        pauses = pause_after or [None] * len(trials)
        self._ends = [
            updates if pause is None else min(updates, pause)
            for updates, pause in zip(self._updates, pauses, strict=True)
        ]

    def _fill(self, trained: Mapping[int, Saved], priors: Mapping[int, Saved]) -> None:
        """Give the members what others have trained, and all of them an optimizer."""
        trials = self.trials
        for index, saved in trained.items():
            self.adapters.load_member(index, saved.tensors)
            self._inherit(index, saved)
        self._prior_factors: dict[int, Sequence[Factors]] = {}
        for index, saved in priors.items():
            config = _merged(trials[index].adapter, saved)
            prior = from_peft(self.adapters.layers, saved.tensors, config)
            self._prior_factors[index] = [factors.to(self.adapters.theta_KP) for factors in prior]
            self._inherit(index, saved)
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

    def _inherit(self, index: int, saved: Saved) -> None:
        """Count what another adapter took, on which a member is built."""
        self.members[index].cost += Cost(inherited_tokens=saved.tokens, inherited_seconds=saved.seconds)

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
            if self.members[index].status == "finished" and self.optimizer.updates[index] < self._ends[index]
        ]

    @property
    def paused(self) -> list[int]:
        """Members that have come to their pause and not to their end."""
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
            self._count(steps, time.perf_counter() - began)
            for index, terms in measured.items():
                self._measured(index, terms)
                self._snapshot(index)

    def _measured(self, index: int, terms: dict[str, Tensor]) -> None:
        """Keep a step's terms on the device; every few steps read them, and see whether the member is still sound."""
        member, done = self.members[index], self.optimizer.updates[index]
        pending = member.pending
        for name, value in terms.items():
            pending.setdefault(name, []).append((done, value))
        if done < self._updates[index] and len(pending["loss"]) < max(1, self.trials[index].steps // CURVE_POINTS):
            return
        values = {
            name: list(zip([step for step, _ in pairs], torch.stack([v for _, v in pairs]).tolist(), strict=True))
            for name, pairs in pending.items()
        }
        values = self._workers.broadcast(values)  # a last bit that differs must not let them differ on who is sound
        member.extend(done, values)
        member.reason = self._problem(index, values)
        member.status = "invalid" if member.reason else "finished"
        pending.clear()

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
        rows = self._encoded[trial.max_length].batch(trial.method, trial.sizes, trial.seed, step)
        cached = self._cached_outputs(trial) if step >= ASKED_STEPS else {}
        return MemberStep(trial.method, rows, trial.max_length, cached, checked=step == 1)

    def _cached_outputs(self, trial: TrialConfig) -> dict[Stream, CachedOutputs]:
        """Return what the cache has of the base model's outputs on the rows that a trial's method refers to."""
        outputs = {stream: self._outputs(trial, stream) for stream in trial.method.reference}
        return {stream: cached for stream, cached in outputs.items() if cached is not None}

    def _outputs(self, trial: TrialConfig, stream: Stream) -> CachedOutputs | None:
        method, encoded = trial.method, self._encoded[trial.max_length]
        positions, deep = method.positions(stream), stream in method.layers
        key = (trial.max_length, stream, method.definition, positions, deep)
        if self._references is not None and key not in self._outputs_by_key:
            rows = encoded.rows(stream, method.definition)
            self._outputs_by_key[key] = self._references.on(self.base, rows, positions, with_layers=deep)
        return self._outputs_by_key.get(key)

    def _count(self, steps: Mapping[int, MemberStep], seconds: float) -> None:
        for index, step in steps.items():
            tokens = tokens_cut = 0
            for stream, rows in step.rows.items():
                passes = 2 if stream in step.method.reference else 1
                tokens += passes * sum(len(row.ids) for row in rows)
                tokens_cut += sum(row.num_cut for row in rows)
            self.members[index].cost += Cost(tokens=tokens, tokens_cut=tokens_cut, seconds=seconds / len(steps))

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

    def edit_adapters(self) -> None:
        """Let methods edit the trained adapters of their members, and scale those whose trials say so."""
        for index, trial in enumerate(self.trials):
            if self.members[index].status != "finished" or index in self.paused:
                continue
            if trial.method.trained_as != trial.method:
                self._edit(index, trial.method)
            if trial.adapter_scale != 1.0:
                self.adapters.scale_member(index, trial.adapter_scale)

    def _edit(self, index: int, method: Method) -> None:
        """Let a method edit its member's adapter; invalid when what it projects on is nothing."""
        adapter = self.adapters.member_factors(index)
        directions: list[Direction] = [LowRankDirection(factors) for factors in self._prior_factors.get(index, ())]
        if method.needs_pretrained:
            layers = {name: full_tensor(layer.base.weight) for name, layer in self.adapters.layers.items()}
            directions = list(tuning_directions(self.setting.base_model, layers))
        pairs = zip(adapter, directions, strict=False)
        if directions and not any(direction.project(factors.B_OR).any() for factors, direction in pairs):
            member = self.members[index]
            member.status, member.reason = "invalid", "the projection leaves nothing of the adapter in any layer"
            return
        self.adapters.set_member_factors(index, method.finalize(adapter, directions))

    def evaluate(self) -> dict[int, Evaluated]:
        """Evaluate the members whose numbers can be trusted: index -> scores and observations."""
        sound = [index for index, member in enumerate(self.members) if member.status == "finished"]
        evaluated: dict[int, Evaluated] = {}
        began = time.perf_counter()
        for length, encoded in self._encoded.items():
            members = [index for index in sound if self.trials[index].max_length == length]
            seeds = [self.trials[index].seed for index in members]
            if members:
                results = evaluate(
                    self.base.model,
                    encoded,
                    adapters=self.adapters,
                    members=members,
                    seeds=seeds,
                    workers=self._workers,
                )
                evaluated.update(zip(members, results, strict=True))
        for index in sound:
            self.members[index].cost += Cost(seconds=(time.perf_counter() - began) / len(sound))
        return evaluated

    def progress(self) -> dict[str, dict[str, float]]:
        """Return the newest point of each member's curves, by trial id."""
        newest = {}
        for trial, member in zip(self.trials, self.members, strict=True):
            if member.curves:
                newest[trial.trial_id] = {
                    "step": member.curves["loss"][-1][0],
                    **{name: curve[-1][1] for name, curve in member.curves.items()},
                }
        return newest

    def finish(self, folder: SweepFolder) -> Ended:
        """Edit and evaluate the adapters, write what is to be kept, and say how all members ended."""
        self.edit_adapters()
        evaluated = self.evaluate()
        self.write(folder, evaluated)
        return self.ended(evaluated)

    def write(self, folder: SweepFolder, evaluated: Mapping[int, Evaluated]) -> None:
        """Write adapters (see `AdapterStore`) and observations of members that were evaluated and do not pause."""
        for index, result in evaluated.items():
            if index not in self.paused:
                self._keep(AdapterStore(folder), index, self.trials[index])
                if self._workers.first:
                    write_json(folder.observations(self.trials[index].trial_id), result.observations)

    def ended(self, evaluated: Mapping[int, Evaluated]) -> Ended:
        """Say how all members ended. Those that pause have outcomes so far, as those of trials of fewer updates."""
        outcomes, rungs, paused = [], [], self.paused
        for index, trial in enumerate(self.trials):
            outcome = self._outcome(index, evaluated.get(index))
            if index in paused:
                rung = replace(trial, checkpoint_step=self.optimizer.updates[index])
                rungs.append(replace(outcome, trial=rung, adapter=None))
            else:
                outcomes.append(outcome)
        return Ended(tuple(outcomes), tuple(rungs))

    def _outcome(self, index: int, evaluated: Evaluated | None) -> Outcome:
        trial, member = self.trials[index], self.members[index]
        return Outcome(
            trial=trial,
            status=member.status,
            reason=member.reason,
            scores=evaluated.scores if evaluated else {},
            curves=member.curves,
            cost=member.cost,
            adapter=trial.trial_id if evaluated else None,
        )

    def save(self, path: Path) -> None:
        """Write everything that `resume` needs: one file, which takes the place of an older one in one move."""
        if self._workers.first:
            checkpoint.save_pack(path, self.pack_id, self.adapters, self.optimizer, self.members)

    def resume(self, path: Path) -> bool:
        """Continue from a checkpoint of the same members; False when there is none. Every later bit is the same.

        Raises CheckpointError; the pack is then as it was.
        """
        if not path.is_file():
            return False
        self.members = checkpoint.load_pack(path, self.pack_id, self.adapters, self.optimizer, len(self.trials))
        return True

    def save_member_state(self, index: int, path: Path) -> None:
        """Write what a later pack needs to go on with one member, whatever its other members."""
        if self._workers.first:
            trial_id, member = self.trials[index].trial_id, self.members[index]
            checkpoint.save_member(path, trial_id, self.adapters, self.optimizer, index, member)

    def load_member_state(self, index: int, path: Path) -> bool:
        """Go on with a member that paused in another pack (`save_member_state`); False when nothing is there.

        Raises CheckpointError; the pack is then as it was.
        """
        if not path.is_file():
            return False
        trial_id = self.trials[index].trial_id
        self.members[index] = checkpoint.load_member(path, trial_id, self.adapters, self.optimizer, index)
        return True

    def detach(self) -> None:
        """Give the base model its own layers back."""
        self.adapters.detach()


def _merged(config: AdapterConfig, saved: Saved | None) -> AdapterConfig:
    """The configuration of a saved adapter with the targets of this one."""
    return config if saved is None else replace(saved.config, targets=config.targets)
