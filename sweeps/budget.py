"""A sweep's limits and its spending: GPU or core hours, training tokens, dollars. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from settings.common import checks
from settings.common.declarations import Declaration
from settings.common.errors import UserError

SECONDS_PER_HOUR = 3600.0
ROUNDING = 1e-9  # relative to a limit: ten trials of 0.1 hours fit one hour


@dataclass(frozen=True)
class Spending:
    """What trials, or all starts of a sweep, take.

    Attributes:
        gpu_hours, core_hours: GPUs and CPU cores that packs occupy, times the hours they occupy them.
        tokens: sent through the model in training, padding excluded, reference passes included.
        judge_dollars: what judges charge, by the prices of `JudgeOptions`.
    """

    gpu_hours: float = 0.0
    core_hours: float = 0.0
    tokens: float = 0.0
    judge_dollars: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @staticmethod
    def total(parts: Iterable[Spending]) -> Spending:
        """Return the sum."""
        return sum(parts, start=Spending())

    def hours(self, on_gpu: bool) -> float:
        """Return GPU hours where packs occupy GPUs, else core hours."""
        return self.gpu_hours if on_gpu else self.core_hours


@dataclass(frozen=True, kw_only=True)
class Budget(Declaration, within="budget"):
    """Limits for all starts of a sweep together. Not part of its identity: it may continue with another budget.

    The search asks for no configuration that would exceed a limit, by the forecast and the pace of the trials that have
    ended; running packs finish. Methods take turns, so that all are searched equally densely when it stops.

    Attributes:
        hours: GPU hours as clusters bill them: `gpus_per_pack` times the wall time from when a pack is handed to Ray
            until it ends, summed over packs (one that waits for a free slot counts); core hours by `cpus_per_pack`
            where packs occupy no GPU. Starting a worker, and loading and scoring the base model, count; preparing the
            base model before workers start does not.
        tokens: training tokens, as in the table of `selgen sweep plan`, with those of the frozen reference. Only trials
            that ended with a result count, since what a crash took is not known.
        dollars: what judges charge, and `dollars_per_gpu_hour` for each GPU hour.
        dollars_per_gpu_hour: the price of one GPU for an hour; None means free.
    """

    hours: float | None = None
    tokens: float | None = None
    dollars: float | None = None
    dollars_per_gpu_hour: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) is not None:
                checks.number(f"budget: {item.name}", getattr(self, item.name), above=0)
        if self.hours is None and self.tokens is None and self.dollars is None:
            raise UserError("budget must limit at least one of hours, tokens and dollars")

    def check(self, on_gpu: bool, judged: bool) -> None:
        """Refuse a limit in dollars if nothing costs any. Raise UserError.

        Args:
            on_gpu: whether packs occupy GPUs.
            judged: whether a judge grades any evaluation.
        """
        if self.dollars is not None and not judged and not (on_gpu and self.dollars_per_gpu_hour):
            lacks = "packs occupy no GPU" if self.dollars_per_gpu_hour else "dollars_per_gpu_hour is not given"
            raise UserError(f"budget: dollars limits nothing: no evaluation has a judge, and {lacks}")

    def exceeded(self, spending: Spending, on_gpu: bool) -> list[str]:
        """Return the units of the limits that a spending exceeds."""
        amounts = amounts_of(spending, self, on_gpu)
        return [each.unit for each in amounts if each.most is not None and each.value > each.most * (1 + ROUNDING)]


@dataclass(frozen=True)
class Amount:
    """A part of a spending, e.g. 3.2 of 20 GPU hours; `most` is None if nothing limits it."""

    value: float
    unit: str
    most: float | None = None

    @property
    def text(self) -> str:
        """The amount in words."""
        limit = "" if self.most is None else f" of {_number(self.most, self.unit)}"
        return f"{_number(self.value, self.unit)}{limit}{'' if self.unit == 'dollars' else f' {self.unit}'}"


def amounts_of(spending: Spending, budget: Budget | None, on_gpu: bool) -> list[Amount]:
    """Return hours, tokens and, if anything costs or limits them, dollars."""
    hours, tokens, most_dollars, price = astuple(budget) if budget else (None,) * 4
    dollars = spending.judge_dollars + spending.gpu_hours * (price or 0.0)
    amounts = [
        Amount(spending.hours(on_gpu), "GPU hours" if on_gpu else "core hours", hours),
        Amount(spending.tokens, "tokens", tokens),
    ]
    return [*amounts, Amount(dollars, "dollars", most_dollars)] if dollars or most_dollars else amounts


def spending_text(spending: Spending, budget: Budget | None, on_gpu: bool) -> str:
    """Say what was spent, with the limits, e.g. "3.2 of 20 GPU hours, 1,204,000 tokens, $1.10 of $10.00"."""
    return ", ".join(amount.text for amount in amounts_of(spending, budget, on_gpu))


def _number(value: float, unit: str) -> str:
    if unit == "tokens":
        return f"{value:,.0f}"
    if unit == "dollars":
        return f"${value:,.2f}" if value >= 0.1 or not value else f"${value:.2g}"
    return f"{value:.2g}" if value < 1 else f"{value:,.4g}"
