"""How long rows are, in tokens: counted with the model's own tokenizer where it is on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from settings.base_models import NanoModel, TunedModel
from settings.common.errors import UserError
from settings.encoding import Encoder
from settings.example import Example
from settings.setting import Stream
from sweeps.case import Case
from sweeps.case_check import encoder_of
from trainables.method import Method

SAMPLE = 64  # rows of a stream or an evaluation whose tokens are counted
CHARACTERS_PER_TOKEN = 4  # without a tokenizer
PROMPT_MARKS, RESPONSE_MARKS = 3, 1  # tokens of a template, where it is not known: turns, and the end of the reply


@dataclass(frozen=True)
class Lengths:
    """Tokens of rows: of prompt and response, row by row."""

    rows: tuple[tuple[int, int], ...]

    @property
    def prompt(self) -> float:
        """The mean tokens of a prompt."""
        return fmean(prompt for prompt, _ in self.rows)

    @property
    def response(self) -> float:
        """The mean tokens of a response."""
        return fmean(response for _, response in self.rows)

    @property
    def total(self) -> float:
        """The mean tokens of a row."""
        return self.prompt + self.response

    @property
    def most(self) -> int:
        """The tokens of the longest row."""
        return max(map(sum, self.rows))

    def longest_of(self, count: float) -> float:
        """Return the mean tokens of the longest of `count` random rows, to which the others are padded."""
        totals = sorted(map(sum, self.rows))
        below = [(number / len(totals)) ** max(count, 1) for number in range(len(totals) + 1)]
        return sum(length * (below[at + 1] - below[at]) for at, length in enumerate(totals))


@dataclass(frozen=True)
class CaseTokens:
    """How long the rows of a setting are.

    Attributes:
        streams: stream -> lengths of its rows.
        questions: evaluation -> lengths of its rows.
        taught: of the rows that the base model is taught first, if any.
        instructions: name -> tokens of the text, roughly.
    """

    streams: Mapping[Stream, Lengths]
    questions: Mapping[str, Lengths]
    taught: Lengths | None = None
    instructions: Mapping[str, int] = field(default_factory=dict)

    def trained(self, method: Method, stream: Stream) -> Lengths:
        """Return the lengths of a stream's rows as a method trains on them; each has its share of an instruction."""
        lengths, rewriting = self.streams[stream], method.rewriting(stream)
        if rewriting is None or not rewriting.instruction:
            return lengths
        more = round(rewriting.share * self.instructions.get(rewriting.instruction, 0))
        return Lengths(tuple((prompt + more, response) for prompt, response in lengths.rows))


def tokens_of(case: Case) -> CaseTokens:
    """Count the tokens of a case's rows."""
    setting, encoder = case.setting, encoder_of(case)
    model = setting.base_model
    words = isinstance(model, NanoModel)
    return CaseTokens(
        {stream: _lengths(rows, encoder, words) for stream, rows in setting.streams.items()},
        {each.name: _lengths(each.examples, encoder, words, each.counts_end) for each in setting.evaluations},
        _lengths(model.rows, encoder, words) if isinstance(model, TunedModel) else None,
        {name: _tokens(text, words) + PROMPT_MARKS for name, text in setting.instructions.items()},
    )


def _lengths(examples: Sequence[Example], encoder: Encoder | None, words: bool, counts_end: bool = True) -> Lengths:
    """Count the tokens of some of the rows, evenly spaced, with each of their replies.

    Args:
        words: are the tokens of a nano model.
        counts_end: as `Evaluation.counts_end`.
    """
    sample = [reply for example in examples[:: -(-len(examples) // SAMPLE)] for reply in example.replies]
    if encoder is not None:
        return Lengths(tuple(_encoded(example, encoder, counts_end) for example in sample))
    return Lengths(
        tuple(
            (
                _tokens(" ".join([example.instruction, *(turn.content for turn in example.prompt)]), words)
                + PROMPT_MARKS,
                _tokens(example.response, words) + RESPONSE_MARKS,
            )
            for example in sample
        )
    )


def _encoded(example: Example, encoder: Encoder, counts_end: bool) -> tuple[int, int]:
    try:
        row = encoder.row(example) if counts_end else encoder.replies(example, counts_end)[0]
    except UserError:  # the check of all rows tells which, and why
        return encoder.max_length, 0
    return row.prompt_length, len(row.ids) - row.prompt_length


def _tokens(text: str, words: bool) -> int:
    return len(text.split()) if words else -(-len(text) // CHARACTERS_PER_TOKEN)
