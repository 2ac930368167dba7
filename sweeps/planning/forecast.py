"""How long the trials of a sweep will take on this machine if nothing else runs on it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from settings.base_models import BaseModel, NanoModel, TunedModel
from settings.setting import Stream
from sweeps.case import Case
from sweeps.ledger import Fit
from sweeps.planning.fit import CaseSizes
from sweeps.planning.planned import planned_arms
from sweeps.planning.speed import Speed, measure
from sweeps.planning.tokens import CaseTokens, Lengths, rows_key
from sweeps.planning.work import (
    REPLIES_PER_BATCH,
    TrialWork,
    Work,
    evaluation_work,
    outputs_work,
    own_replies_work,
    pass_work,
    prefix_tokens,
    prefix_work,
    training_work,
    trial_work,
)
from sweeps.sweep import Sweep
from trainables.engine.memory import FLOAT, ModelShape
from trainables.interface.preparation import Pass
from trainables.trial import TrialConfig

LOAD_BYTES_PER_SECOND = 3e8  # to hash, map and try out a base model's weights
PACK_SECONDS = 0.3  # for any pack: to hand it out, and to write its results


@dataclass(frozen=True)
class TrialSeconds:
    """How long one trial takes, as its share of a pack, or a whole pack.

    Attributes:
        training: seconds of all updates.
        scoring: evaluation -> seconds of its observations.
    """

    training: float
    scoring: Mapping[str, float]

    @property
    def total(self) -> float:
        """Training and scoring."""
        return self.training + sum(self.scoring.values())


@dataclass(frozen=True)
class CaseForecast:
    """How long trials on one setting take.

    Attributes:
        case: the setting.
        shape: shape of its base model.
        assumed: the base model's name if it is not on this machine, so that the shape is that of Qwen3-8B.
        tokens: tokens of its rows.
        speed: speed of this machine for the base model's sizes.
        members: trials in a full pack.
        rows_per_forward: its micro-batches.
        cached: whether the base model's outputs on rows are kept.
        teaching: the trial that first teaches the base model what it must know; None if nothing is left to teach.
    """

    case: Case
    shape: ModelShape
    assumed: str
    tokens: CaseTokens
    speed: Speed
    members: int
    rows_per_forward: int | None
    cached: bool
    teaching: TrialConfig | None = None

    def work(self, trial: TrialConfig) -> TrialWork:
        """Return the work of a trial in a full pack."""
        setting, rows = self.case.setting, self.rows_per_forward
        work = trial_work(self.shape, setting, trial, self.tokens, self.members, rows, self.cached)
        again = [self._pass_work(trial, each) for each in trial.method.passes if not self._is_kept(trial, each)]
        return replace(work, training=sum(again, start=work.training))

    def seconds(self, trial: TrialConfig) -> TrialSeconds:
        """Return how long a trial takes."""
        if trial.trial_id not in self._seconds:
            work = self.work(trial)
            scoring = {name: self.speed.seconds(of_rows) for name, of_rows in work.scoring.items()}
            self._seconds[trial.trial_id] = TrialSeconds(self.speed.seconds(work.training), scoring)
        return self._seconds[trial.trial_id]

    @cached_property
    def _seconds(self) -> dict[str, TrialSeconds]:
        return {}

    def reference_work(self, trials: Sequence[TrialConfig]) -> Work:
        """Return the work of the base model's reference outputs, computed once for all trials."""
        needed: dict[Hashable, Work] = {
            (rows_key(trial, stream), stream in trial.method.layers): outputs_work(
                self.shape, len(self.case.setting.streams[stream]), self._trained(trial, stream)
            )
            for trial in (trials if self.cached else ())
            if not trial.is_readout
            for stream in trial.method.reference
        }
        return sum(needed.values(), start=Work())

    def passes_work(self, trials: Sequence[TrialConfig]) -> Work:
        """Return the work of the cached passes by which methods prepare: each once for all trials.

        A pass with a prior's adapter is computed once per prior, and gradients once per initial adapter.
        """
        needed: dict[Hashable, Work] = {}
        for trial in (each for asking in trials for each in (asking, *asking.built_on)):
            for asked in trial.method.passes:
                if self._is_kept(trial, asked):
                    read = rows_key(trial, asked.stream)
                    needed[asked.kind, read, _adapter_key(trial, asked)] = self._pass_work(trial, asked)
        return sum(needed.values(), start=Work())

    def _pass_work(self, trial: TrialConfig, asked: Pass) -> Work:
        return pass_work(self.shape, self.case.setting, trial, asked, self.tokens)

    def _is_kept(self, trial: TrialConfig, asked: Pass) -> bool:
        return self.cached and trial.method.positions(asked.stream) in ("response", "text")

    def own_replies_seconds(self, trials: Sequence[TrialConfig]) -> float:
        """Return how long the base model takes to write the replies that methods train on: once, or once per seed."""
        needed = {
            (stream, how.temperature, trial.seed if how.temperature > 0 else None)
            for trial in trials
            if not trial.is_readout
            for stream in trial.method.streams
            if (how := trial.method.rewriting(stream)) and how.own_replies
        }
        setting, tokens = self.case.setting, self.tokens
        works = [own_replies_work(self.shape, setting, stream, tokens) for stream, *_ in needed]
        return sum(map(self.speed.seconds, works))

    def prefix_tokens(self, trials: Sequence[TrialConfig]) -> dict[int, float]:
        """Return lowest adapted layer -> the number of tokens whose states below it are kept."""
        rows: dict[int, dict[Hashable, tuple[Stream, Lengths]]] = {}
        for trial in trials if self.cached else ():
            first = self.shape.layers - self.shape.upper_part([trial.adapter]).layers
            if first:
                read = {rows_key(trial, each): (each, self._trained(trial, each)) for each in trial.method.streams}
                rows.setdefault(first, {}).update(read)
        return {first: prefix_tokens(self.case.setting, read.values(), self.tokens) for first, read in rows.items()}

    def _trained(self, trial: TrialConfig, stream: Stream) -> Lengths:
        return self.tokens.trained(trial.method, stream)

    def prefix_bytes(self, trials: Sequence[TrialConfig]) -> float:
        """Return the size of the cached states below the lowest adapted layers."""
        return sum(self.prefix_tokens(trials).values()) * self.shape.width * FLOAT

    def once(self, trials: Sequence[TrialConfig]) -> float:
        """Return how long the shared work takes: scoring the base model, and computing cached outputs and passes."""
        questions = [(each, self.tokens.questions[each.name]) for each in self.case.observed_here]
        begun = self.shape.upper_part([trial.adapter for trial in trials]) if self.cached and trials else self.shape
        scoring = [evaluation_work(self.shape, each, lengths, upper=begun) for each, lengths in questions]
        seconds = sum(self.speed.seconds(work) for work in scoring)
        length = self.tokens.streams["task"].total
        below = [prefix_work(self.shape, first, number, length) for first, number in self.prefix_tokens(trials).items()]
        seconds += sum(self.speed.seconds(work) for work in below)
        kept = self.reference_work(trials) + self.passes_work(trials)
        return seconds + self.speed.seconds(kept) + self.own_replies_seconds(trials)

    @property
    def base_seconds(self) -> float:
        """How long a worker takes to get the base model: to teach it, if the cache lacks it, and to load it."""
        return self.teaching_seconds + self.shape.weight_bytes(FLOAT) / LOAD_BYTES_PER_SECOND

    @property
    def teaching_seconds(self) -> float:
        """How long it takes to teach the base model first, by one worker while the others wait."""
        model, lengths = self.case.setting.base_model, self.tokens.taught
        if self.teaching is None or lengths is None or not isinstance(model, TunedModel):
            return 0.0
        first = self.shape.layers - self.shape.upper_part([self.teaching.adapter]).layers
        below = prefix_work(self.shape, first, len(model.rows) * lengths.total, lengths.total)
        return self.speed.seconds(training_work(self.shape, self.teaching, CaseTokens({"task": lengths}, {})) + below)


@dataclass(frozen=True)
class SweepForecast:
    """How long the trials of a sweep take.

    Attributes:
        sweep: the sweep.
        cases: setting label -> forecast of its trials.
        total: seconds of all trials, one after the other.
        workers: packs at a time.
    """

    sweep: Sweep
    cases: Mapping[str, CaseForecast]
    total: float
    workers: int

    @staticmethod
    def of(sweep: Sweep, sizes: Sequence[CaseSizes], fit: Fit, workers: int) -> SweepForecast:
        """Forecast a sweep on this machine."""
        cases = {each.case.label: forecast_of(each, sweep, fit) for each in sizes}
        planned = planned_arms(sweep)
        total = sum(cases[arm.case.label].seconds(trial).total for arm in planned for trial in arm.trials)
        return SweepForecast(sweep, cases, total, workers)

    def trial(self, trial: TrialConfig) -> TrialSeconds:
        """Return how long a trial takes."""
        return self.cases[self.sweep.case_of(trial.setting).label].seconds(trial)

    def pack(self, trials: Sequence[TrialConfig]) -> TrialSeconds:
        """Return how long trials take as one pack."""
        each = [self.trial(trial) for trial in trials]
        scoring = {name: sum(seconds.scoring[name] for seconds in each) for name in each[0].scoring}
        return TrialSeconds(sum(seconds.training for seconds in each), scoring)


def _adapter_key(trial: TrialConfig, asked: Pass) -> Hashable:
    """Return what distinguishes the adapter of a pass from others; None is the base model."""
    if asked.prior is not None:
        return trial.priors[asked.prior].trial_id
    if asked.kind != "squared_gradients":
        return None
    beneath = trial.priors[0].trial_id if trial.num_beneath else ""
    return trial.adapter, trial.adapter_seed, beneath


def forecast_of(sizes: CaseSizes, sweep: Sweep, fit: Fit) -> CaseForecast:
    """Forecast how long trials of a case take, each in a full pack.

    Args:
        fit: micro-batches and trials per pack.
    """
    case, shape, tokens = sizes.case, sizes.shape, sizes.tokens
    model, execution = case.setting.base_model, sweep.execution
    members = fit.members(sweep.trials_per_pack)
    rows = case.template.batch_size * members
    sent = min(rows, fit.rows_per_forward or rows)
    questions = max(len(each.examples) for each in case.setting.evaluations)
    replying = min(REPLIES_PER_BATCH, questions * members)
    speed = measure(
        shape,
        sent * tokens.streams["task"].total,
        replying,
        execution.threads,
        on_gpu=execution.gpus_per_pack > 0 and not isinstance(model, NanoModel),
    )
    assumed = "" if sizes.known else model.to_json().get("source", case.setting.name)
    return CaseForecast(
        case,
        shape,
        assumed,
        tokens,
        speed,
        members,
        fit.rows_per_forward,
        execution.cache_references,
        _teaching(model, execution.gpus_per_pack > 0),
    )


def _teaching(model: BaseModel, on_gpu: bool) -> TrialConfig | None:
    """Return the trial that teaches a base model; None if there is none, or the cache has its result."""
    if not isinstance(model, TunedModel):
        return None
    from trainables.bases.tuned_models import is_tuned, teaching_of  # these import transformers and PEFT

    return None if is_tuned(model, torch.bfloat16 if on_gpu else torch.float32) else teaching_of(model)[1]
