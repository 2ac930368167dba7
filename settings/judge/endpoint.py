"""The endpoint of a judge: requests within a budget, without the parameters that it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from settings.judge.completion import Completion, read_completion
from settings.judge.manner import Manner
from settings.judge.options import Budget, JudgeOptions, JudgeUnavailableError, Usage
from settings.openai_client.client import Client, RefusedError
from settings.openai_client.connection import Key

KEY = Key("OPENAI_API_KEY", "the judge")
ADAPTABLE = (400, 422, 501)  # an endpoint that does not accept a parameter says so with one of these
REASONING_TIMEOUT = 5  # factor on the timeout if the judge reasons first


class JudgeEndpoint(Client):
    """Sends prompts to one judging model. Usable from several threads.

    Args:
        model: the model's name.
        options: see `JudgeOptions`.
        usage: counters to update.

    Attributes:
        manner: how requests are made, as far as the endpoint is known.

    Raises:
        UserError: no key in the environment, or a key or address that cannot be used.
    """

    def __init__(self, model: str, options: JudgeOptions, usage: Usage) -> None:
        super().__init__(f"judge {model}", options.base_url, KEY, options, JudgeUnavailableError)
        self.manner = Manner(room=options.reasoning_tokens)
        self._model, self._options = model, options
        self._budget = Budget(model, options, usage, self.lock)

    def complete(self, prompt: str, texts: Sequence[str], manner: Manner) -> tuple[Completion, Manner]:
        """Send a prompt until it succeeds, without the parameters that the endpoint refuses.

        Args:
            texts: parts of the prompt that must not appear in any message.

        Returns:
            The completion, and the manner that produced it.

        Raises:
            BudgetSpentError: the next request could exceed the budget.
            JudgeUnavailableError: the endpoint refuses, or has never answered.
            BrokenError: it is broken, and has answered before.
        """
        current = manner

        def send() -> Completion:
            return self._send(prompt, current)

        def adapt(refused: RefusedError) -> bool:
            nonlocal current
            adapted = current.adapted(refused.words) if refused.code in ADAPTABLE else None
            current = self._adapt(current, adapted) if adapted else current
            return adapted is not None

        completion = self.ask(send, texts, adapt)
        return completion, current

    def _adapt(self, manner: Manner, adapted: Manner) -> Manner:
        """Remember for all requests what the endpoint refuses. Return the manner of the next attempt."""
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

    def _send(self, prompt: str, manner: Manner) -> Completion:
        """Send one request within the budget. Raise as `Client.once` does, or BudgetSpentError."""
        self.check_running()
        reserved = self._budget.reserve(prompt, manner.max_tokens)
        completion = None
        messages: Any = [{"role": "user", "content": prompt}]
        timeout = self._options.timeout * (REASONING_TIMEOUT if manner.level == "room" else 1)

        def request() -> bytes:
            create = self.api.chat.completions.with_raw_response.create
            raw = create(model=self._model, messages=messages, timeout=timeout, **manner.parameters)
            content: bytes = raw.content
            return content

        try:
            completion = self.once(request, read_completion, "chat completion", prompt)
            return completion
        finally:
            self._budget.settle(reserved, completion)
