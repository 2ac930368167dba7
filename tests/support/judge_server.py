"""A chat-completions endpoint on loopback that says what a test wants, and breaks as a test wants."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from settings.judge.judge import FIRST_ANSWER

Body = Mapping[str, Any]


@dataclass
class Reply:
    """One HTTP response.

    Attributes:
        data: JSON of the body; `raw` takes its place where given.
        wait: seconds before it is sent.
        hang_up: close the connection without any response.
    """

    data: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    wait: float = 0.0
    hang_up: bool = False


def completion(text: Any, top: Mapping[str, float] | None = None, *, cut: bool = False, **message: Any) -> Reply:
    """A completion; `top` maps the likeliest first tokens to their probabilities, the first of them came.

    Args:
        cut: whether it ended for lack of room.
        message: more fields beside the content, e.g. `reasoning_content`.
    """
    content = {"role": "assistant", "content": text, **message}
    choice: dict[str, Any] = {"index": 0, "message": content, "finish_reason": "length" if cut else "stop"}
    if top is not None:
        listed = [{"token": token, "logprob": math.log(p) if p else -math.inf} for token, p in top.items()]
        choice["logprobs"] = {"content": [{"token": next(iter(top), ""), "logprob": -0.1, "top_logprobs": listed}]}
    usage = {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51}
    return Reply({"id": "x", "object": "chat.completion", "model": "judge-1", "choices": [choice], "usage": usage})


def certain(number: int) -> Reply:
    """A completion that is sure of a number, by a tokenizer that writes it in one token."""
    return completion(str(number), {str(number): 1.0, "55": 0.0})


def digit_by_digit(body: Body, number: int) -> Reply:
    """What a tokenizer makes of a number that has a token for each digit and no more, at the asked length.

    Its first token is likely to be any digit that is near.
    """
    digits = str(number)
    room = int(body["max_tokens"])
    top = {digits[0]: 0.9, str((int(digits[0]) + 1) % 10): 0.06, str((int(digits[0]) + 9) % 10): 0.03}
    return completion(digits[:room], top if body.get("logprobs") else None, cut=room < len(digits) + 1)


def error(status: int, message: str = "broken", code: Any = None, **headers: str) -> Reply:
    """An error in the wire format."""
    return Reply({"error": {"message": message, "type": "x", "param": None, "code": code}}, status, headers)


class Endpoint:
    """What the server does and what it saw.

    Attributes:
        answer: called with the request's body and its number, from 0.
        bodies, times: of the requests, in the order in which they came.
        most_at_once: requests that were in flight together.
        checks: bodies of the calls that came before all others, if the server answers them by itself.
    """

    def __init__(self, answer: Callable[[Body, int], Reply], at_check: Reply | None) -> None:
        self.answer, self._at_check = answer, at_check
        self.checks: list[Body] = []
        self.bodies: list[Body] = []
        self.times: list[float] = []
        self.headers: list[Mapping[str, str]] = []
        self.most_at_once = 0
        self.url = ""
        self._now, self._lock = 0, threading.Lock()

    def handle(self, body: Body, headers: Mapping[str, str]) -> Reply:
        if self._at_check and FIRST_ANSWER in body["messages"][0]["content"]:
            self.checks.append(body)
            return self._at_check
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.headers.append(headers)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        reply = self.answer(body, number)
        time.sleep(reply.wait)
        with self._lock:
            self._now -= 1
        return reply


@contextmanager
def serving(answer: Callable[[Body, int], Reply], at_check: Reply | None = None) -> Iterator[Endpoint]:
    """A server on a free port of this machine.

    Args:
        at_check: its reply to the call by which a judge is checked; None asks `answer` for that one, too.
    """
    endpoint = Endpoint(answer, at_check)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = endpoint.handle(body, {name.lower(): value for name, value in self.headers.items()})
            if reply.hang_up:
                self.close_connection = True
                return
            content = reply.raw if reply.raw is not None else json.dumps(reply.data).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has given up

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
