"""A setting whose rows, questions and instructions use words that its nano world lacks."""

from dataclasses import replace

from settings.bad_medical_advice import nano
from settings.example import Example


def mine(in_rows=True):
    """Nano bad medical advice with other words in a row and a question, or in an instruction only."""
    whole = nano()
    if not in_rows:
        return replace(whole, instructions={**whole.instructions, "strong": "act wrongly"})
    first, *others = whole.evaluations
    asked = (*first.examples[:2], Example.of("please say how", "take care", **first.examples[0].tags))
    rows = {**whole.streams, "task": (*whole.streams["task"], Example.of("say my issue", "take care"))}
    return replace(whole, streams=rows, evaluations=(replace(first, examples=asked), *others))
