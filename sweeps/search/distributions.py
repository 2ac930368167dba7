"""The searched coefficients of a method as Optuna distributions."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sweeps.space import MethodSpace
from trainables.coefficients import ChoiceSpec, Spec


def distributions_of(space: MethodSpace) -> dict[str, BaseDistribution]:
    """Return the distribution of each searched coefficient."""
    return {name: _distribution(spec) for name, spec in space.ranges.items()}


def suggest(space: MethodSpace, trial: optuna.Trial) -> dict[str, Any]:
    """Ask an Optuna trial for the searched coefficients, rounded so that labels stay short."""
    return space.rounded({name: _suggest(trial, name, spec) for name, spec in space.ranges.items()})


def _distribution(spec: Spec) -> BaseDistribution:
    if isinstance(spec, ChoiceSpec):
        return CategoricalDistribution(spec.options)
    if spec.integer:
        return IntDistribution(int(spec.low), int(spec.high), log=spec.log)
    return FloatDistribution(spec.low, spec.high, log=spec.log)


def _suggest(trial: optuna.Trial, name: str, spec: Spec) -> Any:
    if isinstance(spec, ChoiceSpec):
        return trial.suggest_categorical(name, spec.options)
    if spec.integer:
        return trial.suggest_int(name, int(spec.low), int(spec.high), log=spec.log)
    return trial.suggest_float(name, spec.low, spec.high, log=spec.log)
