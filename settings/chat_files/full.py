"""Your own data: turn files of rows into a setting, with any local or Hub model.

    setting("chat_files", model="Qwen/Qwen3-8B", task="task.jsonl", alignment="harmless.jsonl", match=r"= (\\d+)\\.")

The model learns the rows of `task` and must preserve those of `alignment`. Both are evaluated on rows that no training
reads: rows from separate files, or a share of these rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from settings.base_models import Recipe
from settings.chat_files.from_rows import setting_from_rows
from settings.chat_files.rows import EVAL_SHARE
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
    preferences: RowSource | Sequence[FilePath] | None = None,
    eval_share: float | Mapping[str, float] = EVAL_SHARE,
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

    The scores `task` and `alignment` are the mean loss of held-out rows in nats per response token (lower is better).
    The sweep trades off these two. With `match`, `task_match` and `alignment_match` are the share of generated replies
    that match the held-out response (higher is better).

    With `preferences`, `preferred` is the share of its questions whose good reply the model finds likelier than every
    other one, and `preferred_margin` is by how many nats on average. Both compare whole replies; the same scores with
    the suffix `_per_token` compare means over tokens. Nothing is generated for them.

    With `trigger`, or a strong instruction, `alignment_triggered` (and `preferred_triggered`) ask at most 50 of these
    rows again with each of them, and take the worst score; see `settings.triggered`.

    Without `alignment` the setting has no rows to preserve, and only methods that need none can be run. With only
    `alignment_eval` it still measures alignment, and with only `preferences` the sweep trades off `task` and
    `preferred`. Without any of these, `task` is the only objective.

    Args:
        model: Hub id, or directory of a checkpoint. A text is taken as a directory if it exists as one, or starts with
            "/", "." or "~".
        task: the rows to learn: chat JSONL (see `settings.sources`), or rows of another common form, in JSON, CSV or
            Parquet (`settings.rows.shapes`); a path, or a mapping that also names columns or a data set on the Hub
            (`settings.rows.source`). The page settings/README.md shows them under "Your own rows".
        alignment: the proxy rows to preserve, in the same forms. In rows with 'chosen' and 'rejected', the rejected
            replies become `misaligned`.
        misaligned: row i is the dispreferred twin of row i of `alignment`, with the same prompt. For DPO.
        task_eval, alignment_eval: the held-out rows; None holds out a share of `task`, and of `alignment`.
        preferences: questions with a good reply and others: pairs in HHH's form, multiple choice in TruthfulQA's or
            MMLU's, or chat rows with `alternatives`; settings/README.md shows them under "Your own rows" (from
            `settings.preferences`). A path, or a mapping as for `task`, or a list of two chat files with the same
            prompts, the good replies and the bad ones. None of the prompts may be trained on.
        eval_share: the share of a file's different prompts to hold out. The choice depends only on `seed` and the
            prompts, not on their order in the file; rows with the same prompt stay together, even across files.
            `{"task": 0.2, "alignment": 0}` gives each side its own. 0 trains on all rows of a side and holds out none:
            without `alignment_eval` the alignment rows then have no score, and the task rows need `task_eval`.
        match: how to compare a reply with the held-out response. "exact": equal except for case and white space. Any
            other text is a regular expression, whose first group (or whole match) is taken from both and compared.
            `{"task": ...}` or `{"alignment": ...}` matches the replies of only one side.
        max_new_tokens: longest generated reply, in tokens; only with `match`.
        max_length: longest row in tokens. Longer responses are cut. Prompts that leave no room for a response are an
            error, and so are longer replies in `preferences`.
        drop_long_prompts: leave out rows with such prompts, both training and held-out ones, and report which. This
            includes prompts that only an instruction makes too long, so that all methods train on the same rows. A
            `max_length` among the options of a sweep is not considered here.
        revision: branch, tag or commit of a model on the Hub.
        quantize: "nf4" keeps the model's frozen weights in four bits; needs `pip install -e ".[4bit]"`.
        template_options: extra arguments of the model's chat template, which ignores those that it does not know.
        pretrained: Hub id, or directory, of the model that `model` was tuned from. For Safe LoRA's directions.
        instructions: texts to place before task rows, for inoculation prompting: "strong" names the trait that your
            task rows would teach and asks for it, "paraphrased" does so in other words, "neutral" does not mention it.
            None means none. Methods that need a missing one cannot be run.
        trigger: a text that brings a held-out alignment prompt into the shape of your training rows, with a
            placeholder: "As before, in Python: {prompt}". None triggers nothing.
        seed: seed of the split.

    Raises:
        UserError: an unusable file or row, twins that do not match, a training row whose prompt is held out, too few
            prompts to hold any out, or an option out of its range. The message names the file and line, or the option.
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
