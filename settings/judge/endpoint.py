"""An endpoint that speaks OpenAI's protocol: requests within a budget, attempts, and what its refusals mean."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

from settings.common.addresses import without_user
from settings.judge.completion import Completion, NoCompletionError, read_completion
from settings.judge.connection import connection_cause, may_pass, open_client
from settings.judge.manner import Manner
from settings.judge.options import Budget, JudgeOptions, JudgeUnavailableError, Usage
from settings.judge.refusals import cause, discreet, is_passing, retry_after_seconds, words_of

LONGEST_WAIT = 60.0  # seconds between two attempts
ADAPTABLE = (400, 422, 501)  # an endpoint that does not take a parameter says so with one of these
BROKEN_AT_FIRST = 2  # further attempts when the very first connection breaks
REASONING_TIMEOUT = 5  # times as long as for a grade alone


class Endpoint:
    """Sends requests of one model. Usable from several threads.

    Args:
        model: the model's name.
        options: see `JudgeOptions`.
        usage: what is counted up.

    Attributes:
        lock: held while `usage` changes.
        manner: how requests are made, as far as is known.
        is_checked: whether the endpoint has answered; before, whatever lasts ends the judging at once.

    Raises:
        UserError: no key in the environment, or a key or address that cannot be used.
    """

    def __init__(self, model: str, options: JudgeOptions, usage: Usage) -> None:
        self.lock = threading.Lock()
        self.manner = Manner(room=options.reasoning_tokens)
        self.is_checked = False
        self._model, self._options = model, options
        self._client = open_client(options.base_url, options.timeout)
        self._budget = Budget(model, options, usage, self.lock)
        self._stop, self._why_stopped = threading.Event(), f"judge {model}: stopped"

    @property
    def name(self) -> str:
        """The model and where it is asked."""
        return f"judge {self._model} at {urlsplit(without_user(str(self._client.base_url))).netloc}"

    def stop(self) -> None:
        """Send nothing from now on, and end all waiting."""
        self._stop.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def complete(self, prompt: str, texts: Sequence[str], manner: Manner) -> tuple[Completion, Manner]:
        """Send a prompt until it succeeds, without the parameters that the endpoint refuses.

        Args:
            texts: parts of the prompt that must not be seen in any message.

        Returns:
            The completion, and the manner that brought it.

        Raises:
            BudgetSpentError: the next request could exceed the budget.
            JudgeUnavailableError: the endpoint refuses, or has never answered.
            BrokenError: it is broken, and has answered before.
        """
        attempt = 0
        while True:
            try:
                return self._send(prompt, manner), manner
            except _RefusedError as refused:
                adapted = manner.adapted(refused.words) if refused.code in ADAPTABLE else None
                if adapted:
                    manner = self._adapt(manner, adapted)
                    continue
                self._refuse_unless_passing(refused, texts, attempt)
                retry_after = refused.retry_after
            except BrokenError as broken:
                last = attempt >= (self._options.max_retries if self.is_checked else BROKEN_AT_FIRST)
                if not self.is_checked and (last or not broken.may_pass):
                    self.refuse(broken.why)
                if last:
                    raise
                retry_after = None
            self._wait(attempt, retry_after)
            attempt += 1

    def _refuse_unless_passing(self, refused: _RefusedError, texts: Sequence[str], attempt: int) -> None:
        """Return if another attempt makes sense.

        Raises:
            JudgeUnavailableError: the user has to mend something first.
            BrokenError: the endpoint stays broken.
        """
        words = discreet(refused.words, self._client.api_key, texts)
        means = cause(refused.code, refused.text)
        why = f"{means} ({refused.code}): {words}" if means else f"it refuses ({refused.code}): {words}"
        if not is_passing(refused.code, refused.text, retry_after=refused.retry_after):
            self.refuse(why)
        if attempt >= self._options.max_retries:
            why = f"{attempt + 1} attempts have failed ({refused.code}): {words}"
            if refused.code < 500 or not self.is_checked:
                self.refuse(why)
            raise BrokenError(why) from None

    def _adapt(self, manner: Manner, adapted: Manner) -> Manner:
        """Remember what the endpoint refuses, for all requests. Return the manner to ask in now."""
        with self.lock:
            shared = self.manner
            self.manner = replace(
                shared,
                limit=adapted.limit,
                without=shared.without | adapted.without,
                top_tokens=min(shared.top_tokens, adapted.top_tokens),
                level=adapted.level if manner.level == shared.level else shared.level,
            )
            return replace(self.manner, level=adapted.level)

    def _wait(self, attempt: int, retry_after: float | None) -> None:
        """Wait as long as the endpoint asks for, or exponentially longer, with jitter so that threads spread out."""
        longest = self._options.first_wait * 2**attempt
        jittered = random.Random().uniform(longest / 2, longest)
        self._stop.wait(min(LONGEST_WAIT, jittered if retry_after is None else retry_after))

    def _send(self, prompt: str, manner: Manner) -> Completion:
        """Send one request within the budget.

        Raises:
            _RefusedError: the endpoint answers with an error.
            BrokenError: it does not answer, or with something else than a completion.
        """
        from openai import APIConnectionError, APIStatusError

        if self._stop.is_set():
            raise JudgeUnavailableError(self._why_stopped)
        reserved = self._budget.reserve(prompt, manner.max_tokens)
        completion = None
        try:
            messages: Any = [{"role": "user", "content": prompt}]
            timeout = self._options.timeout * (REASONING_TIMEOUT if manner.level == "room" else 1)
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._model, messages=messages, timeout=timeout, **manner.parameters
            )
            completion = read_completion(raw.content)
            return completion
        except APIStatusError as error:
            retry_after = retry_after_seconds(error.response.headers.get("retry-after"))
            raise _RefusedError(error.status_code, error.response.text, retry_after) from None
        except APIConnectionError as error:  # a timeout is a connection error
            why = connection_cause(error, str(self._client.base_url))
            raise BrokenError(why, may_pass(error)) from None
        except NoCompletionError as error:
            if error.error:
                raise _RefusedError(*error.error, None) from None
            begins = discreet(error.begins, self._client.api_key, [prompt])
            raise BrokenError(f"its response is no chat completion; it begins with {begins!r}") from None
        finally:
            self._budget.settle(reserved, completion)

    def refuse(self, why: str) -> NoReturn:
        """End the judging for good. Raise JudgeUnavailableError, which says where and why."""
        with self.lock:
            if not self._stop.is_set():
                self._why_stopped = f"{self.name}: {why}"
                self._stop.set()
        raise JudgeUnavailableError(self._why_stopped)


class _RefusedError(Exception):
    """The endpoint has answered with an error.

    Attributes:
        code: of the status.
        text: the body.
        words: its message, in one line.
        retry_after: seconds to wait, if it says so.
    """

    def __init__(self, code: int, text: str, retry_after: float | None) -> None:
        super().__init__()
        self.code, self.text, self.words, self.retry_after = code, text, words_of(text), retry_after


class BrokenError(Exception):
    """The endpoint does not answer, or not as it should.

    Attributes:
        why: in words.
        may_pass: whether another attempt makes sense if it has never answered so far.
    """

    def __init__(self, why: str, may_pass: bool = True) -> None:
        super().__init__()
        self.why, self.may_pass = why, may_pass
