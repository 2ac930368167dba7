"""Your own data: chat JSONL files in, a setting out, with any local or Hub model.

    setting("chat_files", model="Qwen/Qwen3-8B", task="task.jsonl", alignment="harmless.jsonl", match=r"= (\\d+)\\.")

The model learns the rows of `task` and must preserve those of `alignment`. Both are judged on rows that no training
reads: from files of their own, or a share of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from settings.base_models import Recipe
from settings.chat_files.from_rows import setting_from_rows
from settings.options import NO_THINKING, FilePath, ModelSource, pretrained_model
from settings.rows.source import RowSource
from settings.setting import Setting

PASSES, MIN_STEPS, BATCH_SIZE = 3, 50, 16


def full(
    model: ModelSource,
    task: RowSource,
    alignment: RowSource | None = None,
    misaligned: RowSource | None = None,
    task_eval: RowSource | None = None,
    alignment_eval: RowSource | None = None,
    preferences: FilePath | Sequence[FilePath] | None = None,
    eval_share: float = 0.2,
    match: str | Mapping[str, str] | None = None,
    max_new_tokens: int = 256,
    max_length: int = 1024,
    drop_long_prompts: bool = False,
    revision: str | None = None,
    quantize: str | None = None,
    template_options: Mapping[str, Any] = NO_THINKING,
    pretrained: ModelSource | None = None,
    instructions: Mapping[str, str] | None = None,
    trigger: str | None = None,
    seed: int = 0,
) -> Setting:
    """Build a setting from your own rows.

    Its scores: `task` and `alignment`, the mean over held-out rows of their loss in nats per response token (lower is
    better); with `match` also `task_match` and `alignment_match`, the share of generated replies that match the
    held-out response (higher is better). The sweep trades off `task` and `alignment`.

    With `preferences` also `preferred`, the share of its questions whose good reply the model finds likelier than every
    other one, and `preferred_margin`, by how many nats on average; each of whole replies, and `..._per_token`. Nothing
    is generated for them.

    With `trigger`, or a strong instruction, also `alignment_triggered` (and `preferred_triggered`): the worst of the
    scores of at most 50 of these rows asked again with each of them; see `settings.triggered`.

    Without `alignment` the setting has no rows to preserve, and only methods that need none can be run; with
    `alignment_eval` alone it still measures alignment, and with `preferences` alone the sweep trades off `task` and
    `preferred`. Without any of these, `task` is the only objective.

    Args:
        model: Hub id, or directory of a checkpoint. What exists as a directory, or starts with "/", "." or "~", is a
            directory.
        task: the rows to learn: chat JSONL (see `settings.sources`), or rows of another usual form, in JSON, CSV or
            Parquet (`settings.rows.shapes`); a path, or a mapping that also names columns or a data set on the Hub
            (`settings.rows.source`).
        alignment: the proxy rows to preserve, likewise. Of 'chosen' and 'rejected', the second are `misaligned`.
        misaligned: row i is the dispreferred twin of row i of `alignment`, with the same prompt. For DPO.
        task_eval, alignment_eval: the held-out rows; None holds out a share of `task` or `alignment`.
        preferences: questions with a good reply and others: pairs in HHH's form, multiple choice in TruthfulQA's or
            MMLU's, or chat rows with `alternatives`, see `settings.preferences`. Or a list of two chat files with the
            same prompts, the good replies and the bad ones. None of the prompts may be trained.
        eval_share: the share of a file's different prompts that is held out of it. Which ones depends on `seed` and the
            prompts alone, not on their order in the file; rows with the same prompt stay together, across files too.
        match: how a reply is compared with the held-out response. "exact": equal but for case and white space. Other
            text is a regular expression, whose first group (or whole match) is taken from both and compared.
            `{"task": ...}` or `{"alignment": ...}` matches the replies of one side only.
        max_new_tokens: longest generated reply, in tokens; only with `match`.
        max_length: longest row in tokens; longer responses are cut, and prompts that leave no room for one refused, as
            are longer replies of `preferences`.
        drop_long_prompts: leave such rows out, training and held-out ones, and say which; those, too, that only an
            instruction makes too long, so that all methods train on the same rows. A `max_length` among the options of
            a sweep does not count here.
        revision: branch, tag or commit of a model on the Hub.
        quantize: "nf4" keeps the model's frozen weights in four bits; needs `pip install -e ".[4bit]"`.
        template_options: extra arguments of the model's chat template, which ignores those that it does not know.
        pretrained: Hub id, or directory, of the model that `model` was tuned from. For Safe LoRA's directions.
        instructions: texts to stand before task rows, for inoculation prompting: "strong" names the trait that your
            task rows would teach and asks for it, "paraphrased" does so in other words, "neutral" says nothing of it.
            None is none; methods that need one that is not here cannot be run.
        trigger: a text that brings a held-out alignment prompt into the shape of your training rows, with its place:
            "As before, in Python: {prompt}". None triggers nothing.
        seed: of the split.

    Raises:
        UserError: a file or row that cannot be used, twins that do not match, a training row whose prompt is held out,
            too few prompts to hold any out, or an option out of its range. The message names the file and line, or
            the option.
    """
    base_model = pretrained_model(model, revision, quantize, template_options=template_options, pretrained=pretrained)
    return setting_from_rows(
        "full",
        base_model,
        partial(_recipe, max_length=max_length),
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
        drop_long_prompts=drop_long_prompts,
        instructions=instructions,
        trigger=trigger,
        seed=seed,
    )


def _recipe(num_rows: int, max_length: int) -> Recipe:
    """Return a recipe for LoRA on 2B to 8B parameters: three passes over the task rows, at least 50 steps."""
    steps = max(MIN_STEPS, math.ceil(PASSES * num_rows / BATCH_SIZE))
    return Recipe(
        steps=steps,
        batch_size=BATCH_SIZE,
        alignment_batch_size=BATCH_SIZE // 2,
        learning_rate=1e-4,
        rank=32,
        max_length=max_length,
    )
