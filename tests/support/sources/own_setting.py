"""A setting whose base model is an option, or known to the setting alone."""

from settings.base_models import PretrainedModel, Recipe
from settings.example import Example
from settings.setting import Evaluation, Score, Setting


def mine(model, task="t"):
    score = Score("task", "task", "same", lambda example, reply: 1.0)
    return Setting(
        name="mine",
        scale="full",
        summary="Mine.",
        base_model=PretrainedModel(model),
        streams={"task": (Example.of("a", "b"),)},
        evaluations=(Evaluation("all", (Example.of("c", "d"),), (score,)),),
        recipe=Recipe(steps=2, batch_size=1, alignment_batch_size=1, learning_rate=1e-3, rank=2),
        objectives=("task",),
    )


def fixed(model):
    return mine("tinylm")
