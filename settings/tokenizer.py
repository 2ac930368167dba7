"""The tokenizer of a pretrained model, and what must be right with it before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from settings.common.errors import UserError
from settings.encoding import chooses_at_random

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(source: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer with a chat template; if it has no pad token, it pads with the end token.

    Code that comes with it is never run. Raise UserError if it cannot be read, or lacks what fine-tuning needs.
    """
    import tokenizers
    from transformers import AutoTokenizer  # takes seconds, and most settings are nano

    try:
        with no_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False, use_fast=True)
    except (OSError, ValueError) as error:
        raise UserError(why_not_loaded(source, error)) from error
    except Exception as error:  # `tokenizers` raises plain Exceptions
        if "untagged enum" not in str(error) and type(error) is not Exception:
            raise
        raise UserError(
            f"cannot read the tokenizer of {source}: it may have been written by a newer version than the installed"
            f" tokenizers {tokenizers.__version__}; {' '.join(str(error).split())[:200]}"
        ) from error
    _check(tokenizer, source)
    return tokenizer


def _check(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    if not tokenizer.is_fast:
        raise UserError(f"the model {source} has no fast tokenizer (tokenizer.json)")
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {source} has no eos_token, so a reply would never end")
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {source} has no chat template; use the model's instruction-tuned version")
    if chooses_at_random(str(tokenizer.get_chat_template())):
        raise UserError(f"the chat template of {source} makes random choices, so no two starts train the same rows")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def fit_to_embedding(tokenizer: PreTrainedTokenizerBase, num_embeddings: int, source: str) -> None:
    """Pad with the end token if the model has no embedding of the pad token; this is safe because padding is masked.

    Raise UserError if it has no embedding of the end token.
    """
    if int(tokenizer.eos_token_id) >= num_embeddings:
        raise UserError(
            f"{source}: the end token {tokenizer.eos_token!r} has the number {tokenizer.eos_token_id}, but the model"
            f" knows {num_embeddings} tokens; resize its embedding, or use the tokenizer that belongs to it"
        )
    if int(tokenizer.pad_token_id) >= num_embeddings:
        tokenizer.pad_token = tokenizer.eos_token


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch off the progress bars of transformers, which would disrupt the display of a sweep."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def why_not_loaded(source: str, error: Exception) -> str:
    """Say in one line why transformers could not load from a directory or the Hub."""
    reason = " ".join(str(error).split())[:300]
    if Path(source).is_dir():
        return f"cannot load the model in {source}: {reason}"
    return (
        f"cannot load the model {source!r} from the Hugging Face Hub; on a machine with a network, run"
        f" `hf download {source} --local-dir DIR`, copy DIR here and give it as the model: {reason}"
    )
