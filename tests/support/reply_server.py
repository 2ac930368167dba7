"""A server of replies on this machine, by the protocol of vLLM: models, completions, LoRA adapters loaded by name."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from trainables.engine.adapters import PackedAdapters
from trainables.engine.base import LoadedBase
from trainables.evaluation.foreign import load_into, read_adapter
from trainables.evaluation.generate import generate

Body = dict[str, Any]
Problem = tuple[int, str]
Writes = Callable[[Body, Path | None], str]  # (request, the adapter's directory; None for the base model) -> reply


@dataclass
class Server:
    """What the server does and what it saw.

    Attributes:
        writes: makes a reply.
        base: what it calls its base model.
        loads: whether it loads adapters while it runs.
        problem: asked for each route and body; a status and message to answer instead, if there is one.
        adapters: loaded now, by name.
        requests: (route, body) of all that came.
    """

    writes: Writes
    base: str = "tiny"
    loads: bool = True
    problem: Callable[[str, Body], Problem | None] = lambda route, body: None
    url: str = ""
    adapters: dict[str, Path] = field(default_factory=dict)
    requests: list[tuple[str, Body]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def bodies(self, route: str) -> list[Body]:
        return [body for each, body in self.requests if each == route]

    def answer(self, route: str, body: Body) -> tuple[int, Any]:
        """Answer as vLLM does, in its words."""
        with self.lock:
            self.requests.append((route, body))
            problem = self.problem(route, body)
            if problem:
                return problem[0], {"error": {"message": problem[1], "type": "x", "code": problem[0]}}
            if route == "models":
                return 200, {"object": "list", "data": [{"id": name} for name in (self.base, *self.adapters)]}
            if route == "completions":
                return self._complete(body)
            if route in ("load_lora_adapter", "unload_lora_adapter") and self.loads:
                return (self._load if route.startswith("load") else self._unload)(body)
            return 404, {"detail": "Not Found"}

    def _complete(self, body: Body) -> tuple[int, Any]:
        name = body["model"]
        if name != self.base and name not in self.adapters:
            return _error(404, f"The model `{name}` does not exist.")
        text = self.writes(body, self.adapters.get(name))
        return 200, {"id": "x", "object": "text_completion", "model": name, "choices": [{"index": 0, "text": text}]}

    def _load(self, body: Body) -> tuple[int, Any]:
        name, path = body["lora_name"], body["lora_path"]
        if not name or not path:
            return _error(400, "Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(path) / "adapter_config.json").is_file():
            return _error(404, f"No adapter found for {path}")
        self.adapters[name] = Path(path)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, body: Body) -> tuple[int, Any]:
        if self.adapters.pop(body["lora_name"], None) is None:
            return _error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return 200, "Success"


def _error(code: int, message: str) -> tuple[int, Any]:
    return code, {"object": "error", "message": message, "type": "x", "code": code}


def packed_replies(base: LoadedBase) -> Writes:
    """Greedy replies of a base model with the adapter in a directory, by this project's own packed model."""

    def writes(body: Body, directory: Path | None) -> str:
        assert body["temperature"] == 0
        packed, adapter = None, None
        if directory:
            adapter = read_adapter(directory)
            packed = PackedAdapters(base.model, [adapter.config_for(base)], [0], dtype=base.model.dtype)
            load_into(packed, 0, adapter)
        try:
            ((reply,),) = generate(
                base.model,
                [body["prompt"]],
                adapters=packed,
                members=[0] if packed else [],
                max_new_tokens=body["max_tokens"],
                stop_ids=frozenset(body["stop_token_ids"]),
                pad_id=int(base.tokenizer.pad_token_id),
            )
        finally:
            if packed:
                packed.detach()
        return str(base.tokenizer.decode(list(reply), skip_special_tokens=True))

    return writes


@contextmanager
def serving_replies(writes: Writes, **options: Any) -> Iterator[Server]:
    """A server on a free port of this machine."""
    server = Server(writes, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send({})

        def do_POST(self) -> None:
            self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _send(self, body: Body) -> None:
            status, data = server.answer(self.path.removeprefix("/v1/"), body)
            content = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    listener = Listener(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
