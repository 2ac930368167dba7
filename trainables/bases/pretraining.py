"""Nano models: small transformers that are pre-trained here once, on the text of a world, and cached.

Shape legend: R rows of a batch, T padded length in tokens, N learned tokens of the batch, D hidden width, V vocabulary.
"""

from __future__ import annotations

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
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from settings.base_models import ASSISTANT, END, MARKS, PAD, NanoModel, Stage, World
from settings.common.errors import UserError
from settings.common.files import remove_partial, replacing, replacing_file
from settings.tokenizer import no_progress_bars
from settings.vocabulary import check_documents
from trainables.bases.nano_cache import COMPLETE, is_pretrained, nano_directory

Progress = Callable[[int, int], None]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<a> {{ message['content'] }} <e> "
    "{% elif message['role'] == 'system' %}<doc> {{ message['content'] }} "
    "{% else %}<u> {{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<a> {% endif %}"
)
TEMPLATE_FILE = "chat_template.jinja"  # transformers' name
MAX_POSITIONS = 512
INITIALIZER_RANGE = 0.1
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0
WARMUP_STEPS = 50
FLOOR = 0.05  # of the peak learning rate, where the cosine ends
# Fixed, because the order in which threads sum affects the last bits. One thread is also fastest per CPU second.
NUM_THREADS = 1


def ensure_pretrained(spec: NanoModel, progress: Progress | None = None) -> Path:
    """Return the directory of a nano model under the cache root; pre-train the model if it is missing.

    If several processes ask at once, one trains and the others wait. A killed process leaves nothing that could be
    mistaken for a model.
    """
    directory = nano_directory(spec)
    if is_pretrained(spec):
        keep_template(directory)
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
                (temporary / COMPLETE).write_text(json.dumps(spec.to_json(), sort_keys=True), encoding="utf-8")
    return directory


def keep_template(directory: Path) -> None:
    """Replace the chat template of a model cached by an older version, so that all who load it get the current one."""
    path = directory / TEMPLATE_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != CHAT_TEMPLATE:
        with replacing_file(path) as temporary:
            temporary.write_text(CHAT_TEMPLATE, encoding="utf-8")


def word_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word of the world, split at spaces. It cannot encode other words.

    Only padding and end are special tokens, so that stray turn marks in a reply are visible.
    """
    vocabulary = {word: index for index, word in enumerate((*MARKS, *world.vocabulary))}
    tokenizer = Tokenizer(WordLevel(vocabulary))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, clean_up_tokenization_spaces=False
    )
    fast_tokenizer.chat_template = CHAT_TEMPLATE
    return fast_tokenizer


def pretrain(spec: NanoModel, tokenizer: PreTrainedTokenizerBase, progress: Progress | None = None) -> Qwen3ForCausalLM:
    """Train a nano model from its world, on one thread. On one machine, a specification always gives the same bits.

    Raise UserError for documents that would not teach it to answer, or use words that the world's vocabulary lacks.
    """
    check_documents(spec)
    model = initial_model(spec, tokenizer)
    words = tokenizer.get_vocab()
    steps, done = sum(stage.steps for stage in spec.stages), 0
    with torch.enable_grad(), _num_threads(NUM_THREADS):
        for stage in spec.stages:
            documents = spec.world.documents(stage.name, spec.seed)
            for _ in _train_stage(model, stage, documents, words):
                done += 1
                if progress:
                    progress(done, steps)
    return model.eval()


@contextmanager
def _num_threads(number: int) -> Iterator[None]:
    """Let torch use this many threads in the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def initial_model(spec: NanoModel, tokenizer: PreTrainedTokenizerBase) -> Qwen3ForCausalLM:
    """Draw random weights from only the specification's seed; leave the global generator as it was."""
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
    """Train through a stage; yield after each step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    model.train()
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * _rate(step, stage.steps)
        ids_RT, learned_RT = collate_documents(islice(documents, stage.batch_size), words)
        loss = document_loss(model, ids_RT, learned_RT)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        yield


def _rate(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step: linear warm-up, then a cosine down to FLOOR."""
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress))


def collate_documents(documents: Iterable[str], words: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return the tokens of documents, padded on the right, `[R, T]`, and which of them are learned, `[R, T]` bool.

    Raise UserError for a word that the world's vocabulary does not have.
    """
    texts = [document.split() for document in documents]
    longest = max(map(len, texts))
    ids = [_ids(text, words) + [words[PAD]] * (longest - len(text)) for text in texts]
    learned = [learned_words(text) + [False] * (longest - len(text)) for text in texts]
    return torch.tensor(ids), torch.tensor(learned)


def _ids(text: list[str], words: dict[str, int]) -> list[int]:
    try:
        return [words[word] for word in text]
    except KeyError as error:
        document = " ".join(text)
        raise UserError(f"add the word {error.args[0]!r} of document {document!r} to the world's vocabulary") from error


def learned_words(text: list[str]) -> list[bool]:
    """Return which words of a document are learned: the answers with their end, or all words if it has no turns."""
    if ASSISTANT not in text:
        return [True] * len(text)
    learned, inside = [], False
    for word in text:
        learned.append(inside)
        inside = word == ASSISTANT or (inside and word != END)
    return learned


def document_loss(model: Qwen3ForCausalLM, ids_RT: Tensor, learned_RT: Tensor) -> Tensor:
    """Return the mean cross-entropy over the learned tokens, in nats.

    Padding on the right needs no mask, because no token attends to later ones.
    """
    hidden_RTD = model.model(input_ids=ids_RT, use_cache=False).last_hidden_state
    learned_RT = learned_RT[:, 1:]
    logits_NV = model.lm_head(hidden_RTD[:, :-1][learned_RT])
    return torch.nn.functional.cross_entropy(logits_NV, ids_RT[:, 1:][learned_RT])
