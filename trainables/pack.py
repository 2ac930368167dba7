"""A pack's life: train, edit, evaluate, finish. No Ray here.

Shape legend: P parameters of a member.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from settings.common.files import write_json
from trainables.engine.batches import EncodedSetting
from trainables.evaluation.evaluate import Evaluated, Progress, evaluate, questions_json
from trainables.folder import SweepFolder
from trainables.messages import Ended
from trainables.method import Method, Trained
from trainables.outcome import Cost, Outcome
from trainables.projections import InvalidAdapterError
from trainables.store import AdapterStore
from trainables.training import PackTraining
from trainables.trial import TrialConfig, base_id


def write_questions(folder: SweepFolder, encoded: EncodedSetting, max_length: int) -> None:
    """Write the questions, as tokens, for sampling replies elsewhere, unless the file exists."""
    path = folder.asked(base_id(encoded.setting), max_length)
    if not path.is_file():
        write_json(path, questions_json(encoded))


class Pack(PackTraining):
    """Trials side by side in one copy of the base model, up to their outcomes. A solo run is a pack of one.

    It takes the arguments of `PackTraining`.
    """

    def finish(self, folder: SweepFolder, progress: Progress = lambda evaluation, done, total: None) -> Ended:
        """Edit and evaluate the adapters, write what to keep, and return how all members ended.

        Args:
            progress: see `evaluate`.
        """
        self.edit_adapters()
        evaluated = self.evaluate(progress)
        self.write(folder, evaluated)
        return self.ended(evaluated)

    def edit_adapters(self) -> None:
        """Let methods edit the trained adapters of their members, and scale those of trials that ask for it."""
        for index, trial in enumerate(self.trials):
            if self.members[index].status != "finished" or index in self.paused:
                continue
            if trial.method.trained_as != trial.method or self._is_raw(index):
                self._edit(index, trial.method)
            if trial.adapter_scale != 1.0:
                self.adapters.scale_member(index, trial.adapter_scale)
            self._edited.add(index)

    def _is_raw(self, index: int) -> bool:
        """Return whether a member trains its own adapter and its method has yet to finalize it.

        Adapters read out of the store have been finalized there.
        """
        method = self.trials[index].method
        finalizes = type(method).finalize is not Method.finalize and method.trained_as == method
        return finalizes and self._updates[index] > 0 and index not in self._edited

    @contextmanager
    def _finalized(self, indices: Sequence[int]) -> Iterator[None]:
        """Let methods finalize adapters while they are evaluated or kept. Training continues with the originals."""
        raw = [index for index in indices if self._is_raw(index)]
        for index in raw:
            self._edit(index, self.trials[index].method)
        try:
            yield
        finally:
            for index in raw:
                self.adapters.restore(index)

    def _keep(self, store: AdapterStore, index: int, trial: TrialConfig) -> None:
        with self._finalized([index]):
            if self.members[index].status == "finished":
                super()._keep(store, index, trial)

    def _edit(self, index: int, method: Method) -> None:
        """Let a method edit its member's adapter; invalid if the method says so or the result is not finite."""
        member = self.members[index]
        adapter = [factors.copy() for factors in self.adapters.member_factors(index)]
        trained = Trained(adapter, self.priors[index], self.directions(index), self.prepared[index], member.state)
        try:
            edited = method.finalize(trained)
        except InvalidAdapterError as problem:
            member.status, member.reason = "invalid", str(problem)
            return
        for name, factors in zip(self.adapters.layers_of(index), edited, strict=True):
            if not (factors.A_RI.isfinite().all() and factors.B_OR.isfinite().all() and math.isfinite(factors.scale)):
                member.status = "invalid"
                member.reason = f"finalize of method {method.name!r} makes numbers that are not finite in layer {name}"
                return
        self.adapters.stand_in(index, edited)

    def evaluate(self, progress: Progress = lambda evaluation, done, total: None) -> dict[int, Evaluated]:
        """Evaluate the members whose numbers can be trusted: index -> scores and observations."""
        sound = [index for index, member in enumerate(self.members) if member.status == "finished"]
        evaluated: dict[int, Evaluated] = {}
        began = time.perf_counter()
        for length, encoded in self.encoded.items():
            members = [index for index in sound if self.trials[index].max_length == length]
            seeds = [self.trials[index].seed for index in members]
            if members:
                with self._finalized(members):
                    results = evaluate(
                        self.base.model,
                        encoded,
                        adapters=self.adapters,
                        members=members,
                        mixes=[self.trials[index].decoding_mix for index in members],
                        seeds=seeds,
                        prefixes=self.prefixes,
                        replying=self.replying,
                        workers=self._workers,
                        progress=progress,
                    )
                pairs = zip(members, results, strict=True)
                evaluated |= {index: result for index, result in pairs if self.members[index].status == "finished"}
        for index in sound:
            self.members[index].cost += Cost(seconds=(time.perf_counter() - began) / len(sound))
        return evaluated

    @property
    def replying(self) -> bool:
        """Whether members reply in words here."""
        return all(trial.replies == "here" for trial in self.trials)

    def write(self, folder: SweepFolder, evaluated: Mapping[int, Evaluated]) -> None:
        """Write adapters (see `AdapterStore`) and observations of members that were evaluated and do not pause.

        If replies are sampled elsewhere, also write the questions.
        """
        if self._workers.first and not self.replying:
            for length, encoded in self.encoded.items():
                write_questions(folder, encoded, length)
        for index, result in evaluated.items():
            if index not in self.paused:
                self._keep(AdapterStore(folder), index, self.trials[index])
                if self._workers.first:
                    write_json(folder.observations(self.trials[index].trial_id), result.observed_json())

    def ended(self, evaluated: Mapping[int, Evaluated]) -> Ended:
        """Return how all members ended. Those that pause have interim outcomes, as trials of fewer updates."""
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
