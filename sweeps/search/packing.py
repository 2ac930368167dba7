"""Decide which trials train side by side."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.trial import TrialConfig


def pack_trials(trials: Sequence[TrialConfig], size: int) -> list[list[TrialConfig]]:
    """Join trials into packs of at most `size`.

    Seeds of one configuration stay together; configurations share a pack if they share the base model and the adapter's
    targets. Those that adapt the same layers are adjacent, since a pack begins at the lowest layer of its members.
    """
    configurations: dict[str, list[TrialConfig]] = {}
    for trial in trials:
        configurations.setdefault(trial.configuration_id, []).append(trial)
    packs_by_base: dict[object, list[list[TrialConfig]]] = {}
    for seeds in sorted(configurations.values(), key=lambda seeds: seeds[0].adapter.layers_text):
        packs = packs_by_base.setdefault((seeds[0].data, seeds[0].adapter.targets), [])
        for start in range(0, len(seeds), size):
            part = seeds[start : start + size]
            if packs and len(packs[-1]) + len(part) <= size:
                packs[-1].extend(part)
            else:
                packs.append(part)
    return [pack for packs in packs_by_base.values() for pack in packs]
