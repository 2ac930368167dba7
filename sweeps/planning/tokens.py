"""How long rows are, in tokens: counted with the model's own tokenizer if it is on this machine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from settings.base_models import NanoModel, TunedModel
from settings.common.errors import UserError
from settings.encoding import Encoder, LongPromptError
from settings.example import Example
from settings.setting import Stream
from sweeps.case import Case
from sweeps.case_check import encoder_of
from trainables.interface.rewriting import Rewriting
from trainables.method import Method
from trainables.trial import TrialConfig

SAMPLE = 64  # rows of a stream or an evaluation whose tokens are counted
CHARACTERS_PER_TOKEN = 4  # without a tokenizer
PROMPT_MARKS, RESPONSE_MARKS = 3, 1  # tokens of an unknown template: turns, and the end of the reply


@dataclass(frozen=True)
class Lengths:
    """Tokens of rows: (prompt, response) of each."""

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
        """Return the expected tokens of the longest of `count` random rows, to which the others are padded."""
        totals = sorted(map(sum, self.rows))
        below = [(number / len(totals)) ** max(count, 1) for number in range(len(totals) + 1)]
        return sum(length * (below[at + 1] - below[at]) for at, length in enumerate(totals))


@dataclass(frozen=True)
class CaseTokens:
    """How long the rows of a setting are.

    Attributes:
        streams: stream -> lengths of its rows.
        questions: evaluation -> lengths of its rows.
        taught: lengths of the rows that the base model is taught first, if any.
        instructions: name -> tokens that it adds to a prompt; a rough number if the tokenizer is not known.
        max_length: most tokens of a row; longer ones are cut.
    """

    streams: Mapping[Stream, Lengths]
    questions: Mapping[str, Lengths]
    taught: Lengths | None = None
    instructions: Mapping[str, int] = field(default_factory=dict)
    max_length: int | None = None

    def trained(self, method: Method, stream: Stream) -> Lengths:
        """Return the lengths of a stream's rows as a method trains on them; each gets its share of an instruction."""
        rewriting = method.rewriting(stream)
        return self.streams[stream] if rewriting is None else self._rewritten(stream, rewriting, rewriting.share)

    def most(self, method: Method, stream: Stream) -> int:
        """Return the tokens of the longest row of a stream that a method may train on."""
        rewriting = method.rewriting(stream)
        return (self.streams[stream] if rewriting is None else self._rewritten(stream, rewriting, 1.0)).most

    def _rewritten(self, stream: Stream, rewriting: Rewriting, share: float) -> Lengths:
        """Return the lengths of rewritten rows; own replies are assumed to have their maximum length."""
        lengths = self.streams[stream]
        more = round(share * self.instructions.get(rewriting.instruction, 0)) if rewriting.instructs else 0
        longest = max(response for _, response in lengths.rows)
        rows = ((prompt + more, longest if rewriting.own_replies else response) for prompt, response in lengths.rows)
        if self.max_length is None:
            return Lengths(tuple(rows))
        return Lengths(tuple((prompt, max(0, min(response, self.max_length - prompt))) for prompt, response in rows))


def tokens_of(case: Case) -> CaseTokens:
    """Count the tokens of a case's rows."""
    setting, encoder = case.setting, encoder_of(case)
    model = setting.base_model
    words = isinstance(model, NanoModel)
    return CaseTokens(
        {stream: _lengths(rows, encoder, words) for stream, rows in setting.streams.items()},
        {each.name: _lengths(each.examples, encoder, words, each.counts_end) for each in setting.evaluations},
        _lengths(model.rows, encoder, words) if isinstance(model, TunedModel) else None,
        {name: _added(text, setting.streams["task"], encoder, words) for name, text in setting.instructions.items()},
        case.template.max_length,
    )


def rows_key(trial: TrialConfig, stream: Stream) -> Hashable:
    """Return what distinguishes the rows that a trial trains on from those of other trials on its setting."""
    rewriting = trial.method.rewriting(stream)
    if rewriting is None or not rewriting.is_effective:
        return stream, trial.method.definition
    return stream, trial.method.definition, rewriting, trial.seed if rewriting.is_drawn else None


def _added(instruction: str, rows: Sequence[Example], encoder: Encoder | None, words: bool) -> int:
    """Return the most tokens that an instruction adds to a prompt, over some rows."""
    if encoder is None:
        return _tokens(instruction, words) + PROMPT_MARKS
    sample = rows[:: -(-len(rows) // SAMPLE)]
    return max(
        _prompt_tokens(replace(row, instruction=instruction), encoder) - _prompt_tokens(row, encoder) for row in sample
    )


def _prompt_tokens(example: Example, encoder: Encoder) -> int:
    """Return the tokens of a prompt, even a too long one; 0 if it fails, which the check of all rows will explain."""
    try:
        return encoder.row(example).prompt_length
    except LongPromptError as error:
        return error.tokens
    except UserError:
        return 0


def _lengths(examples: Sequence[Example], encoder: Encoder | None, words: bool, counts_end: bool = True) -> Lengths:
    """Count the tokens of some evenly spaced rows, with each of their replies.

    Args:
        words: whether tokens are words, as for a nano model.
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
    except UserError:  # the check of all rows will say which, and why
        return encoder.max_length, 0
    return row.prompt_length, len(row.ids) - row.prompt_length


def _tokens(text: str, words: bool) -> int:
    return len(text.split()) if words else -(-len(text) // CHARACTERS_PER_TOKEN)
