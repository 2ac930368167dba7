"""How to reach a judge, what it may cost, and what it has cost so far."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from settings.common.errors import UserError
from settings.judge.completion import Completion
from settings.openai_client.client import UnavailableError


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How to reach a judge, and what it may cost. Nothing here changes a verdict.

    Attributes:
        base_url: address of the endpoint; None means $OPENAI_BASE_URL, or OpenAI's own.
        concurrency: number of simultaneous requests.
        max_calls: maximal number of requests to one judging model in one start, repeated ones included; None means no
            limit.
        max_dollars: maximal cost of one judging model in one start, by the two prices below; None means no limit.
        input_price, output_price: dollars per million tokens.
        timeout: seconds until a request is abandoned; five times as long if the judge reasons first.
        reasoning_tokens: token limit for a judge that reasons before it grades.
        max_retries: attempts after the first, if the endpoint is busy or broken.
        first_wait: seconds before the second attempt, doubled before each further one, unless the endpoint says
            otherwise.
    """

    base_url: str | None = None
    concurrency: int = 16
    max_calls: int | None = None
    max_dollars: float | None = None
    input_price: float = 0.10
    output_price: float = 0.40
    timeout: float = 60.0
    reasoning_tokens: int = 4096
    max_retries: int = 6
    first_wait: float = 1.0


@dataclass
class Usage:
    """What a judge has done so far.

    Attributes:
        calls: requests sent, repeated ones included.
        cached: verdicts taken from the cache.
        from_text: verdicts read from the text, because one token's probabilities do not give the grade.
        failed: requests abandoned because the endpoint was broken; their verdicts are missing, and not cached.
        input_tokens, output_tokens: as counted by the endpoint.
        dollars: cost by the options' prices.
        kinds: number of verdicts by kind.
        highest: the highest number among the verdicts; None before the first.
    """

    calls: int = 0
    cached: int = 0
    from_text: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)
    highest: float | None = None


class BudgetSpentError(UserError):
    """The judge has reached its budget. Every verdict so far is cached."""


class JudgeUnavailableError(UnavailableError):
    """The endpoint cannot be used. Every verdict so far is cached."""


class Budget:
    """Counts requests and their cost, and refuses any that could exceed the limits. Usable from several threads.

    Args:
        judge: the judge's name, for messages.
        options: the limits and prices.
        usage: counters to update.
        lock: held while `usage` changes.
    """

    def __init__(self, judge: str, options: JudgeOptions, usage: Usage, lock: threading.Lock) -> None:
        self._judge, self._options, self._usage, self._lock = judge, options, usage, lock
        self._reserved = 0.0

    def reserve(self, prompt: str, max_tokens: int) -> float:
        """Reserve and return the maximal cost of a request, given that no token is shorter than a byte.

        Raise BudgetSpentError.
        """
        options, usage = self._options, self._usage
        most = ((len(prompt.encode()) + 64) * options.input_price + max_tokens * options.output_price) / 1e6
        with self._lock:
            if options.max_calls is not None and usage.calls >= options.max_calls:
                raise BudgetSpentError(f"judge {self._judge}: the budget of {options.max_calls} calls is spent")
            committed = usage.dollars + self._reserved + most
            if options.max_dollars is not None and committed > options.max_dollars:
                raise BudgetSpentError(
                    f"judge {self._judge}: the budget of ${options.max_dollars:g} is spent"
                    f" (${usage.dollars:.4f}, and the next request could exceed it)"
                )
            usage.calls += 1
            self._reserved += most
        return most

    def settle(self, reserved: float, completion: Completion | None) -> None:
        """Replace a reservation by the cost of the completion; if that is unknown, the reservation counts as spent."""
        options, usage = self._options, self._usage
        with self._lock:
            self._reserved -= reserved
            if completion is None or not completion.input_tokens:
                usage.dollars += reserved if options.max_dollars is not None else 0.0
                return
            usage.input_tokens += completion.input_tokens
            usage.output_tokens += completion.output_tokens
            price = completion.input_tokens * options.input_price + completion.output_tokens * options.output_price
            usage.dollars += price / 1e6
