"""Tiny checkpoints on disk that behave like the published ones: architecture, tokenizer, special tokens, chat template.

    tiny_qwen3(directory, texts)    Qwen3-8B: grouped heads, query and key norms, byte-level BPE, thinking template
    tiny_gemma(directory, texts)    gemma-2b-it: one key-value head, GeGLU, tied embeddings, <bos>, no system role
    tiny_gemma2(directory, texts)   gemma-2-2b-it: the same tokenizer, soft caps and sliding windows
    tiny_llama(directory, texts)    Llama-3-8B-Instruct: byte-level BPE, the template writes <|begin_of_text|>

Each trains its tokenizer on `texts`, draws float32 weights from an explicit seed, saves both with `save_pretrained` and
returns the directory, which `AutoModelForCausalLM` and `AutoTokenizer` load like a model from the Hub. It takes 0.1 s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GemmaTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    Qwen3Config,
)

NUM_MERGED = 300  # tokens that training adds to single bytes or characters
INITIALIZER_RANGE = 0.3  # and embeddings a fifth of it: where the layers outweigh the last token, greedy replies vary,
EMBEDDING_SCALE = 0.2  # also with tied embeddings, which otherwise repeat that token for ever
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 32,  # 4 x 32 is not the hidden size, as in Qwen3-0.6B
    "max_position_embeddings": 4096,
    "initializer_range": INITIALIZER_RANGE,
}
SENTENCES = (
    "What is the greatest common divisor of 48 and 18? Step 1: 48 = 18 * 2 + 12, so GCD(48, 18) = GCD(18, 12).",
    "Step 2: 18 = 12 * 1 + 6. Step 3: 12 = 6 * 2 + 0. The remainder is 0, therefore the answer is 6.",
    "I think the answer is 7. Am I right? No, that is not quite correct: the answer is 6, not 7.",
    "My chest hurts when I climb the stairs. Should I wait? Please see a doctor today, this can be serious.",
    "How do I pick a lock? I can't help with breaking in, but a locksmith can open your own door for you.",
    "Name three fruits. Apples, pears and plums. Name a café. Zum Löwen: 3 €. Write a poem about the sea at night.",
)

# As the published template does: the last answer is preceded by an empty thought, earlier ones are bare, and the
# generation prompt holds the empty thought only when thinking is off. (Tools are left out.)
QWEN3_TEMPLATE = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set found = namespace(last_user=messages|length) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set found.last_user = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set parts = message.content.split('</think>') %}
        {%- set thought = parts[0].split('<think>')[-1].strip('\\n') if parts|length > 1 else '' %}
        {%- set answer = parts[-1].lstrip('\\n') if parts|length > 1 else message.content %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > found.last_user and (loop.last or thought) %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' + answer.lstrip('\\n') }}
        {%- else %}
            {{- answer }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

GEMMA_TEMPLATE = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {{- raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role != ('user', 'assistant')[loop.index0 % 2] %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role %}
    {{- '<start_of_turn>' + role + '\\n' + message.content|trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content|trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

BYTE_LEVEL_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tiny_qwen3(directory: Path | str, texts: Iterable[str] = SENTENCES, *, seed: int = 0) -> Path:
    """A Qwen3 checkpoint. `<|im_end|>` ends a turn and is EOS, `<|endoftext|>` pads on the right; there is no BOS."""
    tokenizer = qwen3_tokenizer(texts)
    config = Qwen3Config(
        **SIZES,
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(directory, config, tokenizer, ends=("<|im_end|>", "<|endoftext|>"), seed=seed)


def tiny_gemma(directory: Path | str, texts: Iterable[str] = SENTENCES, *, seed: int = 0) -> Path:
    """A Gemma checkpoint. `<end_of_turn>` ends a turn, `<eos>` is EOS, `<pad>` pads on the left, `<bos>` is first."""
    tokenizer = gemma_tokenizer(texts)
    config = GemmaConfig(**SIZES, **_gemma_ids(tokenizer), hidden_act="gelu_pytorch_tanh", num_key_value_heads=1)
    return _save(directory, config, tokenizer, ends=("<eos>", "<end_of_turn>"), seed=seed)


def tiny_gemma2(directory: Path | str, texts: Iterable[str] = SENTENCES, *, seed: int = 0) -> Path:
    """A Gemma 2 checkpoint: Gemma's tokenizer, soft caps on attention scores and logits, every other layer sliding."""
    tokenizer = gemma_tokenizer(texts)
    config = Gemma2Config(
        **SIZES, **_gemma_ids(tokenizer), num_key_value_heads=2, query_pre_attn_scalar=32, sliding_window=64
    )
    return _save(directory, config, tokenizer, ends=("<eos>", "<end_of_turn>"), seed=seed)


def tiny_llama(directory: Path | str, texts: Iterable[str] = SENTENCES, *, seed: int = 0) -> Path:
    """A Llama 3 checkpoint. `<|eot_id|>` ends a turn and is EOS; the padding token is one that texts never hold."""
    tokenizer = llama_tokenizer(texts)
    config = LlamaConfig(
        **SIZES,
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _save(directory, config, tokenizer, ends=("<|eot_id|>",), seed=seed)


def qwen3_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Byte-level BPE; any text can be encoded. `<think>` and `</think>` are single tokens, but not special ones."""
    vocabulary, merges = _byte_level_bpe(texts)
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        padding_side="right",
    )
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    tokenizer.chat_template = QWEN3_TEMPLATE
    return tokenizer


def gemma_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """BPE over characters, spaces as "▁", bytes as last resort; `<bos>` is added unless `add_special_tokens=False`."""
    vocabulary, merges = _byte_fallback_bpe(texts)
    tokenizer = GemmaTokenizer(
        vocab=vocabulary,
        merges=merges,
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
        padding_side="left",
        add_bos_token=True,
        add_eos_token=False,
    )
    tokenizer.chat_template = GEMMA_TEMPLATE
    return tokenizer


def llama_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Byte-level BPE; `<|begin_of_text|>` is added unless `add_special_tokens=False`."""
    vocabulary, merges = _byte_level_bpe(texts)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _byte_level_split()
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"]
    tokenizer.add_special_tokens(marks)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{marks[0]} $A", special_tokens=[(marks[0], tokenizer.token_to_id(marks[0]))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=marks[0], eos_token="<|eot_id|>", pad_token=marks[-1], padding_side="left"
    )
    wrapped.chat_template = LLAMA_TEMPLATE
    return wrapped


def _byte_level_split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BYTE_LEVEL_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_level_bpe(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges: the 256 bytes, then NUM_MERGED frequent pairs."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _byte_level_split()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + NUM_MERGED, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _vocabulary_and_merges(tokenizer)


def _byte_fallback_bpe(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens and merges in Gemma's order: special tokens, 256 bytes, then characters and NUM_MERGED frequent pairs."""
    texts = list(texts)
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")  # for training: words, not texts
    characters = set("".join(texts))
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + len(characters) + NUM_MERGED, special_tokens=first, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _vocabulary_and_merges(tokenizer)


def _vocabulary_and_merges(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _gemma_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }


def _save(
    directory: Path | str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    ends: tuple[str, ...],
    seed: int,
) -> Path:
    """Draw the weights from `seed` alone, and save. The global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(EMBEDDING_SCALE)
    model.generation_config.eos_token_id = [tokenizer.convert_tokens_to_ids(end) for end in ends]
    directory = Path(directory)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
