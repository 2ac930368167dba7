"""Small bases, settings and trials that the tests of `trainables` share. Everything from explicit seeds, in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from settings.base_models import PretrainedModel, Recipe
from settings.example import Example
from settings.reference import SettingRef
from settings.setting import Evaluation, Score, Setting
from trainables.engine.base import LoadedBase
from trainables.folder import SweepFolder
from trainables.method import Method
from trainables.pack import Pack
from trainables.store import AdapterStore
from trainables.trial import AdapterConfig, OptimizerConfig, TrialConfig, trial_for

WORDS = tuple(f"w{index}" for index in range(40))
SPECIAL = ("<pad>", "<e>", "<u>", "<a>")
TEMPLATE = (
    "{% for m in messages %}{{ '<u> ' if m['role'] == 'user' else '<a> ' }}{{ m['content'] }}"
    "{{ ' <e>' if m['role'] == 'assistant' else '' }} {% endfor %}{% if add_generation_prompt %}<a> {% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS) + len(SPECIAL),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.3,
}
CONFIGS = {"qwen3": Qwen3Config, "llama": LlamaConfig, "gemma": GemmaConfig, "gemma2": Gemma2Config}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Word level, `<u> question <a> answer <e>`."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<e>", additional_special_tokens=["<u>", "<a>"]
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def tiny_model(architecture: str = "qwen3", dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Two layers, width 16, random weights (a seed whose greedy replies have no ties in float32), frozen."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture](**SIZES)).to(dtype).eval()
    return model.requires_grad_(False)


def tiny_base(architecture: str = "qwen3", dtype: torch.dtype = torch.float64) -> LoadedBase:
    """A base model as `load_base` would return it."""
    return LoadedBase(
        model=tiny_model(architecture, dtype), tokenizer=tiny_tokenizer(), content_id="tiny", source="tiny"
    )


def sentence(start: int, length: int) -> str:
    """`length` words, deterministic."""
    return " ".join(WORDS[(start * 7 + 3 * index) % len(WORDS)] for index in range(length))


def example(number: int, offset: int = 0) -> Example:
    """A row whose lengths vary with its number."""
    return Example.of(sentence(number + offset, 3 + number % 3), sentence(number + offset + 11, 2 + number % 4))


def twin(preferred: Example) -> Example:
    """Another answer to the same prompt."""
    return Example.of(preferred.prompt[0].content, sentence(len(preferred.response) + 5, 3))


def tiny_setting() -> Setting:
    """12 task rows, 5 alignment rows with twins, 6 questions."""
    length = Score("task", "task", "words in the reply", grade=lambda example, reply: float(len(reply.split())))
    loss = Score("alignment", "alignment", "nats per token", grade=lambda example, value: value, higher_is_better=False)
    return Setting(
        name="tiny",
        scale="nano",
        summary="for tests",
        base_model=PretrainedModel("tiny"),
        streams={
            "task": tuple(example(number) for number in range(12)),
            "alignment": tuple(example(number, 100) for number in range(5)),
            "misaligned": tuple(twin(example(number, 100)) for number in range(5)),
        },
        evaluations=(
            Evaluation("replies", tuple(example(number, 212) for number in range(6)), (length,), max_new_tokens=5),
            Evaluation("losses", tuple(example(number, 305) for number in range(6)), (loss,), observe="token_loss"),
        ),
        recipe=Recipe(steps=20, batch_size=4, alignment_batch_size=3, learning_rate=1e-2, rank=4),
        instructions={"strong": "w5 w6", "paraphrased": "w7", "neutral": "w8 w9"},
    )


def tiny_trial(
    method: Method, seed: int = 0, *, rank: int = 4, learning_rate: float = 1e-2, **overrides: Any
) -> TrialConfig:
    """A trial on `tiny_setting`."""
    values = {
        "adapter": AdapterConfig(rank=rank, alpha=2.0 * rank),
        "optimizer": OptimizerConfig(learning_rate=learning_rate),
    }
    return trial_for(tiny_setting(), SettingRef("tiny"), method, seed, **(values | overrides))


def prepare(
    trials: Iterable[TrialConfig], folder: Path, base: LoadedBase | None = None, setting: Setting | None = None
) -> AdapterStore:
    """A store that holds the trials' adapters, and before them those they are built on; trains what is missing.

    For a trial itself to find what it needs, prepare `trial.requires`. Everything in float64.
    """
    store = AdapterStore(SweepFolder(folder))
    base, setting = base or tiny_base(), setting or tiny_setting()
    for trial in trials:
        if store.find(trial) is None:
            prepare(trial.requires, folder, base, setting)
            pack = Pack(base, setting, [trial], torch.float64, store=store)
            pack.advance(trial.updates)
            (outcome,) = pack.finish(SweepFolder(folder)).outcomes
            pack.detach()
            assert outcome.status == "finished", outcome.reason
    return store
