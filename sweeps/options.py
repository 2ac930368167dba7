"""Hyper-parameters of a setting's recipe that a sweep may replace, e.g. `options={"steps": 100, "rank": 4}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from settings.base_models import Recipe
from settings.common import checks
from settings.common.declarations import place_of
from settings.common.errors import UserError, did_you_mean
from trainables.trial import SCHEDULES, AdapterConfig, OptimizerConfig

TRIAL_OPTIONS = ("steps", "batch_size", "alignment_batch_size", "max_length")
ADAPTER_OPTIONS = tuple(item.name for item in fields(AdapterConfig))
OPTIMIZER_OPTIONS = tuple(item.name for item in fields(OptimizerConfig))
OPTIONS = (*TRIAL_OPTIONS, *ADAPTER_OPTIONS, *OPTIMIZER_OPTIONS)


def check_option(what: str, option: str, value: Any) -> None:
    """Refuse an unknown option or a value that it cannot have. Raise UserError that begins with `what`."""
    what = f"{what}: option {option!r}"
    if option not in OPTIONS:
        if (place := place_of(option)) and option != "seed":  # of the search; whoever writes it here means `seeds`
            raise UserError(f"{what} belongs elsewhere: {place}{did_you_mean(option, OPTIONS)}")
        raise UserError(f"{what} does not exist{did_you_mean(option, OPTIONS)}; options: {', '.join(OPTIONS)}")
    if option == "schedule":
        checks.one_of(what, value, SCHEDULES)
    elif option in ("targets", "layers"):
        try:
            AdapterConfig(**{option: value})
        except UserError as error:
            raise UserError(f"{what}: {error}") from error
    elif option == "rslora":
        checks.flag(what, value)
    elif option in (*TRIAL_OPTIONS, "rank", "warmup_steps"):
        checks.integer(what, value, 0 if option == "warmup_steps" else 1)
    elif option != "max_grad_norm" or value is not None:
        checks.number(what, value, least=0)


def trial_overrides(recipe: Recipe, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `trainables.trial.trial_for` for the options; all others stay as in the recipe.

    Unless given, alpha is twice the rank, so that the rank changes an adapter's capacity and not its scale.
    """
    overrides = {name: options[name] for name in TRIAL_OPTIONS if name in options}
    adapter = {name: options[name] for name in ADAPTER_OPTIONS if name in options}
    optimizer = {name: options[name] for name in OPTIMIZER_OPTIONS if name in options}
    if adapter:
        rank = adapter.pop("rank", recipe.rank)
        usual = {"rank": rank, "alpha": 2.0 * rank, "rslora": recipe.rslora, "layers": recipe.layers}
        overrides["adapter"] = AdapterConfig(**{**usual, **adapter})
    if optimizer:
        overrides["optimizer"] = OptimizerConfig(**{"learning_rate": recipe.learning_rate, **optimizer})
    return overrides
