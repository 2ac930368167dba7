"""The part of an evaluation that is observed in the pack if a server replies. No client here: workers import this."""

from __future__ import annotations

from dataclasses import replace

from settings.setting import Evaluation


def without_reply(evaluation: Evaluation) -> Evaluation | None:
    """Return what remains to be observed if replies in words are sampled elsewhere; None if nothing remains."""
    if not evaluation.generates:
        return evaluation
    return replace(evaluation, observe="preference") if evaluation.compares else None
