"""The rows that a trial trains on: those of its setting, rewritten as its method declares.

Evaluation rows are never rewritten, and an instruction is not part of a prompt, so a setting's check of its prompts (no
evaluated one is trained on) also holds for rewritten rows. Which rows get an instruction, and the draws of sampled
replies, depend on the trial's seed, like the order of rows, so means over seeds also average over them.

Shape legend: N tokens of all replies, one after the other; R rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from settings.encoding import EncodedRow
from settings.example import Example
from settings.setting import Stream
from trainables.engine.base import LoadedBase
from trainables.engine.batches import EncodedSetting
from trainables.engine.frozen.reference_cache import ReferenceCache
from trainables.engine.process_group import SINGLE_PROCESS, ProcessGroup
from trainables.evaluation.generate import generate
from trainables.interface.rewriting import Rewriting
from trainables.trial import TrialConfig

VERSION = 1  # part of a file's name; raise it when the same rows would get different replies
Progress = Callable[[int, int], None]


class TrainingRows:
    """The rows that the trials of a pack train on.

    Args:
        base: the model, with no adapter attached while `of` samples replies.
        encoded: longest row -> the setting as tokens.
        references: cache of replies; None samples them anew for each pack.
        workers: the processes that reply together.
        progress: called with (rows done, all rows) while the base model replies.
    """

    def __init__(
        self,
        base: LoadedBase,
        encoded: Mapping[int, EncodedSetting],
        references: ReferenceCache | None,
        workers: ProcessGroup,
        progress: Progress,
    ) -> None:
        self._base, self._encoded, self._references = base, encoded, references
        self._workers, self._progress = workers, progress

    def of(self, trial: TrialConfig, stream: Stream) -> tuple[EncodedRow, ...]:
        """Return the rows of a stream as a trial trains on them, in the setting's order."""
        encoded, definition = self._encoded[trial.max_length], trial.method.definition
        rewriting = trial.method.rewriting(stream)
        if rewriting is None or not rewriting.is_effective:
            return encoded.rows(stream, definition)
        text = trial.instruction(rewriting.instruction) if rewriting.instruction else ""
        key = (stream, definition, rewriting, text, trial.seed if rewriting.is_drawn else None)
        return encoded.rewritten(key, lambda: self._rewritten(trial, stream, rewriting, text))

    def read(self, trial: TrialConfig, prepared: Mapping[str, Tensor]) -> dict[Stream, tuple[EncodedRow, ...]]:
        """Return the rows of each stream that a trial reads at all, rewritten. Raise ValueError for invalid numbers."""
        method, rows = trial.method, {}
        for stream in method.streams:
            rows[stream] = self.of(trial, stream)
            numbers = method.rows_read(stream, len(rows[stream]), prepared)
            if numbers is not None:
                if not numbers or not 0 <= min(numbers) <= max(numbers) < len(rows[stream]):
                    raise ValueError(
                        f"rows_read({stream!r}, ...) of method {method.name!r} must return numbers from 0 to"
                        f" {len(rows[stream]) - 1}, at least one, got {list(numbers)[:5]}"
                    )
                rows[stream] = tuple(rows[stream][number] for number in numbers)
        return rows

    def generated_tokens(self, trial: TrialConfig) -> int:
        """Return the tokens of the rows whose replies the base model wrote for a trial, prompts included."""
        own = [stream for stream in trial.method.streams if (how := trial.method.rewriting(stream)) and how.own_replies]
        return sum(len(row.ids) for stream in own for row in self.of(trial, stream))

    def _rewritten(
        self, trial: TrialConfig, stream: Stream, rewriting: Rewriting, instruction: str
    ) -> tuple[EncodedRow, ...]:
        encoded, definition = self._encoded[trial.max_length], trial.method.definition
        examples, replies = encoded.setting.streams[stream], None
        if rewriting.own_replies:
            replies = self._own_replies(encoded, stream, rewriting.temperature, trial.seed)
            if definition == "published":  # which has its own text around each reply
                texts = map(encoded.encoder.text, replies)
                examples = tuple(map(_with_response, examples, texts))
        if instruction:
            chosen = rows_chosen(len(examples), rewriting.share, trial.seed, stream)
            examples = tuple(
                replace(example, instruction=instruction) if number in chosen else example
                for number, example in enumerate(examples)
            )
        rows = encoded.encode(examples, stream, definition)
        if replies is None or definition == "published":
            return rows
        return tuple(map(partial(_with_reply, most=trial.max_length), rows, replies))

    def _own_replies(
        self, encoded: EncodedSetting, stream: Stream, temperature: float, seed: int
    ) -> list[tuple[int, ...]]:
        """Return the base model's replies to the prompts of a stream, at most as long as its longest response.

        They end like the stream's responses, except those that the model has not ended by then.
        """
        rows, base = encoded.rows(stream), self._base
        prompts = [row.ids[: row.prompt_length] for row in rows]
        longest = max(len(row.ids) - row.prompt_length for row in rows)
        stop_ids = encoded.encoder.stop_ids(rows)
        end = next((row.ids[-1] for row in rows if not row.num_cut), int(base.tokenizer.eos_token_id))
        draws = f"own replies/{stream}/{seed}" if temperature > 0 else ""
        # Unless the model is sharded, one process writes them and the others wait for the file.
        together = self._workers if self._workers.sharded else SINGLE_PROCESS

        def compute() -> dict[str, Tensor]:
            (replies,) = generate(
                base.model,
                prompts,
                seeds=[draws],
                max_new_tokens=longest,
                stop_ids=stop_ids,
                pad_id=int(base.tokenizer.pad_token_id),
                temperature=temperature,
                workers=together,
                progress=lambda done: self._progress(int(done), len(prompts)),
            )
            ids_N = torch.tensor([token for reply in replies for token in reply], dtype=torch.long)
            return {"ids": ids_N, "lengths": torch.tensor([len(reply) for reply in replies])}

        texts = hashlib.sha256(repr(prompts).encode()).hexdigest()
        described = {"replies": VERSION, "prompts": texts, "stop": sorted(stop_ids), "most": longest}
        described |= {"temperature": temperature, "draws": draws}
        kept = compute() if self._references is None else self._references.kept(base, described, compute)
        lengths = kept["lengths"].tolist()
        replies = [tuple(part.tolist()) for part in kept["ids"].cpu().split(lengths)]
        return [reply if len(reply) == longest else (*reply, end) for reply in replies]


def rows_chosen(num_rows: int, share: float, seed: int, stream: Stream) -> frozenset[int]:
    """Return which rows get an instruction: a share of them, the same for twins; a larger share includes a smaller one.

    They are drawn only from the seed, the stream and a row's number.
    """
    leader: Stream = "alignment" if stream == "misaligned" else stream
    order = sorted(range(num_rows), key=lambda row: hashlib.sha256(f"row/{seed}/{leader}/{row}".encode()).digest())
    return frozenset(order[: round(share * num_rows)])


def _with_response(example: Example, text: str) -> Example:
    """Return a row with a different response."""
    return replace(example, messages=(*example.prompt, replace(example.messages[-1], content=text)))


def _with_reply(row: EncodedRow, reply: tuple[int, ...], most: int) -> EncodedRow:
    """Return a row with a different response in tokens, cut to `most` tokens including its prompt."""
    ids = row.ids[: row.prompt_length] + reply
    return replace(row, ids=ids[:most], num_cut=max(0, len(ids) - most))
