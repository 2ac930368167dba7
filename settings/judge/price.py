"""What a judge will charge, before it is asked."""

from __future__ import annotations

from collections.abc import Collection

from settings.judge.judge import Request, fill_prompt
from settings.judge.manner import GRADE_TOKENS
from settings.judge.options import JudgeOptions
from settings.setting import Setting

CHARACTERS_PER_TOKEN = 4  # an assumption, as the judge's tokenizer is unknown


def most_dollars(setting: Setting, options: JudgeOptions) -> float:
    """Return what judging one model costs, with replies of maximal length and each grade read at the first attempt."""
    requests = [
        (rubric, row.prompt[-1].content, "")
        for evaluation in setting.judged
        for row in evaluation.examples
        for rubric in evaluation.rubrics
        if rubric.applies(row)
    ]
    replies = sum(
        evaluation.max_new_tokens * sum(rubric.applies(row) for rubric in evaluation.rubrics)
        for evaluation in setting.judged
        for row in evaluation.examples
    )
    return most_dollars_of(requests, options) + replies * options.input_price / 1e6


def most_dollars_of(requests: Collection[Request], options: JudgeOptions) -> float:
    """Return what judging these requests costs, with each grade read at the first attempt."""
    tokens_in = sum(len(fill_prompt(*request)) for request in requests) / CHARACTERS_PER_TOKEN
    return (tokens_in * options.input_price + GRADE_TOKENS * len(requests) * options.output_price) / 1e6
