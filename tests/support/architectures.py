"""Tiny random models of the architectures that people fine-tune, for checks that must hold for each of them.

All have two layers of width 32, the vocabulary of `tiny_tokenizer`, and random weights from an explicit seed, large
enough for replies to vary. Windows are `WINDOW` tokens, so that a prompt with its reply exceeds them.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.tiny import SPECIAL, WORDS, tiny_tokenizer
from trainables.engine.base import LoadedBase

WINDOW = 6
COMMON: dict[str, Any] = {
    "vocab_size": len(WORDS) + len(SPECIAL),
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
WIDE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
OLDER: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LOCAL_GLOBAL = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# Name -> class of the configuration, and what it needs beside `COMMON`.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", WIDE),
    "smollm": (
        "LlamaConfig",
        {**WIDE, "hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "smollm3": ("SmolLM3Config", {**WIDE, "no_rope_layers": [1, 0]}),
    "qwen2": ("Qwen2Config", WIDE),
    "qwen3": ("Qwen3Config", {**WIDE, "tie_word_embeddings": True}),
    "qwen3_moe": ("Qwen3MoeConfig", {**WIDE, **EXPERTS}),
    "gemma": ("GemmaConfig", {**WIDE, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {**WIDE, **LOCAL_GLOBAL, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**WIDE, **LOCAL_GLOBAL, "query_pre_attn_scalar": 8}),
    "mistral": ("MistralConfig", {**WIDE, "sliding_window": WINDOW}),
    "mixtral": ("MixtralConfig", {**WIDE, "num_local_experts": 4, "sliding_window": WINDOW}),
    "phi3": ("Phi3Config", {**WIDE, "sliding_window": WINDOW}),
    "phi": ("PhiConfig", WIDE),
    "gpt_neox": ("GPTNeoXConfig", {**OLDER, "intermediate_size": 48, "max_position_embeddings": 64}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "opt": ("OPTConfig", {**OLDER, "ffn_dim": 48, "word_embed_proj_dim": 16, "max_position_embeddings": 64}),
    "falcon": ("FalconConfig", {**OLDER, "alibi": False, "multi_query": True}),
    "falcon_alibi": ("FalconConfig", {**OLDER, "alibi": True, "multi_query": False, "parallel_attn": False}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "gpt_oss": ("GptOssConfig", {**WIDE, **LOCAL_GLOBAL, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "stablelm": ("StableLmConfig", WIDE),
    "olmo2": ("Olmo2Config", WIDE),
    "cohere": ("CohereConfig", {**WIDE, "logit_scale": 0.25}),
    "cohere2": ("Cohere2Config", {**WIDE, **LOCAL_GLOBAL, "logit_scale": 0.25}),
    "granite": ("GraniteConfig", {**WIDE, "logits_scaling": 4.0, "residual_multiplier": 0.5}),
}


def architecture(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Return the model, frozen and in evaluation mode. The global generator is left as it was."""
    kind, values = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = getattr(transformers, kind)(**{**COMMON, **values})
        model = AutoModelForCausalLM.from_config(config, experts_implementation="eager")  # others lack float64
    return model.to(dtype).eval().requires_grad_(False)


def architecture_base(name: str, dtype: torch.dtype = torch.float64) -> LoadedBase:
    """Return the model as `load_base` would."""
    return LoadedBase(model=architecture(name, dtype), tokenizer=tiny_tokenizer(), content_id=name, source=name)
