"""Likelihoods of replies against torch's loss of the plain model's logits, one row and one model at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

from settings.encoding import EncodedRow
from settings.example import Example
from settings.scoring import margin, prefers_good
from settings.setting import Evaluation, Preference, Score, observation_from_json
from tests.support.architectures import ARCHITECTURES, architecture
from tests.support.tiny import sentence, tiny_base, tiny_model, tiny_setting, tiny_tokenizer, tiny_trial
from trainables import methods
from trainables.engine.batches import EncodedSetting
from trainables.evaluation import likelihood
from trainables.evaluation.cached import CachedReader
from trainables.evaluation.evaluate import evaluate
from trainables.evaluation.likelihood import log_likelihoods, token_losses
from trainables.folder import SweepFolder
from trainables.pack import Pack


def asked(number: int) -> Example:
    """A question with replies of 1, 2, 3 and 4 words, some questions as long as others, and two of them the same."""
    prompt = sentence(number % 5 + 60, 2 + number % 3)
    return Example.of(prompt, *(sentence(number + 7 * words, words) for words in (2, 1, 4, 3)[: 2 + number % 3]))


QUESTIONS = tuple(asked(number) for number in range(7))
ROWS = [
    EncodedRow((2, *prompt, 3, *reply, 1), 2 + len(prompt))
    for prompt, reply in [
        ((5, 6), (7,)),
        ((5, 6), (8, 9, 10)),
        ((30,), (4, 4)),
        ((11, 12, 13, 14), (40,)),
        ((30,), (22, 23)),
        ((5, 6), (9,)),
    ]
]


def with_preferences(**changes: Any) -> Any:
    """The tiny setting with one evaluation that compares replies."""
    score = Score("margin", "alignment", "nats", margin)
    comparing = Evaluation("pairs", QUESTIONS, (score,), **({"observe": "preference"} | changes))
    return replace(tiny_setting(), evaluations=(comparing,), objectives=())


@torch.no_grad()
def hf_nats(model: Any, row: EncodedRow) -> float:
    """The response's log-likelihood from the plain model's logits of the row alone; the model's own loss is float32."""
    logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.prompt_length - 1 : -1]
    return -float(torch.nn.CrossEntropyLoss(reduction="sum")(logits, torch.tensor(row.ids[row.prompt_length :])))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_log_likelihoods_equal_transformers(name: str) -> None:
    """Prompts and replies of unequal length, longer than the windows of layers that have them."""
    wide = name not in ("gemma2", "bloom")  # these take their softmax in float32, to which a mask in float64 is -inf
    model = architecture(name, torch.float64 if wide else torch.float32)
    long = EncodedRow((2, *range(5, 14), 3, *range(14, 24), 1), 11)
    rows = [*ROWS, long, replace(long, ids=(*long.ids[:13], 1))]
    (nats,) = log_likelihoods(model, rows, 0)
    assert nats == pytest.approx([hf_nats(model, row) for row in rows], abs=1e-9 if wide else 2e-5)
    (losses,) = token_losses(model, rows, 0)
    assert losses == pytest.approx(
        [-n / (len(r.ids) - r.prompt_length) for n, r in zip(nats, rows, strict=True)], abs=1e-5
    )


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_padding_takes_no_position_that_a_model_lacks(name: str) -> None:
    """A short reply beside a long one, both rows at the end of the 64 learned positions."""
    rows = [EncodedRow((*range(2, 42), *[7] * 24), 40), EncodedRow((*range(2, 44), 8, 9), 42)]
    model = architecture(name)
    assert log_likelihoods(model, rows, 0) == [pytest.approx([hf_nats(model, row) for row in rows], abs=1e-9)]


@pytest.mark.parametrize(("rows_per_batch", "tokens"), [(1, 10_000), (3, 10_000), (256, 30), (256, 10_000)])
@pytest.mark.parametrize("measure", [token_losses, log_likelihoods])
def test_a_row_alone_is_a_row_of_a_batch(
    measure: Any, rows_per_batch: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    alone = [measure(model, [row], 0)[0][0] for row in ROWS]
    monkeypatch.setattr(likelihood, "ROWS_PER_BATCH", rows_per_batch)
    monkeypatch.setattr(likelihood, "TOKENS_PER_BATCH", tokens)
    assert measure(model, ROWS, 0) == [pytest.approx(alone, abs=1e-10)]


def test_members_equal_merged_peft(tmp_path: Path) -> None:
    """Each member's preferences are those of its checkpoint, merged into the plain model; alone or in a pack."""
    trials = [tiny_trial(methods.make("plain"), seed=seed, rank=2 + seed) for seed in range(3)]
    pack = Pack(tiny_base(), tiny_setting(), trials, dtype=torch.float64)
    pack.advance(20)
    encoded = EncodedSetting(with_preferences(), pack.base.tokenizer, 64)
    questions = encoded.compared(encoded.setting.evaluations[0])
    packed = evaluate(pack.base.model, encoded, adapters=pack.adapters, members=[0, 1, 2], seeds=[0, 1, 2])
    for index in range(3):
        (alone,) = evaluate(pack.base.model, encoded, adapters=pack.adapters, members=[index], seeds=[index])
        pack.adapters.save_member(index, tmp_path / str(index), "tiny")
        peft: Any = PeftModel.from_pretrained(tiny_model(), tmp_path / str(index)).merge_and_unload()
        for rows, together, solo in zip(
            questions, packed[index].observations["pairs"], alone.observations["pairs"], strict=True
        ):
            assert isinstance(together, Preference) and isinstance(solo, Preference)
            expected = pytest.approx([hf_nats(peft, row) for row in rows], abs=1e-9)
            assert (together.log_likelihoods, solo.log_likelihoods) == (expected, expected)
            assert together.tokens == tuple(len(row.ids) - row.prompt_length for row in rows)
    (base,) = evaluate(pack.base.model, encoded)
    first = base.observations["pairs"][0]
    assert isinstance(first, Preference)
    assert first.log_likelihoods == pytest.approx([hf_nats(tiny_model(), row) for row in questions[0]], abs=1e-9)
    assert len({result.scores["margin"].mean for result in (*packed, base)}) == 4


def test_a_shared_prompt_is_read_once_and_one_token_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often what is read: a prompt of 4 tokens with three answers of one token is one row of 4 tokens."""
    read: list[tuple[int, ...]] = []
    original = CachedReader.read

    def noted(self: CachedReader, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        read.append(tuple(ids.shape))
        return original(self, ids, mask, cache)

    monkeypatch.setattr(CachedReader, "read", noted)
    words = [EncodedRow((2, 5, 6, 3, word), 4) for word in (7, 8, 9)]
    model = tiny_model()
    (nats,) = log_likelihoods(model, [*words, *words[:2]], 0)
    assert read == [(1, 4)]
    assert nats == pytest.approx([hf_nats(model, row) for row in [*words, *words[:2]]], abs=1e-10)
    read.clear()
    log_likelihoods(model, [replace(row, ids=(*row.ids, 1)) for row in words], 0)
    assert read == [(1, 4), (3, 1)]


@pytest.mark.parametrize("counts_end", [True, False])
def test_a_margin_by_hand(counts_end: bool) -> None:
    """One question; the margin per token and whole, from the probabilities of plain logits."""
    question = Example.of("w1 w2", "w5 w6", "w7")  # <u> w1 w2 <a> w5 w6 <e>
    model, at = tiny_model(), {word: tiny_tokenizer().convert_tokens_to_ids(word) for word in ("w5", "w6", "w7", "<e>")}
    prompt = tiny_tokenizer()("<u> w1 w2 <a>")["input_ids"]

    def log_p(*words: str) -> float:
        *before, last = (at[word] for word in words)
        logits = model(input_ids=torch.tensor([[*prompt, *before]])).logits[0, -1]
        return float(torch.log_softmax(logits, dim=-1)[last])

    good, other = log_p("w5") + log_p("w5", "w6"), log_p("w7")
    if counts_end:
        good, other = good + log_p("w5", "w6", "<e>"), other + log_p("w7", "<e>")
    evaluation = Evaluation("pairs", (question,), (), "preference", counts_end=counts_end)
    encoded = EncodedSetting(replace(tiny_setting(), evaluations=(evaluation,), objectives=()), tiny_tokenizer(), 64)
    (observed,) = evaluate(model, encoded)[0].observations["pairs"]
    assert isinstance(observed, Preference)
    assert observed.tokens == ((3, 2) if counts_end else (2, 1))
    assert margin(question, observed) == pytest.approx(good - other, abs=1e-10)
    per_token = good / observed.tokens[0] - other / observed.tokens[1]
    assert margin(question, observed, per_token=True) == pytest.approx(per_token, abs=1e-10)
    assert prefers_good(question, observed) == (good > other)


def test_words_beside_likelihoods() -> None:
    """The replies are those of the evaluation that observes replies alone, the likelihoods those of the other."""
    alone = {
        kind: evaluate(tiny_model(), EncodedSetting(with_preferences(observe=kind), tiny_tokenizer(), 64))[0]
        for kind in ("preference", "reply_and_preference")
    }
    words = replace(with_preferences(), evaluations=(Evaluation("pairs", QUESTIONS, ()),))
    (replies,) = evaluate(tiny_model(), EncodedSetting(words, tiny_tokenizer(), 64))
    both = alone["reply_and_preference"].observations["pairs"]
    assert [item.reply for item in both if isinstance(item, Preference)] == replies.observations["pairs"]
    without = [replace(item, reply=None) for item in both if isinstance(item, Preference)]
    assert without == alone["preference"].observations["pairs"]


def test_what_is_kept_is_what_was_observed(tmp_path: Path) -> None:
    """Observations on disk give the grades that the trial was scored by."""
    setting = with_preferences(observe="reply_and_preference")
    trial = tiny_trial(methods.make("plain"))
    pack = Pack(tiny_base(), setting, [trial], dtype=torch.float64)
    pack.advance(trial.updates)
    (outcome,) = pack.finish(SweepFolder(tmp_path)).outcomes
    kept = json.loads(SweepFolder(tmp_path).observations(trial.trial_id).read_text())["pairs"]
    observed = [observation_from_json(item) for item in kept]
    assert all(isinstance(item, Preference) and item.reply is not None for item in observed)
    assert setting.evaluations[0].grade(observed)["margin"] == outcome.scores["margin"]


def shares(model: PreTrainedModel, rows: Sequence[EncodedRow], rank: int) -> dict[int, list[float]]:
    """The negative log-likelihoods that one of two workers computes, by the place in the order of reading."""
    kept: dict[int, list[float]] = {}

    class Worker(likelihood.ProcessGroup):
        count = 2

        def gather(self, value: Any) -> list[Any]:
            kept.update(value)
            raise StopIteration

    worker = Worker()
    worker.rank = rank
    with pytest.raises(StopIteration):
        log_likelihoods(model, rows, 0, workers=worker)
    return kept


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_two_workers_share_the_rows(rows: list[EncodedRow]) -> None:
    """Each row is read by one of them; a worker without a row keeps nothing of its stand-in."""
    model = tiny_model()
    first, second = (shares(model, rows, rank) for rank in (0, 1))
    assert not first.keys() & second.keys()
    (expected,) = log_likelihoods(model, rows, 0)
    both = [-nats[0] for nats in (first | second).values()]
    assert sorted(both) == pytest.approx(sorted(expected), abs=1e-10)
