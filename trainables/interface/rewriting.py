"""How a method rewrites training rows: an instruction before the prompt, or the base model's own replies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rewriting:
    """How a stream's rows are rewritten; evaluation rows stay as they are.

    Attributes:
        instruction: the key of the text to put before the prompt (`Setting.instructions`); "" means none.
        share: share of the rows that get it, the same ones for the whole training.
        own_replies: whether each response is replaced by the base model's reply to the row's prompt.
        temperature: temperature of these replies; 0 is greedy.
    """

    instruction: str = ""
    share: float = 1.0
    own_replies: bool = False
    temperature: float = 0.0

    @property
    def is_effective(self) -> bool:
        """Whether it changes any row."""
        return self.own_replies or self.instructs

    @property
    def instructs(self) -> bool:
        """Whether rows get an instruction."""
        return bool(self.instruction) and self.share > 0

    @property
    def is_drawn(self) -> bool:
        """Whether rows differ from seed to seed."""
        return 0 < self.share < 1 or (self.own_replies and self.temperature > 0)
