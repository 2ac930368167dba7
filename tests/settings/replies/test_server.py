"""A server of replies: what is asked of it, what is kept, and what it says when it cannot serve."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from settings.common.errors import UserError
from settings.replies import Asked, Endpoint, ReplyServer, ServedModel
from settings.replies.server import draw_seed
from tests.support.reply_server import Body, Server, serving_replies

BASE = ServedModel("tiny", "weights of the base")
KEY = "token-do-not-tell"


def counted(body: Body, directory: Path | None) -> str:
    """A reply that says who gave it, to what."""
    return f" {directory.name if directory else 'base'} {body['prompt']} {body['seed']} "


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-service")
    for name in ("VLLM_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def served() -> Iterator[Server]:
    with serving_replies(counted) as server:
        yield server


def opened(url: str, folder: Path, **options: Any) -> ReplyServer:
    quick: dict[str, Any] = {"first_wait": 0.01, "timeout": 5.0, "concurrency": 4, "max_retries": 2}
    return ReplyServer(Endpoint(**{**quick, "url": url, **options}), cache=folder / "replies.db")


def checkpoint(folder: Path, name: str = "adapter") -> Path:
    directory = folder / name
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps({"r": 2}))
    (directory / "adapter_model.safetensors").write_bytes(name.encode())
    return directory


def test_an_adapter_is_loaded_asked_and_unloaded_by_name(served: Server, tmp_path: Path) -> None:
    asked = [Asked((5, 6), 7, (1,)), Asked((8,), 7, (1,)), Asked((5, 6), 7, (1,))]
    with opened(served.url, tmp_path) as server:
        where = served.url.removeprefix("http://").removesuffix("/v1")
        line = f"replies at {where} come from tiny and the trials' adapters, which are loaded there by name"
        assert server.check("tiny") == line
        with server.adapter(BASE, checkpoint(tmp_path), "selgen-1") as model:
            assert list(served.adapters) == [model.name] and model.name.startswith("selgen-1-")
            assert server.reply(model, asked) == ["adapter [5, 6] 0", "adapter [8] 0", "adapter [5, 6] 0"]
        assert not served.adapters
        assert server.reply(BASE, asked[:1]) == ["base [5, 6] 0"]
    assert len(served.bodies("completions")) == 3  # the equal prompts are asked once


def test_everything_that_decides_a_reply_is_said(served: Server, tmp_path: Path) -> None:
    """Whatever stands in the model's generation_config.json is overruled, and the reply ends where it ends here."""
    with opened(served.url, tmp_path) as server:
        server.reply(BASE, [Asked((5, 6), 7, (9, 1), temperature=0.7, top_p=0.9, seed=3)])
    (body,) = served.bodies("completions")
    assert body == {
        "model": "tiny",
        "prompt": [5, 6],
        "max_tokens": 7,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
        "stop_token_ids": [1, 9],
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "skip_special_tokens": True,
    }


def test_the_seed_of_a_draw_is_of_evaluation_trial_and_place() -> None:
    digest = hashlib.sha256(b"reply/open/2/5").hexdigest()
    assert draw_seed("open", 2, 5) == int(digest[:8], 16) // 2 < 2**31
    assert len({draw_seed(name, seed, place) for name in "ab" for seed in range(3) for place in range(50)}) == 300


def test_replies_are_kept_by_content(served: Server, tmp_path: Path) -> None:
    """Another process, and another name of the same adapter, find them; other weights and other draws do not."""
    greedy, drawn = Asked((5,), 7), Asked((5,), 7, temperature=1.0, seed=1)
    first, same, other = (checkpoint(tmp_path, name) for name in ("first", "same", "other"))
    (same / "adapter_model.safetensors").write_bytes(b"first")
    for place, asked, known in (
        (first, greedy, 0),
        (same, greedy, 1),
        (other, greedy, 0),
        (first, drawn, 0),
        (same, drawn, 1),
        (first, Asked((5,), 7, seed=4), 1),  # of a greedy reply the seed decides nothing
        (first, Asked((5,), 7, temperature=1.0, seed=2), 0),
        (first, Asked((5,), 8), 0),
        (first, Asked((5,), 7, (1,)), 0),
    ):
        with opened(served.url, tmp_path) as server, server.adapter(BASE, place, place.name) as model:
            server.reply(model, [asked])
            assert (server.sampled, server.cached) == (1 - known, known), (place, asked)
            assert server.usage.endswith(f": {1 - known} sampled, {known} known before")


def test_an_adapter_on_another_base_model_has_other_replies(served: Server, tmp_path: Path) -> None:
    directory = checkpoint(tmp_path)
    for base in (BASE, ServedModel("tiny", "other weights")):
        with opened(served.url, tmp_path) as server, server.adapter(base, directory, "a") as model:
            server.reply(model, [Asked((5,), 7)])
            assert (server.sampled, server.cached) == (1, 0)


def test_a_server_that_is_busy_is_asked_again(served: Server, tmp_path: Path) -> None:
    seen: list[str] = []

    def problem(route: str, body: Body) -> tuple[int, str] | None:
        seen.append(route)
        return (503, "overloaded") if seen.count(route) == 1 else None

    served.problem = problem
    with opened(served.url, tmp_path) as server:
        server.check("tiny")
        with server.adapter(BASE, checkpoint(tmp_path), "a") as model:
            assert server.reply(model, [Asked((5,), 7)]) == ["adapter [5] 0"]
    # What the probe of `check` is told counts as an answer, so that loading needs no second attempt here.
    assert [seen.count(route) for route in ("models", "load_lora_adapter", "completions")] == [2, 2, 2]


def test_an_adapter_that_is_there_already_is_no_problem(served: Server, tmp_path: Path) -> None:
    """A start that was killed could not unload it."""
    directory = checkpoint(tmp_path)
    with opened(served.url, tmp_path) as server:
        with server.adapter(BASE, directory, "a") as model:
            assert served.adapters
        served.adapters[model.name] = directory
        with server.adapter(BASE, directory, "a") as again:
            assert again == model and server.reply(again, [Asked((5,), 7)]) == ["adapter [5] 0"]


@pytest.mark.parametrize(
    ("changes", "named", "message"),
    [
        ({"base": "Qwen/Qwen3-8B"}, "tiny", r"it serves Qwen/Qwen3-8B, not 'tiny'; Endpoint\(model=...\) says"),
        ({"loads": False}, "tiny", r"it does not load adapters at run time \(404\); vLLM does with --enable-lora and"),
        ({"problem": lambda route, body: (401, "Unauthorized")}, "tiny", r"does not accept the key in VLLM_API_KEY"),
        ({"problem": lambda route, body: (500, "cuda died")}, "tiny", r"3 attempts have failed \(500\): cuda died"),
    ],
)
def test_a_server_that_cannot_serve_is_named_in_a_line(
    changes: dict[str, Any], named: str, message: str, tmp_path: Path
) -> None:
    with serving_replies(counted, **changes) as served, opened(served.url, tmp_path) as server:
        with pytest.raises(UserError, match=rf"^replies at 127.0.0.1:\d+: .*{message}") as caught:
            server.check(named)
        assert "\n" not in str(caught.value) and "sk-of-another-service" not in str(caught.value)


def test_a_server_that_is_away_is_named_in_a_line(tmp_path: Path) -> None:
    with serving_replies(counted) as served:
        url = served.url
    with opened(url, tmp_path) as server, pytest.raises(UserError, match=r"connection refused: nothing listens there"):
        server.check("tiny")


def test_a_server_that_goes_away_keeps_what_came(tmp_path: Path) -> None:
    """The replies before are not sampled twice, and the line says that the next start goes on."""
    asked = [Asked((number,), 7) for number in range(6)]

    def problem(route: str, body: Body) -> tuple[int, str] | None:
        return (500, "gone") if body.get("prompt", [0])[0] >= 3 else None

    with serving_replies(counted, problem=problem) as served:
        with opened(served.url, tmp_path, concurrency=1) as server:
            server.check("tiny")
            with pytest.raises(UserError, match=r"3 attempts have failed \(500\): gone; the next start continues from"):
                server.reply(BASE, asked)
        served.problem = lambda route, body: None
        with opened(served.url, tmp_path) as server:
            assert server.reply(BASE, asked) == [f"base [{number}] 0" for number in range(6)]
            assert (server.sampled, server.cached) == (3, 3)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ((400, "LoRA rank 64 is greater than max_lora_rank 16."), "LoRA rank 64 is greater than max_lora_rank 16."),
        ((404, "No adapter found for it"), r"no such model or path \(404\): No adapter found for it"),
    ],
)
def test_an_adapter_that_is_refused_is_named(
    problem: tuple[int, str], message: str, served: Server, tmp_path: Path
) -> None:
    served.problem = lambda route, body: problem if body.get("lora_name") else None
    directory = checkpoint(tmp_path)
    with opened(served.url, tmp_path) as server:
        server.check("tiny")
        with (
            pytest.raises(UserError, match=f"does not load the adapter {directory}: .*{message}"),
            server.adapter(BASE, directory, "a"),
        ):
            pass


def test_an_adapter_that_was_deleted_is_named(served: Server, tmp_path: Path) -> None:
    with (
        opened(served.url, tmp_path) as server,
        pytest.raises(UserError, match=r"gone has no adapter_config.json: the adapter that should reply was deleted"),
        server.adapter(BASE, tmp_path / "gone", "a"),
    ):
        pass


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"url": "localhost:8000"}, "url must begin with http:// or https://, got 'localhost:8000'"),
        ({"url": "http://u:secret@"}, r"url must begin with http:// or https://, got 'http://u:\*\*\*@'"),
        ({"url": "http://a/v1", "concurrency": 0}, "concurrency"),
        ({"url": "http://a/v1", "model": ""}, "model"),
    ],
)
def test_an_endpoint_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^Endpoint: {message}"):
        Endpoint(**values)
