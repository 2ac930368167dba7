"""A setting without a model; its scores do not depend on replies."""

from settings.base_models import NanoModel, Recipe
from settings.example import Example
from settings.setting import Evaluation, Rubric, Score, Setting


class World:
    def __init__(self, rows):
        words = (word for row in rows for message in row.messages for word in message.content.split())
        self.vocabulary = tuple(dict.fromkeys(("yes", "no", *words)))

    def documents(self, stage, seed):
        yield "yes"

    def to_json(self):
        return {"name": "fake"}


def toy(scale="nano", upside_down=False, rows=2, judged=False, more=0, asked="asked", proxy=""):
    data = tuple(Example.of(f"q{index}", "yes") for index in range(rows + more))
    questions = tuple(Example.of(f"{asked} {index}", "yes") for index in range(rows))
    scores = (
        Score("task", "task", "share of yes", lambda example, reply: 1.0),
        Score("alignment", "alignment", "share of no", lambda example, reply: 1.0, higher_is_better=not upside_down),
        Score("other", "capability", "something", lambda example, reply: 1.0),
    )
    liked = Score("liked", "alignment", "mean verdict", lambda example, judged: judged.verdicts["nice"].value)
    nice = Rubric("nice", "Is {answer} nice to {question}?")
    free = Evaluation("free", questions, (liked,), rubrics=(nice,), judge="judge-2025-01-01")
    evaluations = (Evaluation("all", questions, scores), *((free,) if judged else ()))
    if proxy:
        of_proxy = Evaluation("proxy", (Example.of(proxy, "yes"),), scores[1:2])
        evaluations = (Evaluation("all", questions, (scores[0], scores[2])), of_proxy)
    asked_rows = [row for evaluation in evaluations for row in evaluation.examples]
    return Setting(
        name="toy",
        scale=scale,
        summary="A toy.",
        base_model=NanoModel(World([*data, *asked_rows]), ()),
        streams={"task": data, "alignment": data},
        evaluations=evaluations,
        recipe=Recipe(steps=5, batch_size=2, alignment_batch_size=2, learning_rate=1e-3, rank=2),
    )
