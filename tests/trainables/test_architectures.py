"""What must hold for every architecture, with a tiny random model of each; `make check` looks at those of `CORE`.

The right values come from transformers and PEFT: rows one by one, a plain training loop, and `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel

from tests.support.architectures import ARCHITECTURES, architecture
from tests.support.tiny import WORDS
from trainables.evaluation.generate import generate

WINDOWED = [name for name, (_, values) in ARCHITECTURES.items() if "sliding_window" in values]
PROMPTS = [(2, 5, 6, 3), (2, 9, 3), (2, 7, 8, 9, 10, 11, 12, 13, 14, 3), (2, 30, 3), (2, 5, 6, 3), (2, 11, 12, 13, 3)]
NEW_TOKENS = 9
OPTIONS = {"max_new_tokens": NEW_TOKENS, "stop_ids": frozenset({1}), "pad_id": 0}


def replies_one_by_one(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return greedy replies by transformers' own `generate`, one prompt at a time."""
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)  # type: ignore[operator]
        reply = out[0, len(prompt) :].tolist()
        replies.append(tuple(reply[: reply.index(1)] if 1 in reply else reply))
    return replies


@pytest.mark.parametrize("name", WINDOWED)
def test_replies_past_the_window_equal_transformers(name: str) -> None:
    """Prompts of 3 to 10 tokens and their replies exceed a window of 6; layers see it in turn, or all do."""
    model = architecture(name, torch.float32)
    (replies,) = generate(model, PROMPTS, **OPTIONS)  # type: ignore[arg-type]
    assert replies == replies_one_by_one(model, PROMPTS)
    assert len({token for reply in replies for token in reply}) > len(WORDS) // 4, "the replies hardly vary"
