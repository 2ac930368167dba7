"""On the language model of scale "small": tokens, a step, replies and preferences are those of transformers and PEFT.

The right values come from the tokenizer's own chat template, a plain loop with PEFT, and `generate`. Without a registry
that the model can be fetched from, these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from settings import catalog
from settings.encoding import EncodedRow
from settings.reference import SettingRef
from settings.setting import Evaluation, Preference, Setting
from settings.small_models import SMOLLM2
from trainables import methods
from trainables.engine.base import LoadedBase
from trainables.engine.memory import ModelShape
from trainables.evaluation.evaluate import evaluate
from trainables.pack import Pack
from trainables.trial import AdapterConfig, OptimizerConfig, trial_for

STEPS = 2
# With so large an eps AdamW's step is nearly proportional to the gradient. With a usual one its first step is the
# gradient's sign, which the last bit of a gradient near 0 decides.
OPTIMIZER = OptimizerConfig(learning_rate=0.1, eps=0.1, warmup_steps=1, schedule="constant", max_grad_norm=None)
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def base(real_base: LoadedBase) -> LoadedBase:
    """Return the model."""
    return real_base


@pytest.fixture(scope="module")
def setting() -> Setting:
    """Return GCD sycophancy with a handful of questions, observed in both ways."""
    full = catalog.build("gcd_sycophancy", {"scale": "small"})
    (questions,) = (each for each in full.evaluations if each.name == "questions")
    few = replace(
        questions,
        examples=(questions.examples[0], *questions.examples[-6:]),
        observe="reply_and_preference",
        max_new_tokens=NEW_TOKENS,
    )
    return replace(full, evaluations=(few,))


@pytest.fixture(scope="module")
def pack(base: LoadedBase, setting: Setting) -> Iterator[Pack]:
    """Return two trained members: plain, and a penalty on the proxy rows, of another rank."""
    sizes: dict[str, Any] = {"batch_size": 2, "alignment_batch_size": 1, "steps": STEPS, "optimizer": OPTIMIZER}
    trials = [
        trial_for(
            setting,
            SettingRef("gcd_sycophancy", {"scale": "small"}),
            methods.make(name),
            seed,
            adapter=AdapterConfig(rank=rank, alpha=2.0 * rank),
            **sizes,
        )
        for seed, (name, rank) in enumerate([("plain", 4), ("upweighted", 3)])
    ]
    pack = Pack(base, setting, trials)
    pack.initial = pack.adapters.member(0)  # type: ignore[attr-defined]
    pack.advance(STEPS)
    assert [member.reason for member in pack.members] == [None, None]
    yield pack
    pack.detach()


def plain_model(base: LoadedBase) -> Any:
    return AutoModelForCausalLM.from_pretrained(base.source, dtype=torch.float32)


def test_rows_are_what_the_chat_template_writes(base: LoadedBase, setting: Setting) -> None:
    """Token for token, of training rows and of questions; the empty system turn keeps the template's own text out."""
    encoded = base.encoded(setting, 128)
    for stream in ("task", "alignment"):
        for example, row in list(zip(setting.streams[stream], encoded.rows(stream), strict=True))[:5]:
            turns = [{"role": message.role, "content": message.content} for message in example.messages]
            text = base.tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
            assert base.tokenizer(text, add_special_tokens=False)["input_ids"] == list(row.ids)
            assert "named SmolLM" not in text
            prompt = base.tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
            assert base.tokenizer(prompt, add_special_tokens=False)["input_ids"] == list(row.ids[: row.prompt_length])


def test_its_sizes_are_those_that_a_plan_reads(base: LoadedBase) -> None:
    assert ModelShape.of(SMOLLM2) == ModelShape.of_config(base.model.config.to_dict())


def row_loss(model: Any, row: EncodedRow) -> Tensor:
    """Return the sum of the negative log-likelihoods of a row's response tokens."""
    ids = torch.tensor(row.ids)
    log_p = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1], dim=-1)
    return -log_p[torch.arange(len(ids) - 1), ids[1:]][row.prompt_length - 1 :].sum()


def test_a_packed_step_is_that_of_plain_peft(base: LoadedBase, pack: Pack) -> None:
    """A loop as in a tutorial, row by row, from the same initial adapter: every factor to 1e-4 of how far it went."""
    trial = pack.trials[0]
    model = get_peft_model(
        plain_model(base), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", lora_dropout=0.0)
    )
    parameters = {key.replace(".default", ""): value for key, value in model.named_parameters() if value.requires_grad}
    initial: dict[str, Tensor] = pack.initial  # type: ignore[attr-defined]
    with torch.no_grad():
        for key, value in parameters.items():
            value.copy_(initial[key])
    optimizer = torch.optim.AdamW([*parameters.values()], lr=0.1, eps=0.1, weight_decay=0.01)
    for step in range(STEPS):
        rows = pack.encoded[trial.max_length].batch(trial.method, trial.sizes, trial.seed, step)["task"]
        optimizer.zero_grad()
        (sum(row_loss(model, row) for row in rows) / sum(len(row.ids) - row.prompt_length for row in rows)).backward()
        optimizer.step()
    trained = pack.adapters.member(0)
    assert trained.keys() == parameters.keys()
    moved = max(float((parameters[key].detach() - initial[key]).abs().max()) for key in trained)
    error = max(float((parameters[key].detach() - trained[key]).abs().max()) for key in trained)
    assert moved > 1e-3
    assert error < 1e-4 * moved


@pytest.fixture(scope="module")
def observed(base: LoadedBase, setting: Setting, pack: Pack) -> list[list[Preference]]:
    """Return what the two members reply, and what they prefer, `[member][question]`."""
    encoded = base.encoded(setting, 128)
    results = evaluate(base.model, encoded, adapters=pack.adapters, members=(0, 1), seeds=(0, 1))
    return [result.observations["questions"] for result in results]  # type: ignore[misc]


@pytest.fixture(scope="module")
def reopened(base: LoadedBase, pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the second member's checkpoint, opened by PEFT on a model of its own."""
    folder: Path = tmp_path_factory.mktemp("adapter")
    pack.adapters.save_member(1, folder, base.source)
    return PeftModel.from_pretrained(plain_model(base), folder).eval()


def questions(setting: Setting) -> Evaluation:
    (only,) = setting.evaluations
    return only


@torch.no_grad()
def test_preferences_are_log_likelihoods(
    base: LoadedBase, setting: Setting, observed: list[list[Preference]], reopened: Any
) -> None:
    """Each reply after its prompt in a pass of its own: of a question with five replies, and of one with Yes and No."""
    evaluation = questions(setting)
    for place in (0, len(evaluation.examples) - 1):
        example, preference = evaluation.examples[place], observed[1][place]
        turns = [{"role": message.role, "content": message.content} for message in example.prompt]
        prompt = base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = base.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        for reply, nats in zip((example.response, *example.alternatives), preference.log_likelihoods, strict=True):
            tokens = base.tokenizer(reply, add_special_tokens=False)["input_ids"]
            row = EncodedRow((*ids, *tokens), len(ids))
            assert nats == pytest.approx(-float(row_loss(reopened, row)), abs=2e-4)


@torch.no_grad()
def test_replies_are_those_of_generate(
    base: LoadedBase, setting: Setting, observed: list[list[Preference]], reopened: Any
) -> None:
    for place, row in enumerate(base.encoded(setting, 128).questions(questions(setting))):
        ids = torch.tensor([row.ids[: row.prompt_length]])
        out = reopened.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=base.tokenizer.pad_token_id,
        )
        text = base.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert observed[1][place].reply == text
