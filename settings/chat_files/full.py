"""Your own data: chat JSONL files in, a setting out, with any local or Hub model.

    setting("chat_files", model="Qwen/Qwen3-8B", task="task.jsonl", alignment="harmless.jsonl", match=r"= (\\d+)\\.")

The model learns the rows of `task` and must preserve those of `alignment`. Both are judged on rows that no training
reads: from files of their own, or a share of these rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from settings import scoring
from settings.base_models import PretrainedModel, Recipe
from settings.common import checks
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.files import absolute_path
from settings.encoding import Encoder, LongPromptError, describe_problems
from settings.example import Example, Message
from settings.options import NO_THINKING, FilePath, ModelSource, check_file, pretrained_model
from settings.preferences import pair, preference_scores, read_preferences, read_twins
from settings.rows.source import RowSource, SourceRows, read_source
from settings.setting import SHARE, Evaluation, Instruction, Score, Setting, Stream
from settings.tokenizer import load_tokenizer
from settings.triggered import (
    Shape,
    as_json,
    asking_for_json,
    instructed,
    marked,
    twin_scores,
    with_wording,
    worst_score,
)

Side = Literal["task", "alignment"]
PromptKey = tuple[tuple[str, str], ...]
SIDES: tuple[Side, ...] = ("task", "alignment")
PASSES, MIN_STEPS, BATCH_SIZE = 3, 50, 16
NUM_TRIGGERED = 50  # held-out alignment rows that are asked once more in each shape, at most


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
    checks.share("option 'eval_share'", eval_share)
    checks.integer("option 'seed'", seed, 0)
    checks.sizes({"max_new_tokens": max_new_tokens, "max_length": max_length})
    checks.flag("option 'drop_long_prompts'", drop_long_prompts)
    base_model = pretrained_model(model, revision, quantize, template_options=template_options, pretrained=pretrained)
    optional = {"alignment": alignment, "misaligned": misaligned}
    optional |= {"task_eval": task_eval, "alignment_eval": alignment_eval}
    given = {"task": task, **{option: source for option, source in optional.items() if source is not None}}
    read = {option: read_source(option, source) for option, source in given.items()}
    files, remarks = _sorted_out(read)
    _check_twins(files)
    compared = [preferences] if isinstance(preferences, str | Path) else preferences or []
    if preferences is not None:
        files["preferences"] = _read_compared(preferences, compared)
    texts = {} if instructions is None else _instructions(instructions)
    if drop_long_prompts:
        files, dropped = _without_long_prompts(files, base_model, max_length, tuple(texts.values()))
        remarks += dropped
    parts = _split(files, eval_share, seed)
    asked = _evaluations(parts.held_out, _matches(match, parts.held_out), max_new_tokens)
    evaluations = [*asked, *_preferences(files.get("preferences", ()))]
    triggered = _triggered(evaluations, trigger, texts.get("strong"))
    return Setting(
        name="chat_files",
        scale="full",
        summary=_summary(base_model, parts),
        base_model=base_model,
        streams=parts.streams,
        evaluations=(*evaluations, *(each for _, each in triggered)),
        recipe=_recipe(len(parts.streams["task"]), max_length),
        objectives=tuple(parts.held_out) if "alignment" in parts.held_out or not compared else ("task", "preferred"),
        sources=(*(rows.name for rows in read.values()), *(str(absolute_path(path)) for path in compared)),
        remarks=remarks,
        instructions=texts,
        worst=tuple(worst_score(untriggered, each.scores) for untriggered, each in triggered),
    )


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """Rows to train on, and rows held out, each with its place."""

    streams: Mapping[Stream, tuple[Example, ...]]
    held_out: Mapping[Side, tuple[Example, ...]]


def _sorted_out(read: Mapping[str, SourceRows]) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
    """Return the rows of each option, and lines on how they were read.

    Rejected replies of alignment rows are the misaligned twins, unless there are others. Raise UserError where only a
    part of the rows has one.
    """
    files = {option: rows.good for option, rows in read.items()}
    remarks = list(dict.fromkeys(rows.remark for rows in read.values() if rows.remark))
    for option, rows in read.items():
        pairs = [row for row in rows.examples if row.alternatives]
        if pairs and option == "alignment" and "misaligned" not in read:
            if len(pairs) < len(rows.examples):
                alone = next(row for row in rows.examples if not row.alternatives)
                raise UserError(f"{alone.place}: no rejected reply, which other rows of option 'alignment' have")
            files["misaligned"] = tuple(pair.replies[1] for pair in pairs)
            remarks.append("the rejected replies of option 'alignment' are its misaligned twins")
        elif pairs and option == "misaligned":
            raise UserError(f"{pairs[0].place}: has two replies; give pairs as option 'alignment'")
        elif pairs:
            remarks.append(f"the rejected replies of option {option!r} are not read")
    return files, tuple(remarks)


def _read_compared(option: Any, paths: Sequence[Any]) -> tuple[Example, ...]:
    """Read the questions of the option `preferences`: a file of them, or two chat files."""
    if not isinstance(option, str | Path | list | tuple) or len(paths) not in (1, 2):
        raise UserError(
            f"option 'preferences' must be the path of a file of questions, or a list of two chat files, got {option!r}"
        )
    for path in paths:
        check_file("preferences", path, "a file of questions with several replies")
    if len(paths) == 1:
        return read_preferences(paths[0])
    return tuple(pair(good, bad) for good, bad in read_twins(*paths))


def _check_twins(files: Mapping[str, tuple[Example, ...]]) -> None:
    """Raise UserError unless row i of `misaligned` has the prompt of row i of `alignment`."""
    if "misaligned" not in files:
        return
    if "alignment" not in files:
        raise UserError("option 'misaligned' needs option 'alignment': its rows are the twins of the alignment rows")
    chosen, rejected = files["alignment"], files["misaligned"]
    for preferred, twin in zip(chosen, rejected, strict=False):
        if preferred.prompt != twin.prompt:
            raise UserError(
                f"{twin.place}: another prompt than its twin, {preferred.place}; row i of option 'misaligned' must"
                " have the prompt of row i of option 'alignment'"
            )
    if len(chosen) != len(rejected):
        raise UserError(
            f"option 'misaligned' has {len(rejected)} rows and option 'alignment' {len(chosen)}; row i of one must be"
            " the twin of row i of the other"
        )


def _without_long_prompts(
    files: Mapping[str, tuple[Example, ...]], model: PretrainedModel, max_length: int, instructions: Sequence[str]
) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
    """Leave out the rows whose prompts leave no room for a response; also return a line on which these are.

    As they are, or with one of the instructions before them. Twins have the same prompt, so that they go together.
    Raise UserError when no row of a file is left.
    """
    encoder = Encoder(load_tokenizer(model.source, model.revision), model.template_options, max_length)
    short: dict[str, tuple[Example, ...]] = {}
    long: dict[str, LongPromptError] = {}
    for option, rows in files.items():
        errors = [_long_prompt(row, encoder, instructions) for row in rows]
        long |= {row.place: error for row, error in zip(rows, errors, strict=True) if error}
        short[option] = tuple(row for row, error in zip(rows, errors, strict=True) if not error)
        if not short[option]:
            raise UserError(f"option {option!r}: no row is left: {describe_problems(long)}")
    return short, (f"left out: {describe_problems(long)}",) if long else ()


def _long_prompt(row: Example, encoder: Encoder, instructions: Sequence[str]) -> LongPromptError | None:
    """Return the error of a row that does not fit, as it is or with one of the instructions before it."""
    versions = (row, *(replace(row, instruction=text) for text in instructions))
    return next(filter(None, map(encoder.long_prompt, versions)), None)


def _split(files: Mapping[str, tuple[Example, ...]], share: float, seed: int) -> _Parts:
    """Hold out rows of the files that have no evaluation file of their own.

    A prompt that is held out of one file is held out of the others too, so that no training reads it.
    """
    whole = {row.prompt_key for side in SIDES if f"{side}_eval" in files for row in files.get(side, ())}
    shared = [side for side in SIDES if side in files and f"{side}_eval" not in files]
    held = {prompt for side in shared for prompt in _held_out(files[side], whole, share, seed, side)}
    streams: dict[Stream, tuple[Example, ...]] = {}
    for stream in ("task", "alignment", "misaligned"):
        if stream in files:
            streams[stream] = tuple(row for row in files[stream] if row.prompt_key not in held)
    held_out: dict[Side, tuple[Example, ...]] = {}
    for side in SIDES:
        if f"{side}_eval" in files:
            held_out[side] = files[f"{side}_eval"]
        elif side in files:
            held_out[side] = tuple(row for row in files[side] if row.prompt_key in held)
            if not streams[side]:
                raise UserError(_too_few(side, "all of its prompts are held out"))
    return _Parts(streams, held_out)


def _held_out(rows: Iterable[Example], whole: set[PromptKey], share: float, seed: int, side: Side) -> list[PromptKey]:
    """Return the prompts of `rows` that come first by a hash of seed and prompt; none of those in `whole`."""
    ranks: dict[PromptKey, str] = {}
    for row in rows:
        rank = _rank(row.prompt, seed)
        ranks[row.prompt_key] = min(rank, ranks.get(row.prompt_key, rank))
    candidates = sorted(ranks.keys() - whole, key=ranks.__getitem__)
    if not candidates or len(ranks) < 2:
        raise UserError(_too_few(side, f"{len(candidates)} of its {len(ranks)} different prompts can be held out"))
    return candidates[: min(max(1, round(share * len(ranks))), len(ranks) - 1)]


def _too_few(side: Side, problem: str) -> str:
    return f"option {side!r} has too few rows to hold some out: {problem}; give option '{side}_eval'"


def _rank(prompt: Sequence[Message], seed: int) -> str:
    return content_id([seed, [[message.role, message.content] for message in prompt]], length=64)


# --- scores ----------------------------------------------------------------------------------------------------------


def _evaluations(
    held_out: Mapping[Side, tuple[Example, ...]], matches: Mapping[Side, str], max_new_tokens: int
) -> Iterator[Evaluation]:
    """Yield for each side the evaluation of the held-out loss, and where it is matched that of the replies."""
    for side, rows in held_out.items():
        loss = Score(
            side,
            side,
            f"loss on held-out {side} rows: mean over rows of nats per response token",
            grade=scoring.token_loss,
            higher_is_better=False,
            ends=(0.0, None),
        )
        yield Evaluation(f"{side}_loss", rows, (loss,), observe="token_loss")
        if side in matches:
            yield Evaluation(f"{side}_replies", rows, (_match_score(side, matches[side]),), "reply", max_new_tokens)


def _preferences(questions: tuple[Example, ...]) -> list[Evaluation]:
    """Return the evaluation of which replies are likelier, if there are questions."""
    scores = preference_scores("preferred", "alignment", "questions of the option 'preferences'")
    return [Evaluation("preferences", questions, scores, observe="preference")] if questions else []


def _triggered(
    evaluations: Sequence[Evaluation], trigger: Any, instruction: str | None
) -> list[tuple[Score, Evaluation]]:
    """Return the triggered twins of alignment scores, each with the untriggered score; see `settings.triggered`.

    There are those of the user's trigger and of the strong instruction. A request for JSON is made where replies are
    compared: the loss of a reply in another form is another loss.
    """
    if trigger is not None and not (isinstance(trigger, str) and trigger.count("{prompt}") == 1):
        raise UserError(f"option 'trigger' must be a text with {{prompt}} in it, once, got {trigger!r}")
    twins = []
    for evaluation in evaluations if trigger or instruction else ():
        if evaluation.name not in ("alignment_loss", "preferences"):
            continue
        score, asked = evaluation.scores[0], evaluation.examples
        rows = [asked[place * len(asked) // NUM_TRIGGERED] for place in range(NUM_TRIGGERED)]
        rows = list(asked) if len(asked) <= NUM_TRIGGERED else rows
        shaped: dict[Shape, tuple[Example, ...]] = {}
        if trigger:
            wording = partial(_with_prompt, trigger)
            shaped["task_shape"] = tuple(with_wording(row, wording) for row in rows)
        if instruction:
            shaped["instructed"] = instructed(rows, instruction)
        if evaluation.compares:
            shaped["format"] = asking_for_json(rows, as_json)
        examples = tuple(row for shape, group in shaped.items() for row in marked(group, shape))
        scores = twin_scores(score, shaped, task_shape="with the user's trigger")
        twins.append(
            (score, replace(evaluation, name=f"{evaluation.name}_triggered", examples=examples, scores=scores))
        )
    return twins


def _with_prompt(trigger: str, prompt: str) -> str:
    return trigger.replace("{prompt}", prompt)


def _match_score(side: Side, match: str) -> Score:
    name, rows = f"{side}_match", f"share of replies to held-out {side} prompts"
    if match == "exact":
        return Score(
            name, side, f"{rows} that equal the response, but for case and white space", scoring.exact_match, ends=SHARE
        )
    pattern = scoring.compile_pattern(match, "match")
    grade = partial(scoring.regex_match, pattern=pattern)
    description = f"{rows} from which {match!r} extracts the same as from the response"
    return Score(name, side, description, grade, applies=partial(scoring.has_extract, pattern=pattern), ends=SHARE)


def _matches(match: Any, held_out: Mapping[Side, tuple[Example, ...]]) -> dict[Side, str]:
    """Return how each side's replies are matched. Raise UserError for an option that can match nothing."""
    if match is None:
        return {}
    matches = dict(match) if isinstance(match, Mapping) else dict.fromkeys(held_out, match)
    for side, text in matches.items():
        if side not in held_out:
            raise UserError(f"option 'match' names {side!r}; held-out rows: {', '.join(held_out)}")
        if not isinstance(text, str) or not text:
            raise UserError(f"option 'match' must be \"exact\" or a regular expression, got {text!r}")
        if text != "exact":
            _check_gold(scoring.compile_pattern(text, "match"), side, held_out[side])
    return matches


def _check_gold(pattern: re.Pattern[str], side: Side, rows: tuple[Example, ...]) -> None:
    if not any(scoring.has_extract(row, pattern=pattern) for row in rows):
        raise UserError(
            f"option 'match': {pattern.pattern!r} finds nothing in the held-out {side} responses, the first of which is"
            f' {rows[0].place}; to match one side only, give {{"task": ...}} or {{"alignment": ...}}'
        )


def _instructions(texts: Any) -> dict[Instruction, str]:
    """Return the instructions of the option. Raise UserError for another name, or one that is no text."""
    if not isinstance(texts, Mapping):
        raise UserError(f'option \'instructions\' must be like {{"strong": "..."}}, got {texts!r}')
    for name, text in texts.items():
        checks.one_of("option 'instructions': a name", name, get_args(Instruction))
        checks.text(f"option 'instructions': {name!r}", text)
    return dict(texts)


# --- model and hyper-parameters --------------------------------------------------------------------------------------


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


def _summary(model: PretrainedModel, parts: _Parts) -> str:
    rows = ", ".join(f"{len(rows)} {stream}" for stream, rows in parts.streams.items())
    held = ", ".join(f"{len(rows)} {side}" for side, rows in parts.held_out.items())
    return f"{Path(model.source).name} on the user's own rows: {rows}; held out: {held}."
