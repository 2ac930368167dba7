"""What a sweep will cost: tokens, memory, time.

Rows are counted with the model's own tokenizer if it is on this machine, and by a rule of thumb otherwise; each has its
share of an instruction. The base model's own replies are assumed to have their maximum length, that of the longest
response. Time is the arithmetic of all passes (`sweeps.planning.work`) at the speed of this machine for products of the
model's sizes (`sweeps.planning.speed`), as if nothing else ran; once trials of the sweep have ended, it follows their
pace. Memory is the most that a worker holds (`sweeps.planning.fit`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from settings.base_models import NanoModel
from settings.common.content import content_id
from sweeps.case import Case
from sweeps.ledger import Fit, LedgerState
from sweeps.planning.fit import describe, room_of, settle, shared_bytes, sizes_of, worker_bytes
from sweeps.planning.forecast import PACK_SECONDS, CaseForecast, SweepForecast, forecast_of
from sweeps.planning.gpus import memory_of_gpus
from sweeps.planning.planned import planned_arms
from sweeps.planning.spending import BudgetPlan, PacedForecast, what_fits
from sweeps.results.disk import cache_usage
from sweeps.sweep import Sweep
from trainables.trial import BUDGET_KNOBS, TrialConfig


@dataclass(frozen=True)
class ArmEstimate:
    """What one method on one setting will cost. A method that only others build on gets its own estimate.

    Attributes:
        tokens: training tokens of all trials.
        seconds: wall time of all trials.
        ended: how many of the trials have ended.
        took: wall seconds of each trial that ended and did not fail.
        budget_knobs: the knobs that differ between configurations and change how many rows a trial reads.
    """

    setting: str
    method: str
    configurations: int
    trials: int
    packs: int
    tokens: float
    seconds: float
    ended: int = 0
    took: tuple[float, ...] = ()
    budget_knobs: tuple[str, ...] = ()

    @property
    def seconds_left(self) -> float:
        """Wall time of the trials that have not ended."""
        return self.seconds * max(0.0, 1 - self.ended / self.trials)


@dataclass(frozen=True)
class CostEstimate:
    """What a sweep will cost.

    Attributes:
        arms: the sweep's methods on its settings, and what these build on.
        workers: packs at a time.
        worker_bytes: peak memory of a worker, besides base models that workers share.
        shared_bytes: bytes of base models that the workers of a machine map from the same files.
        assumed: models that are not on this machine; they are assumed to be as large as Qwen3-8B.
        once: wall seconds that the trials share: loading and scoring base models, their outputs on rows, and the passes
            by which methods prepare.
        fit: micro-batches and trials per pack.
        memory: a line on a lack of memory, or on what was made smaller to fit it; "" if there is enough.
        prefix_bytes: size of the cached states below the lowest adapted layers.
        prefix_cache_bytes: size of that cache now, including what other sweeps keep there.
        budget: what fits into the sweep's budget; None without one.
        gpu_assumed: whether the sweep needs a GPU and this machine has none; the time is then that of a large one. (Of
            nano models, the time is always measured on the CPU.)
    """

    arms: tuple[ArmEstimate, ...]
    workers: int
    worker_bytes: float
    shared_bytes: float = 0.0
    assumed: tuple[str, ...] = ()
    once: float = 0.0
    fit: Fit = field(default_factory=Fit)
    memory: str = ""
    prefix_bytes: float = 0.0
    prefix_cache_bytes: float = 0.0
    budget: BudgetPlan | None = None
    gpu_assumed: bool = False

    @property
    def seconds(self) -> float:
        """Wall time of all arms, with all workers busy."""
        return self.once + sum(arm.seconds for arm in self.arms)

    @property
    def ended(self) -> int:
        """Trials of all arms that have ended."""
        return sum(arm.ended for arm in self.arms)

    @property
    def seconds_left(self) -> float:
        """Wall time of the trials that have not ended."""
        return sum(arm.seconds_left for arm in self.arms)

    @property
    def trials(self) -> int:
        """Trials of all arms."""
        return sum(arm.trials for arm in self.arms)

    @property
    def packs(self) -> int:
        """Packs of all arms."""
        return sum(arm.packs for arm in self.arms)

    @property
    def tokens(self) -> float:
        """Training tokens of all arms."""
        return sum(arm.tokens for arm in self.arms)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON data: totals, an entry for each arm, and what was made smaller to fit memory."""
        names = ("setting", "method", "configurations", "trials", "packs", "tokens", "seconds", "ended", "budget_knobs")
        totals = ("trials", "packs", "tokens", "seconds", "seconds_left", "ended", "workers", "worker_bytes")
        more = ("shared_bytes", "prefix_bytes", "assumed", "memory", "gpu_assumed")
        arms = [{name: getattr(arm, name) for name in names} | {"tokens": round(arm.tokens)} for arm in self.arms]
        return {name: getattr(self, name) for name in (*totals, *more)} | {
            "tokens": sum(arm["tokens"] for arm in arms),
            "arms": arms,
            "fit": asdict(self.fit),
            "budget": self.budget and {"exceeded": self.budget.exceeded, "trials": self.budget.trials},
        }


def estimate(sweep: Sweep, packs: int, record: LedgerState | None = None, free: float | None = None) -> CostEstimate:
    """Estimate what the sweep costs from the start.

    Args:
        packs: number of packs at a time.
        record: has the ended trials, whose pace the others follow, and the sweep's micro-batches.
        free: main memory that the packs share, in bytes; None if it is not known.

    Raises:
        UserError: values that make no valid trial; a base model with which not even one row fits into memory.
    """
    sizes = sizes_of(sweep)
    share = None if free is None else (free - shared_bytes(sizes)) / (packs * sweep.execution.num_workers)
    gpu = memory_of_gpus() if sweep.on_gpu else None
    room = room_of(sweep, share, gpu)
    fit = settle(sweep, sizes, room, record)
    forecasts = {case.case.label: forecast_of(case, sweep, fit) for case in sizes}
    asked = {case.label: _asked(sweep, case) for case in sweep.cases}
    arms = []
    for planned in planned_arms(sweep):
        trials, forecast = planned.trials, forecasts[planned.case.label]
        seconds = sum(forecast.seconds(trial).total for trial in trials)
        of_arm = -(-len(trials) // fit.members(sweep.trials_per_pack))
        outcomes = [each for each in planned.outcomes(record) if each.trial.seed in sweep.seed_values] if record else []
        took = [end.cost.seconds / packs for end in outcomes if end.cost.seconds > 0 or end.status == "finished"]
        size = (
            len(planned.configurations),
            len(trials),
            of_arm,
            sum(_training_tokens(forecast, each) for each in trials),
        )
        knobs = _budget_knobs(trials)
        wall = (seconds + of_arm * PACK_SECONDS) / packs
        arms.append(ArmEstimate(planned.case.label, planned.title, *size, wall, len(outcomes), tuple(took), knobs))
    models = [case.setting.base_model for case in sweep.cases]
    return CostEstimate(
        _at_measured_pace(arms),
        packs,
        max(worker_bytes(sweep, case, fit, room.on_gpu) for case in sizes),
        0.0 if room.on_gpu else shared_bytes(sizes),
        tuple(dict.fromkeys(forecast.assumed for forecast in forecasts.values() if forecast.assumed)),
        sum(forecast.once(asked[label]) for label, forecast in forecasts.items()) + _base_seconds(forecasts.values()),
        fit,
        describe(sweep, sizes, fit, room),
        sum(forecast.prefix_bytes(asked[label]) for label, forecast in forecasts.items()),
        cache_usage()["prefixes"],
        _what_fits(sweep, SweepForecast(sweep, forecasts, 0.0, packs), record) if sweep.budget else None,
        gpu is None and sweep.on_gpu and any(not isinstance(each, NanoModel) for each in models),
    )


def _what_fits(sweep: Sweep, forecast: SweepForecast, record: LedgerState | None) -> BudgetPlan:
    state = record or LedgerState(sweep.name, sweep.identity())
    return what_fits(sweep, PacedForecast.of(sweep, forecast), state)


def _asked(sweep: Sweep, case: Case) -> list[TrialConfig]:
    """Return the trials of each configuration of a setting whose layers are known."""
    options = [(arm, values) for arm in case.arms for values in arm.space.every_option()]
    return [trial for arm, values in options for trial in sweep.trials_of(arm, values)]


def _base_seconds(forecasts: Iterable[CaseForecast]) -> float:
    """Return how long it takes until workers have the base models, each once for all settings that start from it."""
    by_model = {content_id(forecast.case.setting.base_model.to_json()): forecast for forecast in forecasts}
    return sum(forecast.base_seconds for forecast in by_model.values())


def _training_tokens(forecast: CaseForecast, trial: TrialConfig) -> float:
    """Return the tokens that a trial trains on; 0 for a readout."""
    if trial.is_readout:
        return 0.0
    method, tokens = trial.method, forecast.tokens
    return trial.updates * sum(
        method.rows_per_step(stream, trial.sizes) * tokens.trained(method, stream).total for stream in method.streams
    )


def _budget_knobs(trials: Sequence[TrialConfig]) -> tuple[str, ...]:
    """Return the knobs in which trials differ and that change how many rows a training reads."""
    return tuple(name for name in BUDGET_KNOBS if len({getattr(trial.full_training, name) for trial in trials}) > 1)


def _at_measured_pace(arms: Sequence[ArmEstimate]) -> tuple[ArmEstimate, ...]:
    """Correct each arm's seconds by its ended trials; an arm without any is scaled as the others are."""
    timed = [replace(arm, seconds=fmean(arm.took) * arm.trials) if arm.took else arm for arm in arms]
    measured = sum(arm.seconds for arm in timed if arm.took)
    estimated = sum(arm.seconds for arm in arms if arm.took)
    factor = measured / estimated if measured else 1.0
    return tuple(arm if arm.took else replace(arm, seconds=arm.seconds * factor) for arm in timed)
