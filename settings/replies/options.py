"""Where replies are sampled, and how to reach the server."""

from __future__ import annotations

from dataclasses import dataclass

from settings.common import checks
from settings.common.addresses import without_password
from settings.common.errors import UserError
from settings.openai_client.connection import is_address


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server of replies. The use of a server is part of a trial's identity; its address is not.

    Attributes:
        url: address of the server, with the version of the protocol, e.g. "http://localhost:8000/v1".
        model: the server's name of the base model; None means its Hub id or directory, as in `vllm serve MODEL`.
        concurrency: number of simultaneous requests.
        timeout: seconds until a request is abandoned.
        max_retries: attempts after the first, if the server is busy or broken.
        first_wait: seconds before the second attempt, doubled before each further one, unless the server says
            otherwise.
    """

    url: str
    model: str | None = None
    concurrency: int = 32
    timeout: float = 300.0
    max_retries: int = 6
    first_wait: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not is_address(self.url):
            shown = without_password(self.url) if isinstance(self.url, str) else self.url
            raise UserError(f"Endpoint: url must begin with http:// or https://, got {shown!r}")
        if self.model is not None:
            checks.text("Endpoint: model", self.model, "what the server calls the base model")
        checks.integer("Endpoint: concurrency", self.concurrency, 1)
        checks.integer("Endpoint: max_retries", self.max_retries, 0)
        for name in ("timeout", "first_wait"):
            checks.number(f"Endpoint: {name}", getattr(self, name), least=0)
