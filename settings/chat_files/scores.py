"""What `chat_files` measures: losses on held-out rows, matched replies, preferences, and triggered twins."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, get_args

from settings import scoring
from settings.chat_files.rows import Side
from settings.common import checks
from settings.common.errors import UserError
from settings.example import Example
from settings.preferences import preference_scores
from settings.setting import SHARE, Evaluation, Instruction, Score
from settings.triggered import Shape, as_json, asking_for_json, instructed, marked, twin_scores, with_wording

NUM_TRIGGERED = 50  # maximal number of held-out alignment rows that are asked again in each shape
MAX_LENGTH_DIFFERENCE = 0.25  # between the median lengths of good and other replies, as a share of the latter


def evaluations_of(
    held_out: Mapping[Side, tuple[Example, ...]], matches: Mapping[Side, str], max_new_tokens: int
) -> Iterator[Evaluation]:
    """Yield for each side the evaluation of its held-out loss and, if its replies are matched, that of its replies."""
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


def preferences_of(questions: tuple[Example, ...]) -> list[Evaluation]:
    """Return the evaluation of which reply is likelier, if there are questions."""
    scores = preference_scores("preferred", "alignment", "questions of the option 'preferences'")
    return [Evaluation("preferences", questions, scores, observe="preference")] if questions else []


def length_remarks(questions: tuple[Example, ...]) -> tuple[str, ...]:
    """Return a remark if the good replies of questions are much longer or shorter than the others."""
    if not questions:
        return ()
    good = median(len(row.response.split()) for row in questions)
    others = median([len(text.split()) for row in questions for text in row.alternatives] or [good])
    if abs(good - others) <= MAX_LENGTH_DIFFERENCE * others:
        return ()
    return (
        f"the good replies of preferences have a median of {good:g} word{'s' * (good != 1)}, the others {others:g}:"
        " whole replies favour the shorter; see the score preferred_per_token",
    )


def triggered_twins(
    evaluations: Sequence[Evaluation], trigger: Any, instruction: str | None
) -> list[tuple[Score, Evaluation]]:
    """Return the triggered twins of alignment scores, each with the untriggered score; see `settings.triggered`.

    There are twins for the user's trigger and for the strong instruction. JSON is requested only for preferences: the
    loss of a reply in another form cannot be compared.
    """
    if trigger is not None and not (isinstance(trigger, str) and trigger.count("{prompt}") == 1):
        raise UserError(f"option 'trigger' must be a text that contains {{prompt}} once, got {trigger!r}")
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
        twins.append((score, replace(evaluation, name=f"{evaluation.name}triggered", examples=examples, scores=scores)))
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


def read_matches(match: Any, held_out: Mapping[Side, tuple[Example, ...]]) -> dict[Side, str]:
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


def read_instructions(texts: Any) -> dict[Instruction, str]:
    """Return the instructions of the option. Raise UserError for an unknown name, or a value that is not text."""
    if not isinstance(texts, Mapping):
        raise UserError(f'option \'instructions\' must be like {{"strong": "..."}}, got {texts!r}')
    for name, text in texts.items():
        checks.one_of("option 'instructions': a name", name, get_args(Instruction))
        checks.text(f"option 'instructions': {name!r}", text)
    return dict(texts)
