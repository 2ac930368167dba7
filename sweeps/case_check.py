"""Check, before anything runs, that a model can be trained as a sweep wants and can read a setting's rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from settings.base_models import NanoModel, PackagedModel, PretrainedModel, TunedModel
from settings.common.errors import UserError
from settings.encoding import Encoder, encode_rows
from settings.example import Example
from settings.model_files import check_files, model_config, model_file
from settings.setting import SHARE, Stream
from settings.tokenizer import load_tokenizer
from settings.vocabulary import check_words
from sweeps.adapter_check import check_adapters, nano_targets
from sweeps.case import Case
from sweeps.sweep import Sweep

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
MIN_QUESTIONS = 10  # a score of fewer says little
WIDE_BELOW = 50  # questions: the interval of a share is then wider than most differences between methods


def num_questions(case: Case) -> dict[str, int]:
    """Return the number of questions behind each objective; the worst of several has the fewest."""
    counts = {
        score.name: sum(map(score.applies, asked.examples))
        for asked in case.setting.evaluations
        for score in asked.scores
    }
    return {score.name: min(map(counts.__getitem__, score.worst_of or (score.name,))) for score in case.objectives}


def wide_shares(case: Case) -> tuple[str, ...]:
    """Say how wide a single trial's interval is at 1/2, for each objective that is a share of few questions."""
    from analysis.statistics.proportions import wilson

    measured = num_questions(case)
    shares = [score.name for score in case.objectives if score.ends == SHARE]
    few = {name: measured[name] for name in shares if 0 < measured[name] < WIDE_BELOW}
    half = {name: wilson(number / 2, number)[1] - 0.5 for name, number in few.items()}
    return tuple(
        f"{name}: {number} question{'s' * (number != 1)}, an interval of about ±{half[name]:.2f}"
        for name, number in few.items()
    )


def few_questions(case: Case) -> tuple[str, ...]:
    """Return a caution for each objective that is measured on few questions."""
    return tuple(
        f"objective {name!r} is measured on {number} question{'s' * (number != 1)}; a score of so few says little: give"
        " more rows, or other `objectives=`"
        for name, number in num_questions(case).items()
        if number < MIN_QUESTIONS
    )


def check_case(sweep: Sweep, case: Case) -> tuple[str, ...]:
    """Check a case's model files and all its adapters, and encode all rows and questions.

    If a method puts an instruction before rows, all of them are also encoded with it: which ones get it depends on the
    seed. The base model's own replies are not known yet; they are cut as responses are, and their prompts are checked.

    Of a nano model, the words are looked up in its world's vocabulary instead.

    Return cautions about its template, and about configurations that are the same. A model whose files are not on this
    machine is not checked.

    Raises:
        UserError: a model that is not supported, an adapter on layers that the model lacks, rows that do not fit (with
            their places), words that a nano world lacks, or a tokenizer that cannot be used.
    """
    base = case.setting.base_model
    if isinstance(base, NanoModel):
        check_words(case.setting, {name for _, name in _instructed(sweep, case)})
        return check_adapters(sweep, case, partial(nano_targets, base))
    start = base.start if isinstance(base, TunedModel) else base
    fetched = not isinstance(start, PackagedModel) or start.is_fetched
    config = model_config(start.source, start.revision) if fetched else getattr(start, "config", None)
    if not config:
        return ()
    from trainables.bases.config_check import model_of_config  # imports transformers, which nano settings do not need
    from trainables.engine.targets import target_names

    if fetched:
        check_files(start.source)
    cautions = check_adapters(sweep, case, partial(target_names, model_of_config(config, start.source)))
    encoder = encoder_of(case)
    if encoder is None:
        return cautions
    _check_rows(case, encoder, _instructed(sweep, case))
    return (*encoder.cautions, *cautions)


def _start_of(case: Case) -> PretrainedModel | PackagedModel | None:
    """Return the external model that a case starts from; None for a nano model, or one that is not fetched yet."""
    base = case.setting.base_model
    model = base.start if isinstance(base, TunedModel) else base
    if isinstance(model, NanoModel) or (isinstance(model, PackagedModel) and not model.is_fetched):
        return None
    return model


def encoder_of(case: Case) -> Encoder | None:
    """Return the encoder of a case's rows; None for a nano model, or one whose files are not here.

    Raise UserError for a tokenizer that cannot be used.
    """
    model = _start_of(case)
    config = None if model is None else model_config(model.source, model.revision)
    if model is None or config is None:
        return None
    if not any(model_file(model.source, name, model.revision) for name in TOKENIZER_FILES):
        return None
    check_files(model.source)
    tokenizer = load_tokenizer(model.source, model.revision)
    vocabulary = _vocabulary(config.read_text(encoding="utf-8"))
    return Encoder(tokenizer, model.template_options, case.template.max_length, vocabulary)


def _instructed(sweep: Sweep, case: Case) -> list[tuple[Stream, str]]:
    """Return (stream, instruction) for all that a case's methods, and what they build on, put before rows."""
    asked = [sweep.trials_of(arm, values)[0] for arm in case.arms for values in arm.space.every_option()]
    methods = {each.method: None for trial in asked for each in (trial, *trial.built_on)}
    found = [
        (stream, how.instruction)
        for method in methods
        for stream in (*method.streams, *method.prepared_streams)
        if (how := method.rewriting(stream)) and how.instructs
    ]
    return list(dict.fromkeys(found))


def _check_rows(case: Case, encoder: Encoder, instructed: Iterable[tuple[Stream, str]]) -> None:
    """Encode all rows and questions. Raise UserError with the places of those that do not fit."""
    setting = case.setting
    published = any("published" in arm.space.definitions for arm in case.arms)
    ways: list[Callable[[Example], Any]] = [encoder.row, *([encoder.published_row] if published else [])]
    problems: list[str] = []
    refused = set[Stream]()  # a row that does not fit will not fit with an instruction either
    for stream, examples in setting.streams.items():
        told = _problems(examples, f"{stream} row", ways)
        problems += told
        if told:
            refused.add(stream)
    for stream, name in instructed:
        if stream not in refused:
            text = case.template.instruction(name)
            rows = [replace(example, instruction=text) for example in setting.streams[stream]]
            told = _problems(rows, f"{stream} row", ways)
            problems += [f"with the instruction {name!r} before its rows, {problem}" for problem in told]
    for asked in setting.evaluations:
        replies = partial(encoder.replies, counts_end=asked.counts_end)
        what = f"question of evaluation {asked.name!r}"
        problems += _problems(asked.examples, what, [replies if asked.compares else encoder.row])
    if problems:
        raise UserError(f"setting {setting.name!r}: {'; '.join(dict.fromkeys(problems))}")


def _problems(examples: Sequence[Example], what: str, ways: Iterable[Callable[[Example], Any]]) -> list[str]:
    """Return a line for the rows that the first failing encoding refuses; none if every encoding takes all."""
    try:
        for encode in ways:
            encode_rows(examples, what, encode)
    except UserError as error:
        return [str(error)]
    return []


def _vocabulary(config: str) -> int | None:
    """Return a model's vocabulary size by its config.json; None if that does not say."""
    values = json.loads(config)
    size = values.get("vocab_size") or (values.get("text_config") or {}).get("vocab_size")
    return size if isinstance(size, int) else None
