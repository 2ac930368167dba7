"""How a judge is asked: the parameters of a request, as far as its endpoint accepts them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

TOP_TOKENS = 20
GRADE_TOKENS = 8  # of a reply whose first token is read: enough to show that the number ends there
TEXT_TOKENS = 16  # of a reply that is read as text
TOO_LONG = re.compile(
    r"context length|maximum context|context window|too long|too large|too many tokens", re.IGNORECASE
)
NEEDS_ROOM = re.compile(r"output limit was reached|higher max_tokens|higher max_completion_tokens", re.IGNORECASE)
Level = Literal["logprobs", "text", "room"]  # in order of how much they ask for
LEVELS: tuple[Level, ...] = ("logprobs", "text", "room")


@dataclass(frozen=True)
class Manner:
    """How requests are made.

    Attributes:
        level: "logprobs" asks for the likeliest first tokens, "text" only for the text, "room" for a text after
            reasoning.
        limit: name of the parameter that limits the reply's length.
        without: parameters that the endpoint refuses: "temperature", "seed".
        top_tokens: number of likeliest tokens to ask for.
        room: maximal number of tokens at the level "room".
    """

    level: Level = "logprobs"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    without: frozenset[str] = frozenset()
    top_tokens: int = TOP_TOKENS
    room: int = 4096

    @property
    def max_tokens(self) -> int:
        """The maximal number of tokens of a reply."""
        return {"logprobs": GRADE_TOKENS, "text": TEXT_TOKENS, "room": self.room}[self.level]

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a request, without model and messages."""
        parameters: dict[str, Any] = {self.limit: self.max_tokens, "temperature": 0, "seed": 0}
        if self.level == "logprobs":
            parameters |= {"logprobs": True, "top_logprobs": self.top_tokens}
        return {name: value for name, value in parameters.items() if name not in self.without}

    def at_least(self, level: Level) -> Manner:
        """Return a manner whose level is at least `level`."""
        return replace(self, level=max(self.level, level, key=LEVELS.index))

    def adapted(self, refusal: str) -> Manner | None:
        """Return a manner without what an endpoint refused; None if nothing can be left out.

        Args:
            refusal: the text of the endpoint's error, with the name of the parameter.
        """
        if NEEDS_ROOM.search(refusal) and self.level != "room":
            return self.at_least("room")
        if TOO_LONG.search(refusal):
            return None
        if "logprob" in refusal.lower() and self.level == "logprobs":
            allowed = [int(number) for number in re.findall(r"(?<![\w.])\d{1,2}(?!\d|\.\d)", refusal)]
            fewer = max((number for number in allowed if 1 < number < self.top_tokens), default=None)
            return replace(self, top_tokens=fewer) if fewer else self.at_least("text")
        if self.limit == "max_tokens" and _names(refusal, "max_tokens"):
            return replace(self, limit="max_completion_tokens")
        for name in ("temperature", "seed"):
            if name in self.parameters and _names(refusal, name):
                return replace(self, without=self.without | {name})
        return None


def _names(refusal: str, parameter: str) -> bool:
    return bool(re.search(rf"(?<!\w){parameter}(?!\w)", refusal))
