"""Requests to an endpoint that speaks OpenAI's protocol: attempts, waiting, and a one-line error if nothing helps."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol, TypeVar
from urllib.parse import urlsplit

from settings.common.addresses import without_user
from settings.common.errors import UserError
from settings.openai_client.connection import Key, connection_cause, may_pass, open_client
from settings.openai_client.refusals import cause, discreet, is_passing, retry_after_seconds, words_of

LONGEST_WAIT = 60.0  # seconds between two attempts
BROKEN_AT_FIRST = 2  # further attempts when the very first connection breaks
Answer = TypeVar("Answer")


class Patience(Protocol):
    """How long to wait for an endpoint.

    Attributes:
        timeout: seconds until a request is abandoned.
        max_retries: attempts after the first, if the endpoint is busy or broken.
        first_wait: seconds before the second attempt, doubled before each further one, unless the endpoint says
            otherwise.
    """

    @property
    def timeout(self) -> float: ...

    @property
    def max_retries(self) -> int: ...

    @property
    def first_wait(self) -> float: ...


class UnavailableError(UserError):
    """The endpoint cannot be used."""


class NoAnswerError(Exception):
    """The response does not have the requested form: it is cut off, or something else.

    Attributes:
        error: code and message of an error that the endpoint sent with a success status, if it did.
        begins: the beginning of the response.
    """

    def __init__(self, content: bytes, error: tuple[int, str] | None = None) -> None:
        super().__init__()
        self.error, self.begins = error, " ".join(content[:60].decode("utf-8", "replace").split())


class RefusedError(Exception):
    """The endpoint has answered with an error.

    Attributes:
        code: status code.
        text: the body.
        words: its message, in one line.
        retry_after: seconds to wait, if the endpoint says so.
    """

    def __init__(self, code: int, text: str, retry_after: float | None = None) -> None:
        super().__init__()
        self.code, self.text, self.words, self.retry_after = code, text, words_of(text), retry_after


class BrokenError(Exception):
    """The endpoint does not answer, or not as it should.

    Attributes:
        why: the reason, in words.
        may_pass: whether another attempt makes sense if it has never answered so far.
    """

    def __init__(self, why: str, may_pass: bool = True) -> None:
        super().__init__()
        self.why, self.may_pass = why, may_pass


class Client:
    """Sends requests to one endpoint. Usable from several threads.

    Args:
        who: the endpoint's role, for messages, e.g. "judge gpt-4.1".
        base_url: address of the endpoint; None means $OPENAI_BASE_URL, or OpenAI's own.
        key: where the key comes from.
        patience: how long to wait for the endpoint.
        error: raised if the endpoint cannot be used.

    Attributes:
        lock: guards everything that several threads change.
        is_checked: whether the endpoint has answered; before that, any lasting problem ends everything at once.
        api: the client of the `openai` package.

    Raises:
        UserError: no key in the environment, or a key or address that cannot be used.
    """

    def __init__(
        self,
        who: str,
        base_url: str | None,
        key: Key,
        patience: Patience,
        error: type[UnavailableError] = UnavailableError,
    ) -> None:
        self.lock = threading.Lock()
        self.is_checked = False
        self.api = open_client(base_url, patience.timeout, key)
        self._who, self._key, self._patience, self._error = who, key, patience, error
        self._stop, self._why_stopped = threading.Event(), f"{who}: stopped"

    @property
    def name(self) -> str:
        """The endpoint's role and address."""
        return f"{self._who} at {urlsplit(without_user(str(self.api.base_url))).netloc}"

    def stop(self) -> None:
        """Send nothing more, and end all waiting."""
        self._stop.set()

    def close(self) -> None:
        """Close the connections."""
        self.api.close()

    def ask(
        self,
        send: Callable[[], Answer],
        secrets: Sequence[str] = (),
        adapt: Callable[[RefusedError], bool] = lambda refused: False,
    ) -> Answer:
        """Send a request until it succeeds.

        Args:
            send: sends it once (see `once`).
            secrets: texts of the request that must not appear in any message.
            adapt: changes how `send` asks after a refusal, and returns whether it did.

        Raises:
            UnavailableError: the endpoint refuses, or has never answered.
            BrokenError: it is broken, and has answered before.
        """
        attempt = 0
        while True:
            try:
                return send()
            except RefusedError as refused:
                if adapt(refused):
                    continue
                self._refuse_unless_passing(refused, secrets, attempt)
                retry_after = refused.retry_after
            except BrokenError as broken:
                last = attempt >= (self._patience.max_retries if self.is_checked else BROKEN_AT_FIRST)
                if not self.is_checked and (last or not broken.may_pass):
                    self.refuse(broken.why)
                if last:
                    raise
                retry_after = None
            self._wait(attempt, retry_after)
            attempt += 1

    def once(
        self,
        request: Callable[[], bytes],
        read: Callable[[bytes], Answer],
        what: str,
        secret: str = "",
        last: bool = False,
    ) -> Answer:
        """Send a request once, and read its answer.

        Args:
            request: sends it with `api`, and returns the content of the response.
            read: reads the content; may raise NoAnswerError.
            what: what the answer should be, for messages.
            secret: a text of the request that must not appear in any message.
            last: send it even after `stop`.

        Raises:
            RefusedError: the endpoint answers with an error.
            BrokenError: it does not answer, or with something else.
            UnavailableError: no more requests may be sent.
        """
        from openai import APIConnectionError, APIStatusError

        if not last:
            self.check_running()
        try:
            return read(request())
        except APIStatusError as error:
            retry_after = retry_after_seconds(error.response.headers.get("retry-after"))
            raise RefusedError(error.status_code, error.response.text, retry_after) from None
        except APIConnectionError as error:  # a timeout is a connection error
            why = connection_cause(error, str(self.api.base_url))
            raise BrokenError(why, may_pass(error)) from None
        except NoAnswerError as error:
            if error.error:
                raise RefusedError(*error.error) from None
            begins = discreet(error.begins, self.api.api_key, [secret])
            raise BrokenError(f"its response is not a {what}; it begins with {begins!r}") from None

    def check_running(self) -> None:
        """Raise UnavailableError if no more requests may be sent."""
        if self._stop.is_set():
            raise self._error(self._why_stopped)

    def refuse(self, why: str) -> NoReturn:
        """Stop sending for good. Raise UnavailableError, which says where and why."""
        with self.lock:
            if not self._stop.is_set():
                self._why_stopped = f"{self.name}: {why}"
                self._stop.set()
        raise self._error(self._why_stopped)

    def said(self, refused: RefusedError, secrets: Sequence[str] = ()) -> str:
        """Return why an endpoint refuses: a short explanation, and the endpoint's own words."""
        words = discreet(refused.words, self.api.api_key, secrets)
        means = cause(refused.code, refused.text, self._key.variable)
        return f"{means} ({refused.code}): {words}" if means else f"it refuses ({refused.code}): {words}"

    def _refuse_unless_passing(self, refused: RefusedError, secrets: Sequence[str], attempt: int) -> None:
        """Return if another attempt makes sense.

        Raises:
            UnavailableError: the user has to fix something first.
            BrokenError: the endpoint stays broken.
        """
        if not is_passing(refused.code, refused.text, retry_after=refused.retry_after):
            self.refuse(self.said(refused, secrets))
        if attempt >= self._patience.max_retries:
            words = discreet(refused.words, self.api.api_key, secrets)
            why = f"{attempt + 1} attempts have failed ({refused.code}): {words}"
            if refused.code < 500 or not self.is_checked:
                self.refuse(why)
            raise BrokenError(why) from None

    def _wait(self, attempt: int, retry_after: float | None) -> None:
        """Wait as long as the endpoint asks, or else with exponential backoff and jitter, which spreads threads out."""
        longest = self._patience.first_wait * 2**attempt
        jittered = random.Random().uniform(longest / 2, longest)
        self._stop.wait(min(LONGEST_WAIT, jittered if retry_after is None else retry_after))
