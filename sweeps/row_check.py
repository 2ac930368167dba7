"""Whether a model can read a setting's rows, before anything runs."""

from __future__ import annotations

import json

from settings.base_models import NanoModel, TunedModel
from settings.common.errors import UserError
from settings.encoding import Encoder, encode_rows
from settings.model_files import check_files, model_config
from settings.tokenizer import load_tokenizer
from sweeps.case import Case


def check_rows(case: Case) -> tuple[str, ...]:
    """Encode all rows and questions of a case, and return cautions about the model's template.

    A nano model reads all rows of its setting. The tokenizer of a model that is not on this machine is not looked at.

    Raises:
        UserError: rows that do not fit, with their places, or a tokenizer that cannot be used.
    """
    setting = case.setting
    model = setting.base_model.start if isinstance(setting.base_model, TunedModel) else setting.base_model
    if isinstance(model, NanoModel):
        return ()
    config = model_config(model.source, model.revision)
    if config is None:
        return ()
    check_files(model.source)
    tokenizer = load_tokenizer(model.source, model.revision)
    encoder = Encoder(tokenizer, model.template_options, case.template.max_length, _vocabulary(config.read_text()))
    rows = [(f"{stream} row", examples) for stream, examples in setting.streams.items()]
    rows += [(f"question of evaluation {each.name!r}", each.examples) for each in setting.evaluations]
    problems = []
    for what, examples in rows:
        try:
            encode_rows(examples, what, encoder.row)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"setting {setting.name!r}: {'; '.join(dict.fromkeys(problems))}")
    return encoder.cautions


def _vocabulary(config: str) -> int | None:
    """Return how many tokens a model knows by its config.json, None where that does not say."""
    values = json.loads(config)
    size = values.get("vocab_size", values.get("text_config", {}).get("vocab_size"))
    return size if isinstance(size, int) else None
