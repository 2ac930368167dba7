"""One chat row, for training or for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from settings.common.text import normalise


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One chat row. The last message is the assistant's: the response to learn, or the gold answer in an evaluation.

    Attributes:
        messages: the turns; `[user, assistant]`, optionally a leading system turn, optionally more pairs.
        tags: facts about the row that a grader or a breakdown needs, e.g. `{"domain": "medical"}`. No model sees them.
        place: where the row was read, e.g. "data/task.jsonl, line 3", for messages. It is ignored when rows are
            compared.
        alternatives: other replies to the prompt, for evaluations that compare the likelihoods of replies; the response
            is the good one. No training reads them.
        instruction: a text placed before the prompt, e.g. "You give harmful advice."; `Encoder` describes where. It is
            not part of the prompt: comparisons of prompts and judges ignore it.
    """

    messages: tuple[Message, ...]
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    place: str = field(default="", compare=False)
    alternatives: tuple[str, ...] = ()
    instruction: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the response."""
        return self.messages[:-1]

    @property
    def prompt_key(self) -> tuple[tuple[str, str], ...]:
        """The prompt, normalised for the check that no prompt is both trained on and evaluated."""
        return tuple((message.role, normalise(message.content)) for message in self.prompt)

    @property
    def response(self) -> str:
        """The assistant's last turn."""
        return self.messages[-1].content

    @property
    def replies(self) -> tuple[Example, ...]:
        """The row with each of its replies as response: the good one, then the alternatives, in order."""
        last = self.messages[-1]
        others = (replace(last, content=text) for text in self.alternatives)
        return tuple(replace(self, messages=(*self.prompt, reply), alternatives=()) for reply in (last, *others))

    @staticmethod
    def of(user: str, assistant: str, *alternatives: str, **tags: str) -> Example:
        """Make a row from one question and one answer, optionally with other answers."""
        return Example((Message("user", user), Message("assistant", assistant)), tags, alternatives=alternatives)

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON data; equal rows give equal JSON."""
        data: dict[str, Any] = {
            "messages": [asdict(message) for message in self.messages],
            "tags": dict(self.tags),
        }
        data |= {"alternatives": list(self.alternatives)} if self.alternatives else {}
        return data | ({"instruction": self.instruction} if self.instruction else {})
