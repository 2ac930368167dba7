"""A pack's life: build, step, evaluate, checkpoint, resume, finish. No Ray here.

A pack trains its trials side by side in one copy of the base model. Nothing that happens to one member reaches another:
rows, learning rates, clipping and random numbers are its own, and a member that diverges is marked invalid and left out
of the next steps.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from settings.setting import Measurement, Setting, UserError, content_id
from trainables.adapters import PackedAdapters
from trainables.base_models import LoadedBase
from trainables.batches import EncodedSetting
from trainables.evaluate import Evaluated, evaluate
from trainables.files import replacing, write_json
from trainables.optimizer import PackedAdamW
from trainables.step import MemberStep, check_head, train_step
from trainables.trial import Outcome, Status, TrialConfig

CURVE_POINTS = 20
STATE, RECORDS = "state.safetensors", "records.json"


@dataclass
class _Record:
    """What is known of a member besides its weights."""

    status: Status = "finished"
    reason: str | None = None
    tokens: int = 0
    tokens_cut: int = 0
    seconds: float = 0.0
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def extend(self, step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Add a point to each curve: the mean of `values`."""
        for name, some in values.items():
            self.curves.setdefault(name, []).append((step, sum(some) / len(some)))


class Pack:
    """Trials side by side in one copy of the base model. A solo run is a pack of one.

    Args:
        base: the frozen model; its linear layers are replaced until `close`.
        setting: the setting of all members.
        trials: the members. They share the base model, the adapter's targets and nothing else.
        dtype: of the adapters.

    Raises:
        UserError: a row does not fit, an adapter target does not exist, the architecture is not supported.
    """

    def __init__(
        self,
        base: LoadedBase,
        setting: Setting,
        trials: Sequence[TrialConfig],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.base, self.setting, self.trials = base, setting, tuple(trials)
        check_head(base.model)
        self._encoded = {
            length: EncodedSetting(setting, base.tokenizer, length) for length in {trial.max_length for trial in trials}
        }
        self.adapters = PackedAdapters(
            base.model, [trial.adapter for trial in trials], [trial.seed for trial in trials], dtype
        )
        self.optimizer = PackedAdamW(
            self.adapters.theta_KP, [trial.optimizer for trial in trials], [trial.steps for trial in trials]
        )
        self.records = [_Record() for _ in trials]
        self._pending: list[list[dict[str, Tensor]]] = [[] for _ in trials]

    @property
    def pack_id(self) -> str:
        """Content id of the members, in order."""
        return content_id([trial.trial_id for trial in self.trials])

    @property
    def steps_done(self) -> int:
        """Updates of the member that has most."""
        return max(self.optimizer.updates)

    @property
    def steps(self) -> int:
        """Updates of the longest member."""
        return max(trial.steps for trial in self.trials)

    @property
    def active(self) -> list[int]:
        """Members that still train."""
        return [
            index
            for index, trial in enumerate(self.trials)
            if self.records[index].status == "finished" and self.optimizer.updates[index] < trial.steps
        ]

    def advance(self, num_steps: int) -> None:
        """Train up to `num_steps` more steps."""
        for _ in range(num_steps):
            members = {index: self._member_step(index) for index in self.active}
            if not members:
                break
            began = time.perf_counter()
            pad_id = int(self.base.tokenizer.pad_token_id)
            measured = train_step(self.base.model, self.adapters, self.optimizer, members, pad_id)
            self._count(members, time.perf_counter() - began)
            for index, terms in measured.items():
                self._measured(index, terms)

    def _measured(self, index: int, terms: dict[str, Tensor]) -> None:
        """Keep a step's terms on the device; every few steps read them, and see whether the member is still sound."""
        pending, trial, done = self._pending[index], self.trials[index], self.optimizer.updates[index]
        pending.append(terms)
        if done < trial.steps and len(pending) < max(1, trial.steps // CURVE_POINTS):
            return
        values = {name: torch.stack([terms[name] for terms in pending]).tolist() for name in terms}
        record = self.records[index]
        record.extend(done, values)
        record.reason = self._problem(index, values, first_step=done - len(pending))
        record.status = "invalid" if record.reason else "finished"
        pending.clear()

    def _member_step(self, index: int) -> MemberStep:
        trial, step = self.trials[index], self.optimizer.updates[index]
        encoded = self._encoded[trial.max_length]
        rows = {
            stream: encoded.rows_at(stream, trial.method.rows_per_step(stream, trial.sizes), trial.seed, step)
            for stream in trial.method.streams
        }
        return MemberStep(trial.method, rows)

    def _count(self, members: Mapping[int, MemberStep], seconds: float) -> None:
        for index, member in members.items():
            record = self.records[index]
            record.seconds += seconds / len(members)
            for stream, rows in member.rows.items():
                passes = 2 if stream in member.method.reference else 1
                record.tokens += passes * sum(len(row.ids) for row in rows)
                record.tokens_cut += sum(row.num_cut for row in rows)

    def _problem(self, index: int, values: Mapping[str, Sequence[float]], first_step: int) -> str | None:
        """Why a member's numbers cannot be trusted, or None."""
        for name, some in values.items():
            for offset, value in enumerate(some):
                if not math.isfinite(value):
                    return f"{name} is {value} at step {first_step + offset + 1}"
        for name in self.trials[index].method.alive:
            updated = [value for offset, value in enumerate(values[name]) if first_step + offset >= 1]
            if any(value == 0.0 for value in updated):
                return f"the term {name!r} is exactly 0 after the first update: it is not connected to the adapter"
        return None

    def evaluate(self) -> dict[int, Evaluated]:
        """Evaluate the members whose numbers can be trusted: index -> scores and observations."""
        sound = [index for index, record in enumerate(self.records) if record.status == "finished"]
        found: dict[int, Evaluated] = {}
        began = time.perf_counter()
        for length, encoded in self._encoded.items():
            some = [index for index in sound if self.trials[index].max_length == length]
            seeds = [self.trials[index].seed for index in some]
            if some:
                results = evaluate(self.base.model, encoded, adapters=self.adapters, members=some, seeds=seeds)
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

    def finish(self, folder: Path) -> list[Outcome]:
        """Evaluate, write each sound member's adapter and observations under `folder`, and say how all ended.

        Files: `adapters/<trial id>/` (a PEFT checkpoint) and `observations/<trial id>.json`.
        """
        evaluated = self.evaluate()
        for index, result in evaluated.items():
            trial_id = self.trials[index].trial_id
            with replacing(folder / "adapters" / trial_id) as directory:
                self.adapters.save_member(index, directory, self.base.source)
            write_json(folder / "observations" / f"{trial_id}.json", result.observations)
        return [self._outcome(index, evaluated.get(index)) for index in range(len(self.trials))]

    def _outcome(self, index: int, evaluated: Evaluated | None) -> Outcome:
        trial, record = self.trials[index], self.records[index]
        scores: dict[str, Measurement] = evaluated.scores if evaluated else {}
        return Outcome(
            trial=trial, scores=scores, adapter=trial.trial_id if evaluated else None, **_without_none(asdict(record))
        )

    def save(self, directory: Path) -> None:
        """Write everything that `resume` needs; what was in `directory` is replaced in one move."""
        with replacing(directory) as temporary:
            tensors = {"theta": self.adapters.theta_KP, **self.optimizer.state()}
            for index, pending in enumerate(self._pending):
                for name in pending[0] if pending else ():
                    tensors[f"pending.{index}.{name}"] = torch.stack([terms[name] for terms in pending])
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary / STATE)
            records = [asdict(record) for record in self.records]
            (temporary / RECORDS).write_text(json.dumps({"pack": self.pack_id, "records": records}))

    def resume(self, directory: Path) -> bool:
        """Continue from a checkpoint of the same members; False when there is none. Every later bit is the same."""
        if not (directory / RECORDS).is_file():
            return False
        data = json.loads((directory / RECORDS).read_text())
        if data["pack"] != self.pack_id:
            raise UserError(f"{directory} holds a checkpoint of another pack")
        state = load_file(directory / STATE, device=str(self.base.model.device))
        self.adapters.theta_KP.copy_(state["theta"])
        self.optimizer.load_state(state)
        for record, saved in zip(self.records, data["records"], strict=True):
            saved["curves"] = {
                name: [(int(step), value) for step, value in curve] for name, curve in saved["curves"].items()
            }
            vars(record).update(saved)
        for name, stacked in state.items():
            if name.startswith("pending."):
                _, index, term = name.split(".")
                pending = self._pending[int(index)]
                pending.extend({} for _ in range(len(stacked) - len(pending)))
                for terms, value in zip(pending, stacked, strict=True):
                    terms[term] = value
        return True

    def close(self) -> None:
        """Give the base model its own layers back."""
        self.adapters.detach()


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
