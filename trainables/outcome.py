"""How a trial ended, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from settings.setting import Measurement, Status
from trainables.trial import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a trial took.

    Attributes:
        tokens: tokens sent through the model in training, without padding, with reference passes.
        tokens_cut: response tokens cut from training rows longer than `max_length`, over the whole training.
        seconds: the trial's share of the pack's wall time.
        inherited_tokens, inherited_seconds: cost of the adapters that the trial was built on: a prior, or the training
            that it only edits or scales.
    """

    tokens: int = 0
    tokens_cut: int = 0
    seconds: float = 0.0
    inherited_tokens: int = 0
    inherited_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)})

    @property
    def total_tokens(self) -> int:
        """Training tokens needed to get here from scratch."""
        return self.tokens + self.inherited_tokens

    @property
    def total_seconds(self) -> float:
        """Seconds needed to get here from scratch."""
        return self.seconds + self.inherited_seconds


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended, as the ledger keeps it.

    Attributes:
        trial: its configuration and seed.
        status: "finished" has scores; "invalid" diverged or had a dead term; "failed" crashed; "stopped" was cut short.
        reason: one line, unless finished.
        scores: score name -> measurement, for every evaluation of the setting.
        curves: metric name -> (step, value) pairs, thinned.
        cost: what the trial took.
        adapter: name of the adapter's folder under the sweep's `adapters/`, a PEFT checkpoint; None if not kept.
    """

    trial: TrialConfig
    status: Status
    reason: str | None = None
    scores: Mapping[str, Measurement] = field(default_factory=dict)
    curves: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    cost: Cost = Cost()
    adapter: str | None = None

    def values(self, names: Sequence[str]) -> tuple[float, ...] | None:
        """Return the means of these scores; None unless the trial finished and all of them are finite."""
        if self.status != "finished" or not set(names) <= set(self.scores):
            return None
        means = tuple(self.scores[name].mean for name in names)
        return means if all(map(math.isfinite, means)) else None

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; `from_json` is its inverse."""
        return {
            "trial": self.trial.to_json(),
            "status": self.status,
            "reason": self.reason,
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "curves": {name: list(curve) for name, curve in self.curves.items()},
            "cost": asdict(self.cost),
            "adapter": self.adapter,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """Return the outcome that `to_json` wrote. Raise ValueError if the adapter is not named after its trial."""
        scores = {name: Measurement(**value) for name, value in data["scores"].items()}
        curves = {name: [(int(step), float(value)) for step, value in curve] for name, curve in data["curves"].items()}
        trial = TrialConfig.from_json(data["trial"])
        if data["adapter"] not in (None, trial.trial_id):  # it names a folder and must not point elsewhere
            raise ValueError(f"adapter {data['adapter']!r} is not that of trial {trial.trial_id}")
        parts = {"trial": trial, "scores": scores, "curves": curves, "cost": Cost(**data["cost"])}
        return Outcome(**{**data, **parts})
