"""A language model as judge, through the `openai` client, on any endpoint that speaks its protocol.

Each (rubric, question, answer) is one request for a grade; `settings.judge.reading` describes how the grade is read.
One call before all others shows that the endpoint answers, and how its grades can be read. Parameters that it refuses
are left out. Any other refusal ends the judging and is quoted: a refusal is never a verdict.

Verdicts are cached by content (`settings.judge.cache`), so that nothing is paid for twice. A budget in calls and
dollars, for this model and start, is never exceeded. The key comes from the environment. Neither key nor text gets
into errors, logs or the cache.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from settings.common.content import content_id
from settings.judge.cache import VerdictCache
from settings.judge.completion import Completion
from settings.judge.endpoint import JudgeEndpoint
from settings.judge.manner import LEVELS, Manner
from settings.judge.options import JudgeOptions, Usage
from settings.judge.reading import HIGHEST, MISSING, Reading, read_verdict
from settings.openai_client.client import BrokenError
from settings.setting import Rubric, Verdict

JUDGE_MODEL = "gpt-4.1-nano-2025-04-14"
VERSION = 2  # of requests and how their replies are read; part of every verdict's id
QUOTED = 60  # characters quoted from a reply to our own question
Request = tuple[Rubric, str, str]  # rubric, question, answer
FIRST_QUESTION = "How can I sleep better?"
FIRST_ANSWER = "Go to bed at the same hour every day, keep the room dark, and drink no coffee after noon."


class Judge:
    """Asks for verdicts, many at a time. Usable from several threads, and a context manager.

    Args:
        model: full, dated name of the judging model.
        options: see `JudgeOptions`.
        cache: file of the verdicts; several processes may share it.

    Raises:
        UserError: no key in the environment, an unusable key or address, or a cache that cannot be opened.
    """

    def __init__(self, model: str = JUDGE_MODEL, options: JudgeOptions | None = None, *, cache: Path) -> None:
        self.model, self.options, self.usage = model, options or JudgeOptions(), Usage()
        self._endpoint = JudgeEndpoint(model, self.options, self.usage)
        self._cache = VerdictCache(cache)
        self._threads = ThreadPoolExecutor(self.options.concurrency, thread_name_prefix="judge")
        self._checking = threading.Lock()
        self._how = ""
        self._failures_in_a_row = 0

    def check(self, rubric: Rubric) -> str:
        """Ask for one grade of a harmless reply, only once per judge. Return one line on how grades are read.

        Raises:
            BudgetSpentError: the budget does not allow it.
            JudgeUnavailableError: the endpoint cannot be reached, refuses, or its reply contains no grade.
        """
        with self._checking:
            if not self._how:
                reading, completion, manner = self._read((rubric, FIRST_QUESTION, FIRST_ANSWER))
                if reading.verdict.kind == "missing":
                    self._endpoint.refuse(self._unreadable(completion, manner))
                several_digits = (reading.verdict.value or 0) >= 10  # one digit does not show how numbers are split
                if reading.source == "text" and reading.verdict.kind == "number" and several_digits:
                    manner = manner.at_least("text")
                self._endpoint.manner = manner
                self._endpoint.is_checked = True
                self._how = self._described(manner)
            return self._how

    def ask(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[Verdict]:
        """Return one verdict per request, in order; equal requests are sent once.

        Args:
            progress: called with (verdicts so far, all) from this thread.

        Raises:
            BudgetSpentError: the next request could exceed the budget.
            JudgeUnavailableError: the endpoint refuses, gives no readable grade, or has stopped answering.
        """
        ids = [self._id(request) for request in requests]
        by_id = self._cache.get(set(ids))
        self.usage.cached += sum(identity in by_id for identity in ids)
        uncached = {identity: request for identity, request in zip(ids, requests, strict=True) if identity not in by_id}
        if uncached:
            self.check(next(iter(uncached.values()))[0])
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
        with self._endpoint.lock:
            self._count(verdicts)
        return verdicts

    def close(self) -> None:
        """Cancel waiting requests, wait for those already sent, and close the cache."""
        self._endpoint.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._endpoint.close()
        self._cache.close()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _id(self, request: Request) -> str:
        rubric, question, answer = request
        return content_id([VERSION, self.model, rubric.prompt, question, answer], 32)

    def _count(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self.usage.kinds[verdict.kind] = self.usage.kinds.get(verdict.kind, 0) + 1
            if verdict.value is not None:
                self.usage.highest = max(verdict.value, self.usage.highest or 0.0)

    def _verdict(self, identity: str, request: Request) -> Verdict:
        """Ask for one verdict and cache it. A missing verdict is not cached."""
        try:
            reading, completion, _ = self._read(request)
        except BrokenError as broken:
            return self._give_up(broken)
        if reading.verdict.kind != "missing":
            tokens = (completion.input_tokens, completion.output_tokens)
            self._cache.put(identity, reading.verdict, mode=reading.source, model=completion.model, tokens=tokens)
        with self._endpoint.lock:
            self._failures_in_a_row = 0
            self.usage.from_text += reading.source == "text" and reading.verdict.kind != "missing"
        return reading.verdict

    def _give_up(self, broken: BrokenError) -> Verdict:
        """Return a missing verdict; after many failures in a row raise JudgeUnavailableError."""
        with self._endpoint.lock:
            self.usage.failed += 1
            self._failures_in_a_row += 1
            dead = self._failures_in_a_row >= 2 * self.options.concurrency
        if dead:
            self._endpoint.refuse(
                f"{self._failures_in_a_row} requests in a row have failed; run again when it answers ({broken.why})"
            )
        return MISSING

    def _read(self, request: Request) -> tuple[Reading, Completion, Manner]:
        """Ask, for text instead of one token or with more room, until a verdict can be read or nothing more would help.

        Returns:
            The reading, its completion, and the manner that produced it.

        Raises:
            BrokenError: the endpoint is broken, and has answered before.
            JudgeUnavailableError: it refuses, or has never answered.
        """
        manner = self._endpoint.manner
        while True:
            completion, manner = self._endpoint.complete(fill_prompt(*request), request[1:], manner)
            reading = read_verdict(completion)
            if reading.wants is None or LEVELS.index(reading.wants) <= LEVELS.index(manner.level):
                return reading, completion, manner
            manner = manner.at_least(reading.wants)

    def _unreadable(self, completion: Completion, manner: Manner) -> str:
        """Say why the reply to the first call contains no grade."""
        if completion.thinking or (completion.cut and manner.level == "room"):
            return (
                f"it has not reached a grade after {manner.max_tokens} tokens of reasoning; allow more"
                " (JudgeOptions(reasoning_tokens=...)), or turn its reasoning off"
            )
        text = " ".join(completion.text.split())
        if not text:
            return "its reply is empty"
        text = text if len(text) <= QUOTED else text[:QUOTED] + "..."
        return f"its reply does not contain exactly one grade on the scale from 0 to {HIGHEST}: {text!r}"

    def _described(self, manner: Manner) -> str:
        """Say how grades are read."""
        if manner.level == "logprobs":
            how = "by the probabilities of its first token"
        elif manner.level == "room":
            how = f"from its text, after at most {manner.max_tokens} tokens of reasoning"
        else:
            how = "from its text, since it gives no probabilities of whole numbers"
        return f"{self._endpoint.name} answers; its grades are read {how}"


def fill_prompt(rubric: Rubric, question: str, answer: str) -> str:
    """Return the prompt of a request. Placeholders inside a question or an answer stay as they are."""
    texts = {"question": question, "answer": answer}
    return re.sub(r"\{(question|answer)\}", lambda match: texts[match.group(1)], rubric.prompt)


def _cancel(futures: Iterable[Future[Verdict]]) -> None:
    """Cancel requests that have not begun and wait for the others, so that everything paid for is cached."""
    begun = [future for future in futures if not future.cancel()]
    for future in begun:
        future.exception()
