"""The rows of `chat_files`: read, checked against one another, and split into training and held-out rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from settings.base_models import PretrainedModel
from settings.common import checks
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.files import absolute_path
from settings.encoding import Encoder, LongPromptError, describe_problems
from settings.example import Example, Message
from settings.options import check_file
from settings.preferences import pair, read_preferences, read_twins
from settings.rows.source import SourceRows
from settings.setting import Stream
from settings.tokenizer import load_tokenizer

Side = Literal["task", "alignment"]
PromptKey = tuple[tuple[str, str], ...]
SIDES: tuple[Side, ...] = ("task", "alignment")
EVAL_SHARE = 0.2


@dataclass(frozen=True)
class Parts:
    """Rows to train on, rows held out, and questions with several replies, each with its place."""

    streams: Mapping[Stream, tuple[Example, ...]]
    held_out: Mapping[Side, tuple[Example, ...]]
    questions: tuple[Example, ...] = ()

    def opened_by(self, system: tuple[Message, ...]) -> Parts:
        """Return the same rows, with this system turn added to those without one."""
        streams = {stream: opened_by(rows, system) for stream, rows in self.streams.items()}
        held_out = {side: opened_by(rows, system) for side, rows in self.held_out.items()}
        return Parts(streams, held_out, opened_by(self.questions, system))


def opened_by(rows: Iterable[Example], system: tuple[Message, ...]) -> tuple[Example, ...]:
    """Return rows with this system turn added to those without one."""
    return tuple(
        row if row.messages[0].role == "system" else replace(row, messages=(*system, *row.messages)) for row in rows
    )


def sorted_out(read: Mapping[str, SourceRows]) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
    """Return the rows of each option, and remarks on how they were read.

    Rejected replies of alignment rows become the misaligned twins, unless these are given separately. Raise UserError
    if only some of the rows have a rejected reply.
    """
    files = {option: rows.good for option, rows in read.items()}
    remarks = list(dict.fromkeys(rows.remark for rows in read.values() if rows.remark))
    for option, rows in read.items():
        pairs = [row for row in rows.examples if row.alternatives]
        if pairs and option == "alignment" and "misaligned" not in read:
            if len(pairs) < len(rows.examples):
                alone = next(row for row in rows.examples if not row.alternatives)
                raise UserError(f"{alone.place}: no rejected reply, but other rows of option 'alignment' have one")
            files["misaligned"] = tuple(pair.replies[1] for pair in pairs)
            remarks.append("the rejected replies of option 'alignment' are its misaligned twins")
        elif pairs and option == "misaligned":
            raise UserError(f"{pairs[0].place}: has two replies; give pairs as option 'alignment'")
        elif pairs:
            remarks.append(f"the rejected replies of option {option!r} are not read")
    return files, tuple(remarks)


def read_compared(option: Any) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Read the questions of the option `preferences`: a source of them, or two chat files. Return the files' names too.

    Raise UserError.
    """
    if isinstance(option, list | tuple) and len(option) == 1:
        option = option[0]
    if not isinstance(option, list | tuple):
        read = read_preferences(option)
        return read.examples, (read.name,)
    if len(option) != 2:
        raise UserError(f"option 'preferences': a list must name two chat files, good and bad replies; got {option!r}")
    for path in option:
        check_file("preferences", path, "a chat JSONL file")
    twins = read_twins(*option)
    return tuple(pair(good, bad) for good, bad in twins), tuple(str(absolute_path(path)) for path in option)


def check_apart(read: Mapping[str, SourceRows]) -> None:
    """Raise UserError if the rows to train on and those held out are of the same file, and share prompts."""
    for side in SIDES:
        rows, held_out = read.get(side), read.get(f"{side}_eval")
        if rows is None or held_out is None or rows.name != held_out.name:
            continue
        if {row.prompt_key for row in rows.examples} & {row.prompt_key for row in held_out.examples}:
            file = Path(rows.name).name
            raise UserError(
                f"options {side!r} and '{side}_eval' are the same file, {file}; leave out '{side}_eval', and a share of"
                " its prompts is held out (`eval_share`)"
            )


def check_twins(files: Mapping[str, tuple[Example, ...]]) -> None:
    """Raise UserError unless row i of `misaligned` has the prompt of row i of `alignment`."""
    if "misaligned" not in files:
        return
    if "alignment" not in files:
        raise UserError("option 'misaligned' needs option 'alignment': its rows are the twins of the alignment rows")
    chosen, rejected = files["alignment"], files["misaligned"]
    for preferred, twin in zip(chosen, rejected, strict=False):
        if preferred.prompt != twin.prompt:
            raise UserError(
                f"{twin.place}: the prompt differs from that of its twin, {preferred.place}; row i of option"
                " 'misaligned' must have the prompt of row i of option 'alignment'"
            )
    if len(chosen) != len(rejected):
        raise UserError(
            f"option 'misaligned' has {len(rejected)} rows and option 'alignment' {len(chosen)}; row i of one must be"
            " the twin of row i of the other"
        )


def without_long_prompts(
    files: Mapping[str, tuple[Example, ...]], model: PretrainedModel, max_length: int, instructions: Sequence[str]
) -> tuple[dict[str, tuple[Example, ...]], tuple[str, ...]]:
    """Leave out rows whose prompts leave no room for a response; also return a remark that lists them.

    This counts prompts as they are, and with each of the instructions before them. Twins have the same prompt, so they
    are left out together. Raise UserError if no row of a file is left.
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
    """Return the error of a row that does not fit, either as it is or with one of the instructions before it."""
    versions = (row, *(replace(row, instruction=text) for text in instructions))
    return next(filter(None, map(encoder.long_prompt, versions)), None)


def read_shares(share: Any) -> dict[Side, float]:
    """Return the share of each side's prompts to hold out; 0 trains on all of them. Raise UserError."""
    what = "option 'eval_share'"
    if not isinstance(share, Mapping):
        if checks.is_number(share) and share == 0:
            remedy = 'to train on all rows of a side, name it: {"task": 0.2, "alignment": 0}'
            raise UserError(f"{what} must be a number between 0 and 1, got {share!r}; {remedy}")
        return dict.fromkeys(SIDES, checks.share(what, share))
    for side, value in share.items():
        checks.one_of(f"{what}: a side", side, SIDES)
        if not (checks.is_number(value) and value == 0):
            checks.share(f"{what}: {side!r}", value)
    return {side: share.get(side, EVAL_SHARE) for side in SIDES}


def split(files: Mapping[str, tuple[Example, ...]], shares: Mapping[Side, float], seed: int) -> Parts:
    """Hold out rows of the files that have no separate evaluation file, and no share of 0.

    A prompt held out of one file is held out of the others, too, so that no training reads it. Raise UserError if that
    leaves no rows, or no task rows to evaluate.
    """
    if not shares["task"] and "task_eval" not in files:
        raise UserError("option 'eval_share' holds out no task rows; give option 'task_eval'")
    all_trained = [side for side in SIDES if f"{side}_eval" in files or not shares[side]]
    whole = {row.prompt_key for side in all_trained for row in files.get(side, ())}
    shared = [side for side in SIDES if side in files and side not in all_trained]
    held = {prompt for side in shared for prompt in _held_out(files[side], whole, shares[side], seed, side)}
    streams: dict[Stream, tuple[Example, ...]] = {}
    for stream in ("task", "alignment", "misaligned"):
        if stream in files:
            streams[stream] = tuple(row for row in files[stream] if row.prompt_key not in held)
    held_out: dict[Side, tuple[Example, ...]] = {}
    for side in SIDES:
        if f"{side}_eval" in files:
            held_out[side] = files[f"{side}_eval"]
        elif side in shared:
            held_out[side] = tuple(row for row in files[side] if row.prompt_key in held)
            if not streams[side]:
                raise UserError(_too_few(side, "all of its prompts are held out"))
    return Parts(streams, held_out, files.get("preferences", ()))


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
