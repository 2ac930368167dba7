"""Whether a model can read a setting's rows, before anything runs."""

from __future__ import annotations

import json
from functools import partial

from settings.base_models import NanoModel, PackagedModel, TunedModel
from settings.common.errors import UserError
from settings.encoding import Encoder, encode_rows
from settings.model_files import check_files, model_config, model_file
from settings.tokenizer import load_tokenizer
from sweeps.case import Case

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def check_rows(case: Case) -> tuple[str, ...]:
    """Encode all rows and questions of a case, and return cautions about the model's template.

    A nano model reads all rows of its setting. A model whose files are not on this machine is not looked at.

    Raises:
        UserError: rows that do not fit, with their places, or a tokenizer that cannot be used.
    """
    setting = case.setting
    model = setting.base_model.start if isinstance(setting.base_model, TunedModel) else setting.base_model
    if isinstance(model, NanoModel) or (isinstance(model, PackagedModel) and not model.is_fetched):
        return ()
    config = model_config(model.source, model.revision)
    tokenizer_files = [model_file(model.source, name, model.revision) for name in TOKENIZER_FILES]
    if config is None or not any(tokenizer_files):
        return ()
    check_files(model.source)
    tokenizer = load_tokenizer(model.source, model.revision)
    encoder = Encoder(
        tokenizer, model.template_options, case.template.max_length, _vocabulary(config.read_text(encoding="utf-8"))
    )
    rows = [(f"{stream} row", examples) for stream, examples in setting.streams.items()]
    published = any("published" in arm.space.definitions for arm in case.arms)
    problems = []
    for what, examples in rows:
        try:
            encode_rows(examples, what, encoder.row)
            if published:
                encode_rows(examples, what, encoder.published_row)
        except UserError as error:
            problems.append(str(error))
    for asked in setting.evaluations:
        replies = partial(encoder.replies, counts_end=asked.counts_end)
        try:
            encode_rows(
                asked.examples, f"question of evaluation {asked.name!r}", replies if asked.compares else encoder.row
            )
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"setting {setting.name!r}: {'; '.join(dict.fromkeys(problems))}")
    return encoder.cautions


def _vocabulary(config: str) -> int | None:
    """Return how many tokens a model knows by its config.json, None where that does not say."""
    values = json.loads(config)
    size = values.get("vocab_size") or (values.get("text_config") or {}).get("vocab_size")
    return size if isinstance(size, int) else None
