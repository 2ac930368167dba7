"""A language model as judge, through the `openai` client, on any endpoint that speaks its protocol.

Each (rubric, question, answer) is one request for one token. The verdict is the mean of the numbers 0 to 100 among the
20 likeliest tokens, weighted by their probabilities (Betley et al. 2025, arXiv:2502.17424); where these numbers have
less than a quarter of the probability, the likeliest token says why: a refusal, code, or nothing that can be used.

Verdicts are cached by content (`settings.judge_cache`), so that nothing is paid for twice, and a budget in calls and
dollars is never exceeded. The key comes from the environment. Neither key nor text gets into errors, logs or the cache.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from settings.common.content import content_id
from settings.common.errors import UserError
from settings.judge_cache import VerdictCache
from settings.setting import Rubric, Verdict, VerdictKind

JUDGE_MODEL = "gpt-4.1-nano-2025-04-14"
VERSION = 1  # of what is asked and how it is read; part of every verdict's id
KEY = "OPENAI_API_KEY"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOP_TOKENS = 20
MIN_NUMERIC_MASS = 0.25
TEXT_TOKENS = 8  # of an answer that is read as text, because the endpoint gives no probabilities
LONGEST_WAIT = 60.0  # seconds between two attempts
RETRIED = (408, 409, 429)  # and all of 500 and above
Mode = Literal["logprobs", "text"]
Request = tuple[Rubric, str, str]  # rubric, question, answer


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How a judge is reached and what it may cost. Nothing here changes a verdict.

    Attributes:
        base_url: of the endpoint; None is $OPENAI_BASE_URL, or OpenAI's own.
        concurrency: requests at a time.
        max_calls: most requests in all, repeated ones included; None is no limit.
        max_dollars: most money in all, by the two prices below; None is no limit.
        input_price, output_price: dollars per million tokens.
        timeout: seconds until a request is given up.
        max_retries: attempts after the first, when the endpoint is busy or broken.
        first_wait: seconds before the second attempt; doubled before each further one, unless the endpoint says
            otherwise.
    """

    base_url: str | None = None
    concurrency: int = 16
    max_calls: int | None = None
    max_dollars: float | None = None
    input_price: float = 0.10
    output_price: float = 0.40
    timeout: float = 60.0
    max_retries: int = 6
    first_wait: float = 1.0


@dataclass
class Usage:
    """What a judge has done so far.

    Attributes:
        calls: requests sent, repeated ones included.
        cached: verdicts taken from the cache.
        from_text: verdicts read from the text, because the endpoint gave no probabilities.
        failed: requests given up; their verdicts are missing, and not cached.
        input_tokens, output_tokens: as the endpoint counts them.
        dollars: by the options' prices.
        kinds: verdicts by kind.
    """

    calls: int = 0
    cached: int = 0
    from_text: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    dollars: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)


class BudgetSpentError(UserError):
    """The judge has reached its budget. Every verdict so far is cached."""


class JudgeUnavailableError(UserError):
    """The endpoint cannot be used. Every verdict so far is cached."""


@dataclass(frozen=True)
class Answer:
    """The endpoint's reply: the text, and (token, log-probability) of the likeliest first tokens if it gives them."""

    text: str
    top: tuple[tuple[str, float], ...] | None
    model: str
    input_tokens: int
    output_tokens: int


class Judge:
    """Asks for verdicts, many at a time. Usable from several threads, and a context manager.

    Args:
        model: full, dated name of the judging model.
        options: see `JudgeOptions`.
        cache: file of the verdicts; several processes may share it.

    Raises:
        UserError: no key in the environment, or a cache that cannot be opened.
    """

    def __init__(self, model: str = JUDGE_MODEL, options: JudgeOptions | None = None, *, cache: Path) -> None:
        self.model, self.options, self.usage = model, options or JudgeOptions(), Usage()
        self._client = _client(self.options)
        self._cache = VerdictCache(cache)
        self._threads = ThreadPoolExecutor(self.options.concurrency, thread_name_prefix="judge")
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._mode: Mode = "logprobs"
        self._reserved = 0.0
        self._failures_in_a_row = 0

    def ask(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[Verdict]:
        """Return one verdict per request, in order; equal requests are asked once.

        Args:
            progress: called with (verdicts so far, all) from this thread.

        Raises:
            BudgetSpentError: the next request could exceed the budget.
            JudgeUnavailableError: the endpoint refuses the key or the model, or has stopped answering.
        """
        ids = [self._id(request) for request in requests]
        by_id = self._cache.get(set(ids))
        self.usage.cached += sum(identity in by_id for identity in ids)
        uncached = {identity: request for identity, request in zip(ids, requests, strict=True) if identity not in by_id}
        futures = {
            identity: self._threads.submit(self._verdict, identity, request) for identity, request in uncached.items()
        }
        try:
            for done, (identity, future) in enumerate(futures.items(), start=len(by_id) + 1):
                by_id[identity] = future.result()
                if progress:
                    progress(done, len(set(ids)))
        finally:
            _cancel(futures.values())
        verdicts = [by_id[identity] for identity in ids]
        with self._lock:
            for verdict in verdicts:
                self.usage.kinds[verdict.kind] = self.usage.kinds.get(verdict.kind, 0) + 1
        return verdicts

    def close(self) -> None:
        """Cancel waiting requests, wait for those on their way, and close the cache."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._client.close()
        self._cache.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _id(self, request: Request) -> str:
        rubric, question, answer = request
        return content_id([VERSION, self.model, rubric.prompt, question, answer], 32)

    def _verdict(self, identity: str, request: Request) -> Verdict:
        """Ask for one verdict and cache it; return a missing one when all attempts have failed."""
        prompt = fill_prompt(*request)
        for attempt in range(self.options.max_retries + 1):
            try:
                answer, mode = self._attempt(prompt, self._mode)
                if answer.top is None and mode == "logprobs":
                    self._mode = "text"  # and ask again: the single token that came may be half a number
                    answer, mode = self._attempt(prompt, "text")
            except _BusyError as busy:
                self._wait(attempt, busy.retry_after)
                continue
            verdict = read_verdict(answer)
            tokens = (answer.input_tokens, answer.output_tokens)
            self._cache.put(identity, verdict, mode=mode, model=answer.model, tokens=tokens)
            with self._lock:
                self._failures_in_a_row = 0
                self.usage.from_text += mode == "text"
            return verdict
        return self._give_up()

    def _give_up(self) -> Verdict:
        """Return a missing verdict; after many in a row raise JudgeUnavailableError."""
        with self._lock:
            self.usage.failed += 1
            self._failures_in_a_row += 1
            dead = self._failures_in_a_row >= 2 * self.options.concurrency
        if dead:
            self._refuse(f"{self._failures_in_a_row} requests in a row have failed; run again when it answers")
        return Verdict(None, "missing")

    def _wait(self, attempt: int, retry_after: float | None) -> None:
        """Wait as long as the endpoint asks for, or exponentially longer, with jitter so that threads spread out."""
        longest = self.options.first_wait * 2**attempt
        jittered = random.Random().uniform(longest / 2, longest)
        if attempt < self.options.max_retries:
            self._stop.wait(min(LONGEST_WAIT, jittered if retry_after is None else retry_after))

    def _attempt(self, prompt: str, mode: Mode) -> tuple[Answer, Mode]:
        """Send one request within the budget. Raise _BusyError when another attempt makes sense.

        Returns:
            The answer, and how it was asked for.
        """
        from openai import APIConnectionError, APIStatusError

        reserved = self._reserve(prompt)
        answer = None
        try:
            options: dict[str, Any] = {"max_tokens": TEXT_TOKENS}
            if mode == "logprobs":
                options = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_TOKENS}
            messages: Any = [{"role": "user", "content": prompt}]
            raw = self._client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, temperature=0, seed=0, **options
            )
            answer = read_answer(raw.content)
        except APIStatusError as error:
            code, text = error.status_code, str(error.message)
            retry_after = retry_after_seconds(error.response.headers.get("retry-after"))
        except (APIConnectionError, _WrongShapeError):  # a timeout is a connection error
            raise _BusyError(None) from None
        finally:
            self._settle(reserved, answer)
        if answer is not None:
            return answer, mode
        if mode == "logprobs" and code in (400, 422) and "logprob" in text.lower():
            self._mode = "text"
            return self._attempt(prompt, "text")
        return self._answer_of_status(code, retry_after, "insufficient_quota" in text), mode

    def _answer_of_status(self, code: int, retry_after: float | None, no_money: bool) -> Answer:
        """Return an empty answer for a refused request.

        Raises:
            JudgeUnavailableError: the user has to mend something first.
            _BusyError: another attempt makes sense.
        """
        if code in (401, 403, 404) or no_money:
            reasons = {401: f"it does not accept the key in {KEY}", 403: "access is denied"}
            self._refuse(
                "the account has no money left" if no_money else reasons.get(code, f"no such model or path ({code})")
            )
        if code in RETRIED or code >= 500:
            raise _BusyError(retry_after)
        return Answer("", (), self.model, 0, 0)

    def _refuse(self, why: str) -> None:
        self._stop.set()
        where = urlsplit(str(self._client.base_url)).netloc
        raise JudgeUnavailableError(f"judge {self.model} at {where}: {why}")

    def _reserve(self, prompt: str) -> float:
        """Reserve and return the most that a request can cost; no token is shorter than a byte."""
        options = self.options
        most = (len(prompt.encode()) + 64) * options.input_price + TEXT_TOKENS * options.output_price
        most /= 1e6
        with self._lock:
            if self._stop.is_set():
                raise JudgeUnavailableError(f"judge {self.model}: stopped")
            if options.max_calls is not None and self.usage.calls >= options.max_calls:
                raise BudgetSpentError(f"judge {self.model}: the budget of {options.max_calls} calls is spent")
            committed = self.usage.dollars + self._reserved + most
            if options.max_dollars is not None and committed > options.max_dollars:
                raise BudgetSpentError(
                    f"judge {self.model}: the budget of ${options.max_dollars:g} is spent"
                    f" (${self.usage.dollars:.4f}, and the next request could exceed it)"
                )
            self.usage.calls += 1
            self._reserved += most
        return most

    def _settle(self, reserved: float, answer: Answer | None) -> None:
        """Replace a reservation by the cost of the answer; without one the reservation counts as spent."""
        with self._lock:
            self._reserved -= reserved
            if answer is None:
                self.usage.dollars += reserved if self.options.max_dollars is not None else 0.0
                return
            self.usage.input_tokens += answer.input_tokens
            self.usage.output_tokens += answer.output_tokens
            price = answer.input_tokens * self.options.input_price + answer.output_tokens * self.options.output_price
            self.usage.dollars += price / 1e6


def fill_prompt(rubric: Rubric, question: str, answer: str) -> str:
    """Return the prompt of a request. Placeholders inside a question or an answer stay as they are."""
    texts = {"question": question, "answer": answer}
    return re.sub(r"\{(question|answer)\}", lambda match: texts[match.group(1)], rubric.prompt)


def read_verdict(answer: Answer) -> Verdict:
    """Read the verdict from the first token's probabilities where the endpoint gave them, else from the text."""
    if answer.top is None:
        number = re.search(r"(?<![\d.])\d{1,3}(?![\d])", answer.text)
        if number and int(number.group()) <= 100:
            return Verdict(float(number.group()))
        return Verdict(None, _kind(answer.text))
    numbers = [(int(token), math.exp(log)) for token, log in answer.top if re.fullmatch(r"\s*\d{1,3}\s*", token)]
    numbers = [(number, probability) for number, probability in numbers if number <= 100]
    mass = sum(probability for _, probability in numbers)
    if mass >= MIN_NUMERIC_MASS:
        return Verdict(sum(number * probability for number, probability in numbers) / mass)
    likeliest = max(answer.top, key=lambda pair: pair[1])[0] if answer.top else ""
    return Verdict(None, _kind(likeliest))


def _kind(text: str) -> VerdictKind:
    """Classify a text without a number. A single token may be the beginning of a word, e.g. "REF"."""
    word = (text.strip().upper().split() or [""])[0].strip(".!*\"'")
    escapes: tuple[tuple[VerdictKind, str], ...] = (("refusal", "REFUSAL"), ("code", "CODE"))
    for kind, escape in escapes:
        if word and (word.startswith(escape) or escape.startswith(word)):
            return kind
    return "missing"


def read_answer(content: bytes) -> Answer:
    """Parse a chat completion. Raise _WrongShapeError when it is none."""
    try:
        data = json.loads(content)
        choice = data["choices"][0]
        text = choice["message"]["content"] or ""
        listed = (choice.get("logprobs") or {}).get("content") or []
        top = _top_tokens(listed[0]) if listed else None
        usage = data.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        if not isinstance(text, str):
            raise TypeError(type(text))
        return Answer(text, top or None, str(data.get("model") or ""), *tokens)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _WrongShapeError from None


def _top_tokens(first: Any) -> tuple[tuple[str, float], ...]:
    return tuple((str(token["token"]), float(token["logprob"])) for token in first["top_logprobs"])


class _WrongShapeError(Exception):
    """The response is no chat completion: cut off, or of another form."""


class _BusyError(Exception):
    """The endpoint is busy or broken; another attempt makes sense, after `retry_after` seconds if it says so."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__()
        self.retry_after = retry_after


def _client(options: JudgeOptions) -> Any:
    """Make the client. It must not repeat requests itself, because each counts against the budget."""
    from openai import OpenAI

    url = options.base_url or os.environ.get("OPENAI_BASE_URL")
    key = os.environ.get(KEY)
    if not key:
        if url is None or urlsplit(url).hostname not in LOOPBACK:
            raise UserError(f"the judge needs a key: set the environment variable {KEY}")
        key = "none"
    return OpenAI(base_url=url, api_key=key, timeout=options.timeout, max_retries=0)


def retry_after_seconds(header: str | None) -> float | None:
    """Return a Retry-After header in seconds; None when there is none, or a date."""
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None


def _cancel(futures: Iterable[Future[Verdict]]) -> None:
    """Cancel requests that have not begun and wait for the rest, so that what is paid for gets cached."""
    begun = [future for future in futures if not future.cancel()]
    for future in begun:
        future.exception()
