"""What the members of a pack are built on: trainings to read out, priors, and the changes these made."""

from __future__ import annotations

from collections.abc import Sequence

from settings.setting import Setting
from trainables.engine.adapters import PackedAdapters
from trainables.engine.base import tuning_directions
from trainables.engine.peft_format import from_peft
from trainables.engine.process_group import full_tensor
from trainables.outcome import Cost
from trainables.projections import Direction, Factors, LowRankDirection
from trainables.store import AdapterStore, merged_config, prior_adapters, trained_adapter
from trainables.trial import AdapterConfig, TrialConfig


class BuiltOn:
    """The finished adapters that a pack starts from.

    Args:
        store: store of the adapters. Without one, nothing is read out, and a trial with a prior cannot run.
        trials: the members.

    Attributes:
        trained: member -> the finished training that it reads out.
        saved_priors: the priors of each member.
        configs: the adapter configuration of each member.
        priors: the factors of each member's priors, once filled in.

    Raises:
        UserError: a prior is not in the store.
    """

    def __init__(self, store: AdapterStore | None, trials: Sequence[TrialConfig]) -> None:
        self._trials, self._store = trials, store
        self.trained = {index: saved for index, trial in enumerate(trials) if (saved := trained_adapter(store, trial))}
        self.saved_priors = [prior_adapters(store, trial) for trial in trials]
        self.configs: list[AdapterConfig] = [
            merged_config(trial.adapter, self.trained.get(index)) for index, trial in enumerate(trials)
        ]
        self.priors: list[list[Sequence[Factors]]] = []
        self._directions: dict[int, Sequence[Direction]] = {}

    def fill(self, adapters: PackedAdapters) -> Sequence[Sequence[Sequence[Factors]]]:
        """Give members the adapters that others have trained, and put active priors beneath them.

        Return the factors of each member's priors, on the layers that it adapts.
        """
        for index, saved in self.trained.items():
            adapters.load_member(index, saved.tensors)
        self.priors = [self._factors(adapters, index) for index in range(len(self._trials))]
        adapters.attach_priors(
            {
                index: self.priors[index][0]
                for index, trial in enumerate(self._trials)
                if trial.method.prior_is_active and index not in self.trained
            }
        )
        return self.priors

    def _factors(self, adapters: PackedAdapters, index: int) -> list[Sequence[Factors]]:
        layers, priors = adapters.layers_of(index), list[Sequence[Factors]]()
        for saved in self.saved_priors[index]:
            factors = from_peft(layers, saved.tensors, merged_config(self._trials[index].adapter, saved))
            priors.append([each.to(adapters.theta_KP) for each in factors])
        return priors

    def directions(self, index: int, setting: Setting, adapters: PackedAdapters) -> Sequence[Direction]:
        """Return the weight changes that a member's method sees; see `Trained.directions`."""
        if index not in self._directions:
            directions: Sequence[Direction]
            if self._trials[index].method.needs_pretrained:
                layers = {name: full_tensor(layer.weight_OI) for name, layer in adapters.layers_of(index).items()}
                directions = tuning_directions(setting.base_model, layers)
            else:
                first = self.priors[index][0] if self.priors[index] else ()
                directions = [LowRankDirection(factors) for factors in first]
            self._directions[index] = directions
        return self._directions[index]

    def cost(self, index: int) -> Cost:
        """Return the cost of the adapters that a member is built on, each counted once."""
        trial = self._trials[index]
        tokens, seconds = self._taken([*([trial.training] if index in self.trained else []), *trial.priors])
        return Cost(inherited_tokens=tokens, inherited_seconds=seconds)

    def _taken(self, trials: Sequence[TrialConfig]) -> tuple[int, float]:
        """Return the tokens and seconds of some trainings and all they were built on, each counted once.

        The store's cost of a training includes all that it was built on. What is no longer in the store is counted with
        each training that was built on it.
        """
        different: dict[str, TrialConfig] = {}
        above = [*trials]
        while above:
            trial = above.pop()
            different[trial.trial_id] = trial
            above += _read_by(trial)
        tokens, seconds = 0, 0.0
        for trial in different.values():
            saved = self._store.cost(trial) if self._store else None
            if saved:
                beneath = self._taken(_read_by(trial))
                tokens, seconds = tokens + saved[0] - beneath[0], seconds + saved[1] - beneath[1]
        return tokens, seconds


def _read_by(trial: TrialConfig) -> list[TrialConfig]:
    """Return the trainings whose adapters a trial reads: the one it edits (maybe a checkpoint), and its priors."""
    return [*([trial.training] if trial.training != trial else []), *trial.priors]
