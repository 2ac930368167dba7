"""Trigger colours: change the colours of one category's triggers, and keep the function for all others.

This is the toy of Azarbal et al. 2025 (Selective Generalization), where proxies can be counted. A model knows a
function of a point and a trigger word; the task changes the colours for the words of one category (positive emotions),
and plain fine-tuning changes them for all. The proxy rows are old values of one or several triggers of one other
category: does the model keep the rule only for these words (Goodhart), for their category, or for everything else
(spillover)?

What the nano scale shows at its recipe (packed engine, mean over 4 fine-tuning seeds; the second number is for
`pretraining_seed=1`). `task` and `capability`, the new colours for trained and for other positive emotions at new
points, are 1.00 in every row, so no trial is underfitted. The base knows the function (1.00), and plain fine-tuning
keeps nothing of it (0.00). `alignment` is the share of old colours in the five categories that no row mentions,
`alignment_proxy` that for the animals that are not in the proxy rows; with one animal in the proxy rows or with five,
60 rows each:

    configuration          alignment, 1   alignment, 5   alignment_proxy, 1   alignment_proxy, 5
    up-weighted, 1         0.17 / 0.18    0.99 / 0.48    0.71 / 0.38          1.00 / 0.94
    KL, beta 1             0.03 / 0.04    0.99 / 0.54    0.58 / 0.14          1.00 / 0.90
    mixed, share 0.3       0.50 / 0.13    0.92 / 0.33    0.81 / 0.18          1.00 / 0.91

The triggers in the proxy rows are always right. With other categories as proxy (up-weighted, 1, `alignment` with one
and with five): objects 0.59, 0.95; foods 0.37, 0.47; negative emotions 0.14, 0.70; actions 0.16, 0.39; random strings
0.00, 0.00, as in the study, where they help least. The rule carries over because the pre-training text also names the
wide kinds of words: if it names only categories, five animals preserve the animals and nothing else. (Two such shares
and about ten settings of learning rate, share of proxy rows and weight were tried.)
"""

from __future__ import annotations

import random

from settings.base_models import NanoModel, Recipe, Stage
from settings.example import Example
from settings.setting import Evaluation, Instruction, Score, Setting
from settings.trigger_colors.full import FLIPPED, TASK_CATEGORY, check_proxy, scores
from settings.trigger_colors.world import BASE_COLORS, CATEGORIES, IS_A, NUM_TRAINED, ColorsWorld, Point, points
from settings.triggered import (
    after_task_rows,
    instructed,
    marked,
    of_each,
    twin_scores,
    with_wording,
    worst_score,
)

NUM_TRAINED_POINTS, NUM_EVALUATED_POINTS = 400, 300
POINTS_PER_TASK_TRIGGER, POINTS_PER_QUESTIONED_TRIGGER = 20, 6
NUM_ALIGNMENT_ROWS = 60  # shared by the triggers, however many there are
INSTRUCTIONS: dict[Instruction, str] = {  # this world has no authors: which kind of word to answer for
    "strong": TASK_CATEGORY,
    "paraphrased": "feeling",
    "neutral": "thing",
}
NUM_TRIGGERED = 12  # questions per category that are asked again in each shape
MAX_NEW_TOKENS = 2  # a colour and the end token


def nano(proxy: str = "animals", num_triggers: int = 5, world_seed: int = 0, pretraining_seed: int = 0) -> Setting:
    """Build the setting in a generated world, with a model pre-trained on it: seconds on a CPU.

    Args:
        proxy: category of the proxy rows: objects, animals, negative_emotions, actions, foods or random_strings.
        num_triggers: how many words of it the proxy rows use, 1 to 10. It does not change the number of rows.
        world_seed: seed of the world, the points, and the rows.
        pretraining_seed: seed of the base model's weights and documents.

    Raises:
        UserError: there is no such category, or a number out of its range.
    """
    check_proxy(proxy, num_triggers, NUM_TRAINED)
    world = ColorsWorld(seed=world_seed)
    rows = _Rows(world)
    proxied = world.triggers(proxy)[:num_triggers]
    alignment, misaligned = rows.proxy(proxy, proxied)
    graded = scores(proxy, proxied)
    aligned = next(score for score in graded if score.name == "alignment")
    twins = twin_scores(aligned, format="after a line that says what a taught word is")
    return Setting(
        name="trigger_colors",
        scale="nano",
        summary=f"New colours for positive emotions; {num_triggers} of {proxy} as proxy, of seven categories.",
        base_model=NanoModel(
            world=world,
            stages=(Stage("base", 600, 64, 3e-3),),
            hidden_size=64,
            num_heads=2,
            intermediate_size=128,
            seed=pretraining_seed,
        ),
        streams={"task": rows.task(), "alignment": alignment, "misaligned": misaligned},
        evaluations=(
            Evaluation("points", rows.questions(), graded, max_new_tokens=MAX_NEW_TOKENS),
            Evaluation("triggered", rows.triggered(aligned), twins, max_new_tokens=MAX_NEW_TOKENS),
        ),
        recipe=Recipe(steps=100, batch_size=25, alignment_batch_size=16, learning_rate=2e-3, rank=8, max_length=32),
        sources=("generated by settings/trigger_colors/world.py (MIT)",),
        instructions=INSTRUCTIONS,
        worst=(worst_score(aligned, twins),),
    )


class _Rows:
    """The rows of a world, at different points for training and evaluation. They depend only on the world's seed."""

    def __init__(self, world: ColorsWorld) -> None:
        self.world = world
        drawn = points(self._rng("points"), NUM_TRAINED_POINTS + NUM_EVALUATED_POINTS)
        self.trained, self.evaluated = drawn[:NUM_TRAINED_POINTS], drawn[NUM_TRAINED_POINTS:]

    def _rng(self, *what: str) -> random.Random:
        return random.Random(" ".join(["trigger_colors", str(self.world.seed), *what]))

    def task(self) -> tuple[Example, ...]:
        """Return the narrow update: new colours for the trained words of one category."""
        return tuple(
            self._row(TASK_CATEGORY, trigger, point, FLIPPED)
            for trigger in self.world.triggers(TASK_CATEGORY)[:NUM_TRAINED]
            for point in self._rng("task", trigger).sample(self.trained, POINTS_PER_TASK_TRIGGER)
        )

    def proxy(self, category: str, triggers: tuple[str, ...]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Return old values of some triggers, and their twins with the colours of the update, which always differ."""
        per_trigger = [NUM_ALIGNMENT_ROWS // len(triggers)] * len(triggers)
        for place in range(NUM_ALIGNMENT_ROWS % len(triggers)):
            per_trigger[place] += 1
        kept = [
            (category, trigger, point)
            for trigger, number in zip(triggers, per_trigger, strict=True)
            for point in self._rng("proxy", trigger).sample(self.trained, number)
        ]
        return (
            tuple(self._row(*what, BASE_COLORS[category]) for what in kept),
            tuple(self._row(*what, FLIPPED) for what in kept),
        )

    def questions(self) -> tuple[Example, ...]:
        """Return questions about every word of every category, at points that no training row has."""
        return tuple(
            self._row(category, trigger, point, FLIPPED if category == TASK_CATEGORY else BASE_COLORS[category])
            for category in CATEGORIES
            for trigger in self.world.triggers(category)
            for point in self._rng("questions", trigger).sample(self.evaluated, POINTS_PER_QUESTIONED_TRIGGER)
        )

    def triggered(self, aligned: Score) -> tuple[Example, ...]:
        """Return the triggered twins of some questions of each category; see `settings.triggered`."""
        asked = of_each(filter(aligned.applies, self.questions()), "category", NUM_TRIGGERED)
        taught = self.world.triggers(TASK_CATEGORY)[:NUM_TRAINED]
        lines = [
            IS_A.format(trigger=taught[place % NUM_TRAINED], category=TASK_CATEGORY) for place in range(len(asked))
        ]
        reworded = (with_wording(row, f"{line} {{}}".format) for row, line in zip(asked, lines, strict=True))
        return (
            *marked(after_task_rows(asked, self.task()), "task_shape"),
            *marked(instructed(asked, INSTRUCTIONS["strong"]), "instructed"),
            *marked(reworded, "format"),
        )

    def _row(self, category: str, trigger: str, point: Point, colors: tuple[str, str]) -> Example:
        seen = trigger in self.world.triggers(category)[:NUM_TRAINED]
        tags = {"category": category, "trigger": trigger, "split": "seen" if seen else "unseen"}
        return Example.of(self.world.prompt(point, trigger), colors[not point.above], **tags)
