"""What a pack need not compute of the base model: its reference outputs, and hidden states below the adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from settings.encoding import EncodedRow
from settings.setting import Evaluation, Stream
from trainables.engine.base import LoadedBase
from trainables.engine.batches import EncodedSetting, RowPositions, counts_padding
from trainables.engine.frozen.prefix import Prefix
from trainables.engine.frozen.prefix_cache import PackPrefixes, PrefixCache
from trainables.engine.frozen.reference_cache import CachedOutputs, ReferenceCache
from trainables.engine.process_group import layers_of
from trainables.engine.targets import lowest_block
from trainables.trial import TrialConfig


class KnownStates:
    """What the caches have for the streams of a pack's trials; each stream is looked up once.

    Args:
        base: the frozen model.
        rows: (trial, stream) -> the rows that the trial trains on.
        references: cached outputs on rows; None means none.
        prefixes: cached states below the pack's lowest adapted layer.
    """

    def __init__(
        self,
        base: LoadedBase,
        rows: Callable[[TrialConfig, Stream], tuple[EncodedRow, ...]],
        references: ReferenceCache | None,
        prefixes: PackPrefixes,
    ) -> None:
        self._base, self._rows, self._references, self._prefixes = base, rows, references, prefixes
        self._outputs_by_key: dict[tuple[object, ...], CachedOutputs | None] = {}
        self._prefixes_by_key: dict[int, Prefix | None] = {}

    def outputs(self, trial: TrialConfig) -> dict[Stream, CachedOutputs]:
        """Return the base model's outputs on the rows that a trial's method refers to, as far as they are cached."""
        outputs = {stream: self._outputs(trial, stream) for stream in trial.method.reference}
        return {stream: cached for stream, cached in outputs.items() if cached is not None}

    def _outputs(self, trial: TrialConfig, stream: Stream) -> CachedOutputs | None:
        method, rows = trial.method, self._rows(trial, stream)
        positions, deep = method.positions(stream), stream in method.layers
        key = (id(rows), positions, deep)  # the encoded setting keeps the rows alive, so their id is not reused
        if self._references is not None and key not in self._outputs_by_key:
            self._outputs_by_key[key] = self._references.on(self._base, rows, positions, with_layers=deep)
        return self._outputs_by_key.get(key)

    def prefixes(self, trial: TrialConfig) -> dict[Stream, Prefix]:
        """Return the states below the lowest adapted layer on the rows that a trial reads, as far as they are cached.

        They are not cached if padding counts.
        """
        method = trial.method
        streams = [stream for stream in method.streams if not counts_padding(method.positions(stream))]
        prefixes = {stream: self._prefix(trial, stream) for stream in streams}
        return {stream: prefix for stream, prefix in prefixes.items() if prefix is not None}

    def _prefix(self, trial: TrialConfig, stream: Stream) -> Prefix | None:
        rows = self._rows(trial, stream)
        if id(rows) not in self._prefixes_by_key:
            self._prefixes_by_key[id(rows)] = self._prefixes.on(rows)
        return self._prefixes_by_key[id(rows)]


def cache_bytes(
    base: LoadedBase,
    encoded: EncodedSetting,
    trials: Sequence[TrialConfig],
    references: ReferenceCache | None,
    prefixes: PrefixCache | None,
) -> tuple[float, float]:
    """Return the bytes of cache that a pack will read: states below its lowest adapted layer, and outputs on rows.

    Args:
        encoded: the pack's setting as tokens.
    """
    of_token = base.model.config.get_text_config().hidden_size * base.model.dtype.itemsize
    below = asked = 0
    if prefixes and prefixes.start(base, lowest_block(base.model, [trial.adapter for trial in trials])):
        streams = dict.fromkeys(stream for trial in trials for stream in trial.method.streams)
        below = sum(_tokens(encoded.rows(stream)) for stream in streams)
        below += sum(_tokens(_read_by_likelihood(encoded, evaluation)) for evaluation in encoded.setting.evaluations)
    if references:
        num_layers = len(layers_of(base.model))
        kinds = {
            (stream, method.positions(stream), stream in method.layers)
            for method in (trial.method for trial in trials)
            for stream in method.reference
        }
        for stream, positions, with_layers in kinds:
            rows = [RowPositions(row, positions) for row in dict.fromkeys(encoded.rows(stream))]
            asked += sum(len(row.columns) for row in rows if not row.padded) * (1 + with_layers * num_layers)
    return below * of_token, asked * of_token


def _read_by_likelihood(encoded: EncodedSetting, evaluation: Evaluation) -> Iterable[EncodedRow]:
    if evaluation.compares:
        return chain.from_iterable(encoded.compared(evaluation))
    return encoded.questions(evaluation) if evaluation.observe == "token_loss" else ()


def _tokens(rows: Iterable[EncodedRow]) -> int:
    return sum(map(len, {row.ids for row in rows}))
