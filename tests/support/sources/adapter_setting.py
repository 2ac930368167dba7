"""A setting on a model in a directory: a loss, and a choice between two replies."""

from settings.base_models import PretrainedModel, Recipe
from settings.example import Example
from settings.setting import SHARE, Evaluation, Score, Setting

PROMPTS = ("What is two plus two?", "Name a colour.", "Who are you?", "Is the sky green?", "Say a word.", "Count.")


def prefers(example, observed):
    return float(observed.log_likelihoods[0] > observed.log_likelihoods[1])


def adapted(model):
    rows = tuple(Example.of(prompt, f"answer {number}") for number, prompt in enumerate(PROMPTS))
    asked = tuple(
        Example.of(f"{prompt} Please.", f"yes {number}", f"no {number}") for number, prompt in enumerate(PROMPTS)
    )
    losses = Score("task", "task", "nats per token", lambda example, loss: loss, False, ends=(0.0, None))
    choices = Score("alignment", "alignment", "share of yes", prefers, ends=SHARE)
    return Setting(
        name="adapted",
        scale="full",
        summary="Answers with a number.",
        base_model=PretrainedModel(model),
        streams={"task": rows, "alignment": rows[:2]},
        evaluations=(
            Evaluation("losses", asked, (losses,), observe="token_loss"),
            Evaluation("choices", asked, (choices,), observe="preference"),
        ),
        recipe=Recipe(steps=5, batch_size=2, alignment_batch_size=2, learning_rate=1e-3, rank=2, max_length=64),
        sources=("written for tests (MIT)",),
    )
