"""What of an evaluation is observed in the pack where a server replies. No client here: workers import it."""

from __future__ import annotations

from dataclasses import replace

from settings.setting import Evaluation


def without_reply(evaluation: Evaluation) -> Evaluation | None:
    """Return what is left to observe where replies in words are sampled elsewhere; None where that is nothing."""
    if not evaluation.generates:
        return evaluation
    return replace(evaluation, observe="preference") if evaluation.compares else None
