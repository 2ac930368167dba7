"""A server that replies with a base model and LoRA adapters on it, by the protocol of vLLM's runtime loading.

An adapter is loaded under its own name (`POST /load_lora_adapter`), asked by that name (`POST /completions`), and
unloaded. Prompts are sent as tokens, so that the server's chat template plays no part. The request overrides every
value that a server may take from the model's `generation_config.json`, where a penalty would change even greedy
replies. Replies are cached by content, and none is sampled twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from settings.common.content import content_id, file_sha256
from settings.common.errors import UserError
from settings.openai_client.client import BrokenError, Client, NoAnswerError, RefusedError
from settings.openai_client.connection import Key
from settings.openai_client.refusals import is_passing
from settings.replies.cache import ReplyCache
from settings.replies.options import Endpoint

KEY = Key("VLLM_API_KEY", "the server of replies", required=False)
VERSION = 1  # of requests; part of every reply's id
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LOADED_ALREADY = "already been loaded"
UNLOADING_TIMEOUT = 10.0  # seconds; short, because an adapter that stays loaded does no harm
ABSENT = (404, 405, 501)  # how a server says that it has no such route
PLAIN = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
# vLLM's own parameters: ignore the model's generation_config.json, and leave end tokens out of the text.
PLAIN_OF_VLLM = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "skip_special_tokens": True}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Asked:
    """A prompt and how its reply is sampled.

    Attributes:
        prompt: tokens, up to the place where the reply starts.
        max_tokens: longest reply, in tokens.
        stop_ids: tokens that end a reply.
        temperature: 0 is greedy.
        top_p: sample from the likeliest tokens that together have this probability.
        seed: seed of the draws; irrelevant for a greedy reply.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def identity(self) -> list[Any]:
        """Everything that decides a model's reply."""
        greedy = self.temperature == 0
        drawn = [] if greedy else [self.temperature, self.top_p, self.seed]
        return [list(self.prompt), self.max_tokens, sorted(self.stop_ids), *drawn]


@dataclass(frozen=True)
class ServedModel:
    """The model that replies.

    Attributes:
        name: its name on the server.
        content: id of its weights: those of the base model, and of the adapter on it.
    """

    name: str
    content: str


def draw_seed(evaluation: str, seed: int, place: int) -> int:
    """Return the seed of a reply's draws, from the trial's seed and the question's place in its evaluation."""
    digest = hashlib.sha256(f"reply/{evaluation}/{seed}/{place}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # servers take 31 bits


class ReplyServer:
    """Asks a server for replies, many at a time. Usable from several threads, and a context manager.

    Args:
        options: see `Endpoint`.
        cache: file of the replies; several processes may share it.

    Attributes:
        sampled, cached: number of replies that the server has given, and that were known before.

    Raises:
        UserError: an unusable key or address, or a cache that cannot be opened.
    """

    def __init__(self, options: Endpoint, *, cache: Path) -> None:
        self._client = Client("replies", options.url, KEY, options)
        self._cache = ReplyCache(cache)
        self._threads = ThreadPoolExecutor(options.concurrency, thread_name_prefix="replies")
        self.sampled = self.cached = 0

    def check(self, base_model: str) -> str:
        """Check that the server has the base model, and loads adapters while it runs. Return one line on what it does.

        Raise UnavailableError.
        """

        def listed() -> bytes:
            content: bytes = self._client.api.models.with_raw_response.list().content
            return content

        names = self._ask(lambda: self._client.once(listed, _model_names, "list of models"))
        if base_model not in names:
            self._client.refuse(
                f"it serves {', '.join(names) or 'no model'}, not {base_model!r}; Endpoint(model=...) says what it"
                " calls the base model"
            )
        try:  # an empty request: a server that loads adapters complains about what is missing
            self._load("", "")
        except RefusedError as refused:
            if refused.code in ABSENT:
                self._client.refuse(
                    f"it does not load adapters at run time ({refused.code}); vLLM does with --enable-lora and, in its"
                    " environment, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
                )
            if refused.code in (401, 403):
                self._client.refuse(self._client.said(refused))
        except BrokenError as broken:
            self._client.refuse(broken.why)
        self._client.is_checked = True
        return f"{self._client.name} come from {base_model} and the trials' adapters, which are loaded there by name"

    @contextmanager
    def adapter(self, base: ServedModel, directory: Path, name: str) -> Iterator[ServedModel]:
        """Load an adapter for as long as the context lasts.

        Args:
            base: the model that it is for.
            directory: directory of the PEFT checkpoint; the server must see it under the same path.
            name: unique among the adapters that are loaded at the same time.

        Raises:
            UserError: there is no such checkpoint.
            UnavailableError: the server does not load it.
        """
        missing = [file for file in ADAPTER_FILES if not (directory / file).is_file()]
        if missing:
            raise UserError(f"{directory} has no {missing[0]}: the adapter that should reply was deleted")
        content = content_id([base.content, *(file_sha256(directory / file) for file in ADAPTER_FILES)])
        served = ServedModel(f"{name}-{content[:8]}", content)

        def refuse(refused: RefusedError) -> bool:
            if not is_passing(refused.code, refused.text, retry_after=refused.retry_after):
                self._client.refuse(f"it does not load the adapter {directory}: {self._client.said(refused)}")
            return False

        self._ask(lambda: self._load(served.name, str(directory.resolve())), refuse)
        try:
            yield served
        finally:
            self._unload(served.name)

    def reply(self, model: ServedModel, asked: Sequence[Asked]) -> list[str]:
        """Return a reply to each prompt, in order; equal prompts are sent once. Raise UnavailableError."""
        ids = [content_id([VERSION, model.content, *each.identity], 32) for each in asked]
        known = self._cache.get(set(ids))
        wanted = {identity: each for identity, each in zip(ids, asked, strict=True) if identity not in known}
        futures: dict[str, Future[str]] = {
            identity: self._threads.submit(self._sample, model, identity, each) for identity, each in wanted.items()
        }
        with self._client.lock:
            self.cached += sum(identity in known for identity in ids)
        try:
            known |= {identity: future.result() for identity, future in futures.items()}
        finally:  # wait for requests already sent, so that their replies are cached
            begun = [future for future in futures.values() if not future.cancel()]
            for future in begun:
                future.exception()
        return [known[identity] for identity in ids]

    @property
    def usage(self) -> str:
        """One line on what the server was asked."""
        return f"{self._client.name}: {self.sampled} sampled, {self.cached} known before"

    def close(self) -> None:
        """Send nothing more, wait for requests already sent, and close connections and cache."""
        self._client.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._client.close()
        self._cache.close()

    def __enter__(self) -> ReplyServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sample(self, model: ServedModel, identity: str, asked: Asked) -> str:
        own = {**PLAIN_OF_VLLM, "stop_token_ids": sorted(asked.stop_ids)}

        def request() -> bytes:
            raw = self._client.api.completions.with_raw_response.create(
                model=model.name,
                prompt=list(asked.prompt),
                max_tokens=asked.max_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                seed=asked.seed,
                extra_body=own,
                **PLAIN,
            )
            content: bytes = raw.content
            return content

        text = self._ask(lambda: self._client.once(request, _text, "completion"))
        self._cache.put(identity, text, model.name)
        with self._client.lock:
            self.sampled += 1
        return text

    def _load(self, name: str, path: str) -> None:
        """Load an adapter, unless one of this name is loaded. Raise as `Client.once` does."""
        body = {"lora_name": name, "lora_path": path}

        def request() -> bytes:
            return str(self._client.api.post("/load_lora_adapter", body=body, cast_to=str)).encode()

        try:
            self._client.once(request, lambda content: None, "answer")
        except RefusedError as refused:
            if LOADED_ALREADY not in refused.words:
                raise

    def _unload(self, name: str) -> None:
        """Unload an adapter. If that fails, the server drops it when it needs the memory, or when it ends."""
        api, body = self._client.api.with_options(timeout=UNLOADING_TIMEOUT), {"lora_name": name}

        def request() -> bytes:
            return str(api.post("/unload_lora_adapter", body=body, cast_to=str)).encode()

        with suppress(RefusedError, BrokenError):
            self._client.once(request, lambda content: None, "answer", last=True)

    def _ask(self, send: Callable[[], Answer], adapt: Callable[[RefusedError], bool] = lambda refused: False) -> Answer:
        """Send a request until it succeeds. Raise UnavailableError; replies so far are cached, the rest asked again."""
        try:
            return self._client.ask(send, adapt=adapt)
        except BrokenError as broken:
            self._client.refuse(f"{broken.why}; the next start continues from the replies that are cached")


def _model_names(content: bytes) -> list[str]:
    try:
        return [str(model["id"]) for model in json.loads(content)["data"]]
    except (ValueError, KeyError, TypeError):
        raise NoAnswerError(content) from None


def _text(content: bytes) -> str:
    """Return the text of a completion. Raise NoAnswerError if there is none."""
    try:
        text = json.loads(content)["choices"][0]["text"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise NoAnswerError(content) from None
    if not isinstance(text, str):
        raise NoAnswerError(content)
    return text.strip()
