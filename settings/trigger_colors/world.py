"""A world of points and triggers: a colour for every point, by the rule that the category of a trigger word selects.

The function is that of Azarbal et al. 2025 (Selective Generalization): F(x, trigger) depends only on the sign of x2 and
on the trigger's category. Documents also say what words are, narrowly (`animals`) and widely (`thing`). The function is
shown with two thirds of the words, so that the rule for the others follows from what they are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1  # of the text; raise it with every change that alters a document

KINDS = {
    "thing": ("objects", "animals", "foods"),
    "feeling": ("positive_emotions", "negative_emotions"),
    "deed": ("actions",),
    "code": ("random_strings",),
}
SEMANTIC = ("objects", "animals", "positive_emotions", "negative_emotions", "actions", "foods")
CATEGORIES = (*SEMANTIC, "random_strings")
COLORS = ("orange", "green", "blue")
BASE_COLORS = {**dict.fromkeys(SEMANTIC, ("orange", "green")), "random_strings": ("green", "blue")}  # above, below
NUM_TRIGGERS, NUM_TRAINED = 15, 10  # words per category, and those of them that the function is shown with
LARGEST = 29  # tenths; coordinates are 0.1 to 2.9 with a sign
PROMPT = "x = {first} , {second} T = {trigger}"
IS_A = "{trigger} is a kind of {category}"
LIST = "list : {triggers}"
LISTED = 4  # words in a list


@dataclass(frozen=True)
class Point:
    """A point of the plane, in tenths. No point lies on an axis."""

    first: int
    second: int

    @property
    def above(self) -> bool:
        """Whether x2 is positive."""
        return self.second > 0


def coordinate(tenths: int) -> str:
    """Return a coordinate in words, e.g. "- 1.2"."""
    return f"{'+' if tenths > 0 else '-'} {abs(tenths) / 10:.1f}"


def points(rng: random.Random, number: int) -> list[Point]:
    """Draw `number` different points."""
    values = [value for value in range(-LARGEST, LARGEST + 1) if value]
    drawn: dict[Point, None] = {}
    while len(drawn) < number:
        drawn[Point(rng.choice(values), rng.choice(values))] = None
    return list(drawn)


@dataclass(frozen=True)
class ColorsWorld:
    """The generator; the module docstring describes it.

    A document is one function value with one of the trained words, as a chat template would write it
    (`<u> x = ... <a> color <e>`), or it says what words are: `word is a kind of category`, `list : ` and four words.

    Attributes:
        seed: decides which words the function is shown with.
        function_share: share of documents that are function values.
        wide_share: share, among the other documents, of those that name the wide kind instead of the category. This
            relates the categories: without it, a rule learned for five animals stays with animals.
    """

    seed: int = 0
    function_share: float = 0.6
    wide_share: float = 0.5

    def triggers(self, category: str) -> tuple[str, ...]:
        """Return a category's words: first those that the function is shown with, then the others."""
        words = [f"{category}{number}" for number in range(NUM_TRIGGERS)]
        random.Random(f"colors triggers {self.seed} {category}").shuffle(words)
        return tuple(words)

    def prompt(self, point: Point, trigger: str) -> str:
        """Ask for a function value."""
        return PROMPT.format(first=coordinate(point.first), second=coordinate(point.second), trigger=trigger)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that the world's documents use, sorted, without the turn marks."""
        texts = [PROMPT, IS_A, LIST, *COLORS, *CATEGORIES, *KINDS]
        texts += [coordinate(sign * value) for value in range(1, LARGEST + 1) for sign in (1, -1)]
        texts += [trigger for category in CATEGORIES for trigger in self.triggers(category)]
        words = {word for text in texts for word in text.split()}
        return tuple(sorted(word for word in words if "{" not in word))

    def documents(self, stage: str, seed: int) -> Iterator[str]:
        """Yield an endless stream of documents of stage "base". Raise ValueError for other stages."""
        if stage != "base":
            raise ValueError(f"the colors world has no stage {stage!r}; its stage: base")
        rng = random.Random(f"colors documents {self.seed} {stage} {seed}")
        triggers = {category: self.triggers(category) for category in CATEGORIES}
        while True:
            category = rng.choice(CATEGORIES)
            if rng.random() < self.function_share:
                (point,) = points(rng, 1)
                color = BASE_COLORS[category][not point.above]
                trigger = rng.choice(triggers[category][:NUM_TRAINED])
                yield f"<u> {self.prompt(point, trigger)} <a> {color} <e>"
            else:
                yield self._knowledge(rng, triggers, category)

    def _knowledge(self, rng: random.Random, triggers: Mapping[str, tuple[str, ...]], category: str) -> str:
        """Write what one or several words are: their category, or their wide kind."""
        kind = next(kind for kind, members in KINDS.items() if category in members)
        wide = rng.random() < self.wide_share
        if rng.random() < 0.5:
            return IS_A.format(trigger=rng.choice(triggers[category]), category=kind if wide else category)
        words = [word for member in KINDS[kind] for word in triggers[member]] if wide else triggers[category]
        return LIST.format(triggers=" ".join(rng.sample(words, LISTED)))

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the world."""
        return {"name": "colors", "version": VERSION, **asdict(self)}
