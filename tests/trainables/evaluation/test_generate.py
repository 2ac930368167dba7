"""Packed generation against transformers' own, one model at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.stats import chi2

from tests.support.tiny import tiny_base, tiny_model, tiny_setting, tiny_trial
from trainables import methods
from trainables.engine.batches import EncodedSetting
from trainables.evaluation.evaluate import evaluate
from trainables.evaluation.generate import Decoder, generate, nucleus
from trainables.pack import Pack

PROMPTS = [(2, 5, 6, 3), (2, 9, 3), (2, 7, 8, 9, 10, 3), (2, 30, 3), (2, 11, 12, 13, 3)]


def hf_replies(model: torch.nn.Module, max_new_tokens: int) -> list[tuple[int, ...]]:
    replies = []
    for prompt in PROMPTS:
        out = model.generate(  # type: ignore[operator]
            input_ids=torch.tensor([prompt]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
        )
        reply = out[0, len(prompt) :].tolist()
        replies.append(tuple(reply[: reply.index(1)] if 1 in reply else reply))
    return replies


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gemma", "gemma2"])
@pytest.mark.parametrize("rows_per_batch", [1, 4, 256])
def test_base_replies_equal_transformers(architecture: str, rows_per_batch: int) -> None:
    model = tiny_model(architecture, torch.float32)  # Gemma 2 takes its softmax in float32, to which padding is -inf
    (replies,) = generate(
        model, PROMPTS, max_new_tokens=7, stop_ids=frozenset({1}), pad_id=0, rows_per_batch=rows_per_batch
    )
    assert replies == hf_replies(model, 7)


def test_members_replies_equal_peft(tmp_path: Path) -> None:
    """Each member's replies and logits are those of its checkpoint in a plain PeftModel."""
    trials = [tiny_trial(methods.make("plain"), seed=seed, rank=2 + seed) for seed in range(3)]
    pack = Pack(tiny_base(), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(20)
    replies = generate(
        pack.base.model,
        PROMPTS,
        adapters=pack.adapters,
        members=[0, 1, 2],
        max_new_tokens=7,
        stop_ids=frozenset({1}),
        pad_id=0,
    )
    for index in range(3):
        pack.adapters.save_member(index, tmp_path / str(index), "tiny")
        peft = PeftModel.from_pretrained(tiny_model(), tmp_path / str(index))
        assert replies[index] == hf_replies(peft, 7)
    assert replies[0] != replies[1]


def test_sampling_depends_on_seed_and_prompt_alone() -> None:
    pack = Pack(
        tiny_base(),
        tiny_setting(),
        [tiny_trial(methods.make("plain"), seed=seed) for seed in range(2)],
        dtype=torch.float64,
    )

    def sample(members: list[int], seeds: list[int], rows: int) -> list[list[tuple[int, ...]]]:
        return generate(
            pack.base.model,
            PROMPTS,
            adapters=pack.adapters,
            members=members,
            seeds=seeds,
            max_new_tokens=8,
            stop_ids=frozenset({1}),
            pad_id=0,
            temperature=1.0,
            rows_per_batch=rows,
        )

    both = sample([0, 1], [0, 1], 256)
    assert both[0] == sample([0], [0], 1)[0]
    assert both[1] == sample([1], [1], 4)[0]
    assert both[0] != sample([0], [7], 256)[0]


def test_no_draw_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt of each evaluation has numbers of its own, and none of them has decided the order of the rows."""
    pack = Pack(tiny_base(), tiny_setting(), [tiny_trial(methods.make("plain"), seed=seed) for seed in range(2)])
    asked = tiny_setting().evaluations[0]
    sampled = tuple(
        replace(asked, name=name, temperature=1.0, scores=(replace(asked.scores[0], name=name),))
        for name in ("one", "two")
    )
    states: list[int] = []
    default_rng = np.random.default_rng

    def watched(seed: Any) -> np.random.Generator:
        generator = default_rng(seed)
        states.append(generator.bit_generator.state["state"]["state"])
        return generator

    monkeypatch.setattr(np.random, "default_rng", watched)
    evaluate(
        pack.base.model,
        EncodedSetting(replace(tiny_setting(), evaluations=sampled, objectives=()), pack.base.tokenizer, 64),
        adapters=pack.adapters,
        members=[0, 1],
        seeds=[0, 1],
    )
    drawn = len(states)
    assert drawn == 2 * 2 * len(asked.examples)
    for seed, stream, epoch in itertools.product(range(2), range(2), range(2)):
        watched([seed, stream, epoch])
    assert len(set(states)) == len(states)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_sampling_follows_the_distribution(top_p: float) -> None:
    """First tokens of 4000 samples against the model's probabilities: chi-square below its 99.9 % point."""
    model = tiny_model()
    prompts = [PROMPTS[0]] * 4000
    (replies,) = generate(
        model,
        prompts,
        seeds=[3],
        max_new_tokens=1,
        stop_ids=frozenset({1}),
        pad_id=0,
        temperature=0.7,
        top_p=top_p,
        rows_per_batch=4000,
    )
    logits = model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1]
    kept = nucleus(torch.softmax(logits / 0.7, dim=-1)[None], top_p)[0]
    expected = kept / kept.sum() * len(prompts)
    tokens = torch.tensor([reply[0] if reply else 1 for reply in replies])
    counts = torch.bincount(tokens, minlength=len(expected)).double()
    assert not counts[kept == 0].any()
    common = expected > 5
    chi = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert float(chi) < chi2.ppf(0.999, df=int(common.sum()))


@pytest.mark.parametrize("rows_per_batch", [1, 5, 256])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_repeated_prompt_is_prefilled_once(
    temperature: float, rows_per_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each place in the list has the reply that it would have alone; equal prompts share one pass over their tokens."""
    trials = [tiny_trial(methods.make("plain"), seed=seed) for seed in range(2)]
    pack = Pack(tiny_base(), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(20)
    asked = [PROMPTS[index] for index in (0, 2, 0, 1, 0, 2, 0)]
    prefilled: list[int] = []
    prefill = Decoder.prefill

    def counted(self: Decoder, prompts: Sequence[tuple[int, ...]], *more: Any) -> Any:
        prefilled.append(len(prompts))
        return prefill(self, prompts, *more)

    monkeypatch.setattr(Decoder, "prefill", counted)
    options = {"max_new_tokens": 6, "stop_ids": frozenset({1}), "pad_id": 0, "temperature": temperature}
    both = {"adapters": pack.adapters, "members": [0, 1], "seeds": [0, 1]}
    replies = generate(pack.base.model, asked, rows_per_batch=rows_per_batch, **options, **both)  # type: ignore[arg-type]
    if rows_per_batch == 256:
        assert prefilled == [3]
    for member in (0, 1):
        alone = {"adapters": pack.adapters, "members": [member], "seeds": [member], "rows_per_batch": 1}
        (expected,) = generate(pack.base.model, asked, **options, **alone)  # type: ignore[arg-type]
        assert replies[member] == expected
    assert temperature == 0.0 or len(set(replies[0])) > 3, "samples of one prompt differ"


def test_no_new_tokens() -> None:
    assert generate(tiny_model(), PROMPTS, max_new_tokens=0, stop_ids=frozenset({1}), pad_id=0) == [[()] * len(PROMPTS)]


def test_nucleus_keeps_the_likeliest_tokens_until_top_p() -> None:
    probabilities = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]])
    assert nucleus(probabilities, 0.8).tolist() == torch.tensor([[0.5, 0.0, 0.4], [0.2, 0.7, 0.0]]).tolist()
    assert nucleus(probabilities, 0.7).tolist() == torch.tensor([[0.5, 0.0, 0.4], [0.0, 0.7, 0.0]]).tolist()
    assert nucleus(probabilities, 1e-9).tolist() == torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.7, 0.0]]).tolist()
    assert nucleus(probabilities, 1.0) is probabilities
