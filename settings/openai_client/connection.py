"""The connection to an endpoint: its client, and why it fails, in words."""

from __future__ import annotations

import os
import ssl
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from settings.common.addresses import LOOPBACK, without_password, without_user
from settings.common.errors import UserError

URL = "OPENAI_BASE_URL"
DIRECT = {f"all://{f'[{host}]' if host.count(':') else host}": None for host in LOOPBACK}
PASSING = ("ReadTimeout", "WriteTimeout", "PoolTimeout", "ReadError", "WriteError", "RemoteProtocolError")


@dataclass(frozen=True)
class Key:
    """Where a key comes from.

    Attributes:
        variable: name of the environment variable.
        owner: who needs it, for messages.
        required: whether an endpoint on another machine needs one.
    """

    variable: str
    owner: str
    required: bool = True

    def read(self, url: str | None) -> str:
        """Return the key for an address. Raise UserError if a key is missing, or no endpoint would accept it."""
        key = os.environ.get(self.variable)
        if not key:
            if self.required and (url is None or urlsplit(url).hostname not in LOOPBACK):
                raise UserError(f"{self.owner} needs a key: set the environment variable {self.variable}")
            return "none"
        of = f"the key in the environment variable {self.variable}"
        if any(character.isspace() for character in key):
            raise UserError(f"{of} has white space in or around it, or a line break")
        if not key.isascii() or not key.isprintable():
            raise UserError(f"{of} has characters that cannot be part of a key")
        return key


def is_address(url: str) -> bool:
    """Return whether requests can be sent to an address."""
    return urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)


def open_client(base_url: str | None, timeout: float, source: Key) -> Any:
    """Create the client. It does not repeat requests itself, because each counts against the budget.

    Raise UserError for an unusable key or address.
    """
    from openai import DefaultHttpxClient, OpenAI

    url = base_url or os.environ.get(URL)
    if url is not None and not is_address(url):
        what = "base_url" if base_url else f"the environment variable {URL}"
        raise UserError(f"{source.owner}'s {what} must begin with http:// or https://, got {without_password(url)!r}")
    key = source.read(url)
    near = url is not None and urlsplit(url).scheme == "http" and urlsplit(url).hostname in LOOPBACK
    try:
        connections = DefaultHttpxClient(mounts=DIRECT, timeout=timeout, trust_env=not near)
    except (ImportError, ValueError) as error:
        proxies = ", ".join(f"{scheme}_proxy" for scheme in sorted(urllib.request.getproxies()))
        why = type(error).__name__ if isinstance(error, ValueError) else str(error)
        raise UserError(f"the proxy that the environment names ({proxies}) cannot be used: {why}") from None
    return OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0, http_client=connections)


def innermost(error: BaseException) -> list[BaseException]:
    """Return the chain of errors that led to an error, the innermost cause first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.insert(0, link)
        link = link.__cause__ or link.__context__
    return chain


def may_pass(error: BaseException) -> bool:
    """Return whether a connection was made but broke, so that another attempt makes sense even at first contact."""
    return any(type(link).__name__ in PASSING for link in innermost(error))


def connection_cause(error: BaseException, base_url: str) -> str:
    """Say why an endpoint cannot be reached: the innermost cause, and what to set."""
    chain, scheme = innermost(error), urlsplit(base_url).scheme
    kinds = {type(link).__name__ for link in chain}
    text = next((" ".join(str(link).split()) for link in chain if str(link).strip()), type(chain[0]).__name__)
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        reason = f"its certificate is not trusted ({text}); SSL_CERT_FILE names a file of certificates to trust"
    elif any(isinstance(link, ssl.SSLError) for link in chain):
        reason = f"it does not speak https ({text}); should the address begin with http://?"
    elif any(isinstance(link, ConnectionRefusedError) for link in chain):
        reason = "connection refused: nothing listens there"
    elif "gaierror" in kinds:
        reason = f"the host's name is not known ({text})"
    elif any(kind.endswith("Timeout") for kind in kinds) or "APITimeoutError" in kinds:
        reason = "no answer in time"
    elif "RemoteProtocolError" in kinds or "ReadError" in kinds or "LocalProtocolError" in kinds:
        https = "; should the address begin with https://?" if scheme == "http" else ""
        reason = f"its response is not a valid answer ({text}){https}"
    else:
        reason = text
    return reason + _proxy_hint(base_url)


def _proxy_hint(base_url: str) -> str:
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or host in LOOPBACK or urllib.request.proxy_bypass(host):
        return ""
    name = f"{parts.scheme if proxies.get(parts.scheme) else 'all'}_proxy"
    return (
        f" (through the proxy {urlsplit(without_user(proxy)).netloc or 'of the environment'} that {name} names;"
        f" NO_PROXY={host} bypasses it)"
    )
