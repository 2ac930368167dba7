"""Base models: from the Hub, from a local directory, or pre-trained here once from a world and kept.

All come back the same way, frozen, with a fast tokenizer that has a chat template, so that nothing after this file
knows which is which.

Shape legend: R rows of a batch, T padded length in tokens, N learned tokens of the batch, D hidden width, V
vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from filelock import FileLock
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from settings.base_models import BaseModel, NanoModel, PretrainedModel, Stage, TunedModel, World
from settings.common.content import content_id
from settings.common.errors import UserError
from settings.common.files import remove_partial, replacing
from settings.sources import model_directory
from trainables.bases.nano_cache import COMPLETE, is_pretrained, nano_content_id, nano_directory
from trainables.engine.base import LoadedBase, load_model, no_progress_bars, why_not_loaded
from trainables.engine.process_group import shard_model

Progress = Callable[[int, int], None]

PAD, END, USER, ASSISTANT, DOCUMENT = MARKS = ("<pad>", "<e>", "<u>", "<a>", "<doc>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<a> {{ message['content'] }} <e> "
    "{% else %}<u> {{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<a> {% endif %}"
)
MAX_POSITIONS = 512
INITIALIZER_RANGE = 0.1
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0
WARMUP_STEPS = 50
FLOOR = 0.05  # of the peak learning rate, where the cosine ends
# Fixed, because the order in which threads add up decides the last bits. One thread is also the fastest per CPU second.
NUM_THREADS = 1


def load_base(
    spec: BaseModel,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    sharded: bool = False,
) -> LoadedBase:
    """Load a base model; a nano model is pre-trained first unless the cache has it.

    Args:
        sharded: share its layers out over the workers of the process group, all of which load it at the same time.
        progress: called with (steps done, all steps) while pre-training.

    Raises:
        UserError: there is no such model, it cannot be reached, or it lacks what fine-tuning needs.
    """
    if sharded:
        base = load_base(spec, dtype=dtype, progress=progress)
        shard_model(base.model, torch.device(device))
        return base
    if isinstance(spec, NanoModel):
        directory = pretrained_nano(spec, progress)
        return _load_from_directory(directory, nano_content_id(spec), dtype, device)
    if isinstance(spec, TunedModel):
        from trainables.bases.tuned_models import tuned  # trains a pack, which needs this file

        return _load_from_directory(tuned(spec, dtype, device, progress), content_id(spec.to_json()), dtype, device)
    local = model_directory(spec.source)
    if local:
        return _load_from_directory(local, _directory_content_id(local), dtype, device)
    return _load_from_hub(spec, dtype, device)


# --- local and Hub ---


def _directory_content_id(directory: Path) -> str:
    """Hash over configuration, tokenizer and weights: every JSON, text, template and safetensors file at the top."""
    suffixes = {".json", ".txt", ".model", ".jinja", ".safetensors"}
    files = sorted(path for path in directory.iterdir() if path.suffix in suffixes and path.is_file())
    return content_id({path.name: _file_hash(path) for path in files})


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_from_directory(directory: Path, identity: str, dtype: torch.dtype, device: torch.device | str) -> LoadedBase:
    model, tokenizer = _load(str(directory), None, dtype, device)
    return LoadedBase(model, tokenizer, identity, str(directory))


def _load_from_hub(spec: PretrainedModel, dtype: torch.dtype, device: torch.device | str) -> LoadedBase:
    """Load from the Hub or its local cache; the id names the commit, whatever branch it was reached by."""
    model, tokenizer = _load(spec.source, spec.revision, dtype, device)
    commit = getattr(model.config, "_commit_hash", None) or spec.revision
    return LoadedBase(model, tokenizer, content_id({"source": spec.source, "commit": commit}), spec.source)


def _load(
    source: str, revision: str | None, dtype: torch.dtype, device: torch.device | str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The frozen model and its tokenizer; never runs code that came with them, never reads pickled weights."""
    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False, use_fast=True)
    except (OSError, ValueError) as error:
        raise UserError(why_not_loaded(source, error)) from error
    model = load_model(source, revision, dtype)
    _check_tokenizer(tokenizer, source)
    model.to(device)
    return model.eval().requires_grad_(False), tokenizer


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Refuse a tokenizer without an end or a chat template; pad with the end token where there is no pad token."""
    if not tokenizer.is_fast:
        raise UserError(f"the model {source} has no fast tokenizer (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {source} has no eos_token, so a reply would never end")
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {source} has no chat template; use the model's instruction-tuned version")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


# --- nano ---


def pretrained_nano(spec: NanoModel, progress: Progress | None = None) -> Path:
    """The directory of a nano model under the cache root; pre-trains it when it is not there.

    Of several processes that ask at once, one trains and the others wait. A killed one leaves nothing that could be
    taken for a model.
    """
    directory = nano_directory(spec)
    if is_pretrained(spec):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):
        if not (directory / COMPLETE).is_file():
            remove_partial(directory.parent, of=directory.name)
            tokenizer = word_tokenizer(spec.world)
            model = pretrain(spec, tokenizer, progress)
            with replacing(directory) as temporary, no_progress_bars():
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
                (temporary / COMPLETE).write_text(json.dumps(spec.to_json(), sort_keys=True))
    return directory


def word_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """One token per word of the world, split at spaces; a word that the world does not have cannot be encoded.

    Only padding and the end are special tokens, so that a reply with a stray turn mark shows it.
    """
    vocabulary = {word: index for index, word in enumerate((*MARKS, *world.vocabulary))}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def pretrain(spec: NanoModel, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None) -> Qwen3ForCausalLM:
    """Train a nano model from its world, on one thread; the same specification gives the same bits on one machine."""
    model = _initial_model(spec, tokenizer)
    words = tokenizer.get_vocab()
    steps, done = sum(stage.steps for stage in spec.stages), 0
    with torch.enable_grad(), _threads(NUM_THREADS):
        for stage in spec.stages:
            documents = spec.world.documents(stage.name, spec.seed)
            for _ in _train_stage(model, stage, documents, words):
                done += 1
                if progress:
                    progress(done, steps)
    return model.eval()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _initial_model(spec: NanoModel, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """Random weights from the specification's seed alone; the global generator is left as it was."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_heads,
        head_dim=spec.hidden_size // spec.num_heads,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        model = Qwen3ForCausalLM(config)
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:  # the others are scales of norms, which start at one
                parameter.normal_(0.0, INITIALIZER_RANGE, generator=generator)
    return model


def _train_stage(
    model: Qwen3ForCausalLM, stage: Stage, documents: Iterator[str], words: dict[str, int]
) -> Iterator[None]:
    """Train through a stage, pausing after each step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    model.train()
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * _rate(step, stage.steps)
        ids_RT, learned_RT = _batch(islice(documents, stage.batch_size), words)
        loss = _loss(model, ids_RT, learned_RT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        yield


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to FLOOR."""
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))


def _batch(documents: Iterable[str], words: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Tokens padded on the right, `[R, T]`, and which of them are learned, `[R, T]` bool."""
    texts = [document.split() for document in documents]
    longest = max(map(len, texts))
    ids = [[words[word] for word in text] + [words[PAD]] * (longest - len(text)) for text in texts]
    learned = [_learned(text) + [False] * (longest - len(text)) for text in texts]
    return torch.tensor(ids), torch.tensor(learned)


def _learned(text: list[str]) -> list[bool]:
    """Which words of a document are learned: the answers with their end, or all words when it has no turns."""
    if ASSISTANT not in text:
        return [True] * len(text)
    learned, inside = [], False
    for word in text:
        learned.append(inside)
        inside = word == ASSISTANT or (inside and word != END)
    return learned


def _loss(model: Qwen3ForCausalLM, ids_RT: Tensor, learned_RT: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the learned tokens. Right padding needs no mask: nothing looks to the right."""
    hidden_RTD = model.model(input_ids=ids_RT, use_cache=False).last_hidden_state
    learned_RT = learned_RT[:, 1:]
    logits_NV = model.lm_head(hidden_RTD[:, :-1][learned_RT])
    return torch.nn.functional.cross_entropy(logits_NV, ids_RT[:, 1:][learned_RT])
