"""Check that a model has the layers a sweep adapts, and find configurations that differ only in wording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from settings.base_models import NanoModel
from settings.common.content import content_id
from settings.common.errors import UserError
from sweeps.case import Case
from sweeps.sweep import Sweep
from trainables.trial import AdapterConfig, TrialConfig

NANO_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # linear, of each block


def check_adapters(sweep: Sweep, case: Case, targets_of: Callable[[AdapterConfig], Sequence[str]]) -> tuple[str, ...]:
    """Check the adapters of every configuration that a sweep may try on a case.

    Return a line for each adapter that two configurations name differently: they have two ids, so it is trained
    twice.

    Args:
        targets_of: returns the layers of the case's model that an adapter sits on, by name, or raises UserError.

    Raises:
        UserError: the model does not have such layers.
    """
    known = cache(targets_of)
    first_of: dict[str, TrialConfig] = {}  # what is trained -> the first trial that trains it
    lines: dict[str, None] = {}
    for arm in case.arms:
        for values in arm.space.every_option():
            trial = sweep.trials_of(arm, values)[0]
            try:
                names = known(trial.adapter)
            except UserError as error:
                raise UserError(f"sweep {sweep.name!r}, {arm.title} on {case.label}: {error}") from error
            first = first_of.setdefault(_trained(trial, names), trial)
            if first.trial_id != trial.trial_id:
                lines[_same(first, trial)] = None
    return tuple(lines)


def nano_targets(model: NanoModel, adapter: AdapterConfig) -> list[str]:
    """Return the layers of a nano model that an adapter sits on, without building the model. Raise UserError."""
    adapter.check_targets(NANO_LAYERS)
    kinds = [kind for kind in NANO_LAYERS if adapter.targets == "all-linear" or kind in adapter.targets]
    return [f"{number}.{kind}" for number in adapter.layer_numbers(model.num_layers) for kind in kinds]


def _trained(trial: TrialConfig, names: Sequence[str]) -> str:
    """Return a content id of a trial that does not depend on how its adapter's layers are named."""
    described = trial.to_json()
    adapter = {key: value for key, value in described["adapter"].items() if key not in ("layers", "targets")}
    return content_id({**described, "adapter": {**adapter, "names": sorted(names)}})


def _same(first: TrialConfig, second: TrialConfig) -> str:
    """Say that two trials have one adapter."""

    def words(trial: TrialConfig) -> str:
        texts = {"layers": trial.adapter.layers_text, "targets": trial.adapter.targets_text}
        differ = [name for name in texts if getattr(first.adapter, name) != getattr(second.adapter, name)]
        return " ".join(f"{name}={texts[name]!r}" for name in differ)

    return f"{first.method.title}: {words(first)} and {words(second)} are one adapter of this model, trained twice"
