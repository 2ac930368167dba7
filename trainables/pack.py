"""A pack's life: train, edit, evaluate, finish. No Ray here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from settings.common.files import write_json
from trainables.engine.base import tuning_directions
from trainables.engine.process_group import full_tensor
from trainables.evaluation.evaluate import Evaluated, Progress, evaluate
from trainables.folder import SweepFolder
from trainables.messages import Ended
from trainables.method import Method, Trained
from trainables.outcome import Cost, Outcome
from trainables.projections import Direction, LowRankDirection
from trainables.store import AdapterStore
from trainables.training import PackTraining


class Pack(PackTraining):
    """Trials side by side in one copy of the base model, to their outcomes. A solo run is a pack of one.

    Takes the arguments of `PackTraining`.
    """

    def finish(self, folder: SweepFolder, progress: Progress = lambda evaluation, done, total: None) -> Ended:
        """Edit and evaluate the adapters, write what is to be kept, and say how all members ended.

        Args:
            progress: see `evaluate`.
        """
        self.edit_adapters()
        evaluated = self.evaluate(progress)
        self.write(folder, evaluated)
        return self.ended(evaluated)

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
        adapter, priors = self.adapters.member_factors(index), self.priors[index]
        directions: list[Direction] = [LowRankDirection(factors) for factors in (priors[0] if priors else ())]
        if method.needs_pretrained:
            layers = {name: full_tensor(layer.weight_OI) for name, layer in self.adapters.layers_of(index).items()}
            directions = list(tuning_directions(self.setting.base_model, layers))
        pairs = zip(adapter, directions, strict=False)
        if directions and not any(direction.project(factors.B_OR).any() for factors, direction in pairs):
            member = self.members[index]
            member.status, member.reason = "invalid", "the projection leaves nothing of the adapter in any layer"
            return
        trained = Trained(adapter, priors, directions, self.prepared[index])
        self.adapters.set_member_factors(index, method.finalize(trained))

    def evaluate(self, progress: Progress = lambda evaluation, done, total: None) -> dict[int, Evaluated]:
        """Evaluate the members whose numbers can be trusted: index -> scores and observations."""
        sound = [index for index, member in enumerate(self.members) if member.status == "finished"]
        evaluated: dict[int, Evaluated] = {}
        began = time.perf_counter()
        for length, encoded in self.encoded.items():
            members = [index for index in sound if self.trials[index].max_length == length]
            seeds = [self.trials[index].seed for index in members]
            if members:
                results = evaluate(
                    self.base.model,
                    encoded,
                    adapters=self.adapters,
                    members=members,
                    seeds=seeds,
                    prefixes=self.prefixes,
                    workers=self._workers,
                    progress=progress,
                )
                evaluated.update(zip(members, results, strict=True))
        for index in sound:
            self.members[index].cost += Cost(seconds=(time.perf_counter() - began) / len(sound))
        return evaluated

    def write(self, folder: SweepFolder, evaluated: Mapping[int, Evaluated]) -> None:
        """Write adapters (see `AdapterStore`) and observations of members that were evaluated and do not pause."""
        for index, result in evaluated.items():
            if index not in self.paused:
                self._keep(AdapterStore(folder), index, self.trials[index])
                if self._workers.first:
                    write_json(folder.observations(self.trials[index].trial_id), result.observed_json())

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
