"""Addresses of stores and servers: showing them without passwords, and where they lead."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from settings.common.errors import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")  # names of this machine, reached without a proxy
HIDDEN = "***"
SQLITE = "sqlite:///"
_PASSWORD = re.compile(r"([a-z][\w+.-]*://[^\s:/@]*):\S*@", re.IGNORECASE)  # up to the last @ of a word
_ADDRESS = re.compile(  # with or without a scheme; a password may contain spaces
    r"([a-z][\w+.-]*://[^:/@]*|^[^\s:/@]+(?=:(?!//))):(.*)@", re.IGNORECASE | re.DOTALL
)
# A password may contain "/", but a port before a path is not a password.
_USER = re.compile(r"^(\w+://)?(?:[^/]*@|[^:/@]*:(?!//|\d+/).*@)", re.DOTALL)
_PARAMETER = re.compile(r"([?&;]\w*(?:password|passwd|pwd|token|secret|key)=)[^&;\s]+", re.IGNORECASE)


def without_password(address: str) -> str:
    """Return an address fit to be shown: user:***@host, and *** for a password among its parameters."""
    return _PARAMETER.sub(rf"\1{HIDDEN}", _ADDRESS.sub(rf"\1:{HIDDEN}@", address))


def has_password(address: str) -> bool:
    """Return whether an address contains a password."""
    return without_password(address) != address


def redacted(text: str, *addresses: str) -> str:
    """Return a text without the passwords of addresses in it.

    Args:
        addresses: known addresses; in other addresses, passwords are recognised unless they contain spaces.
    """
    for address in filter(None, addresses):
        text = text.replace(address, without_password(address))
        if match := _ADDRESS.match(address):
            for password in (match[2], unquote(match[2]), quote(match[2])):
                text = text.replace(f":{password}@", f":{HIDDEN}@")
    return _PARAMETER.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1:{HIDDEN}@", text))


def without_user(address: str) -> str:
    """Return the address of a server without user and password, as in links that others will read."""
    return _USER.sub(r"\1", address)


def sqlite_file(address: str) -> Path | None:
    """Return the file of an SQLite database; None for other addresses. In it, %20 is a space, and ? ends the path."""
    scheme, _, rest = address.partition(":///")
    return Path(unquote(rest.partition("?")[0])) if scheme.partition("+")[0] == "sqlite" and rest else None


def sqlite_address(file: Path) -> str:
    """Return the address of an SQLite database. Raise UserError for a path that such an address cannot express."""
    address = f"{SQLITE}{file}"
    if sqlite_file(address) != file:
        raise UserError(
            f"{file}: the address of a database cannot hold '?' or a code like '%41' in a path;"
            " choose another --output, or give MLflow a place with --tracking-uri"
        )
    return address
