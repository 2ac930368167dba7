"""What an address shows, and which file it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from settings.common.addresses import redacted, sqlite_address, sqlite_file, without_password, without_user
from settings.common.errors import UserError

SHOWN = {
    "postgresql://me:secret@host:5432/mlflow": "postgresql://me:***@host:5432/mlflow",
    "mysql+pymysql://me:a/b?c#secret@host/mlflow": "mysql+pymysql://me:***@host/mlflow",
    "postgresql://me:my secret@host/mlflow": "postgresql://me:***@host/mlflow",
    "postgresql://me:se@cret@host/mlflow": "postgresql://me:***@host/mlflow",
    "http://:secret@host:5000": "http://:***@host:5000",
    "postgresql://host/mlflow?user=me&password=secret&sslmode=on": (
        "postgresql://host/mlflow?user=me&password=***&sslmode=on"
    ),
    "http://host:5000/x": "http://host:5000/x",
    "http://me@host:5000": "http://me@host:5000",
    "sqlite:////data/a b/mlflow.db": "sqlite:////data/a b/mlflow.db",
}


@pytest.mark.parametrize("address", SHOWN)
def test_no_password_is_shown(address: str) -> None:
    """In an address, in a sentence around it, and in what a library makes of it."""
    assert without_password(address) == SHOWN[address]
    assert redacted(f"cannot use {address}: no route", address) == f"cannot use {SHOWN[address]}: no route"
    assert redacted(f"request to {address}/api failed", address) == f"request to {SHOWN[address]}/api failed"
    encoded = address.replace("my secret", "my%20secret")
    assert "secret@" not in redacted(f"request to {encoded} failed", address)


def test_passwords_of_unknown_addresses_are_recognised() -> None:
    text = "proxy http://me:secret@proxy:3128 refused; then postgresql://you:hidden@host"
    assert redacted(text) == "proxy http://me:***@proxy:3128 refused; then postgresql://you:***@host"
    assert redacted("selgen: x/y.jsonl, line 3: not valid, see a@b.org") == (
        "selgen: x/y.jsonl, line 3: not valid, see a@b.org"
    )


def test_links_name_no_user() -> None:
    assert without_user("https://me:secret@host:5000/") == "https://host:5000/"
    assert without_user("https://host:5000/#/a@b") == "https://host:5000/#/a@b"
    assert without_user("http://me:sec/ret@proxy:3128") == "http://proxy:3128"
    assert without_user("me:secret@proxy:3128") == "proxy:3128"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("me:sec@ret@host:8000/v1", "me:***@host:8000/v1"),
        ("host:8000/v1", "host:8000/v1"),
        ("sqlite:////a:b/c@d/x.db", "sqlite:////a:b/c@d/x.db"),
    ],
)
def test_an_address_that_lacks_its_scheme_shows_no_password(address: str, shown: str) -> None:
    assert without_password(address) == shown


@pytest.mark.parametrize(
    "address", ["sqlite:////a/b c/x.db", "sqlite:///runs/x.db?timeout=3", "sqlite:////a%20b/50%/x"]
)
def test_the_file_is_the_one_that_sqlalchemy_opens(address: str) -> None:
    assert sqlite_file(address) == Path(make_url(address).database or "")
    assert sqlite_file("postgresql://host/db") is sqlite_file("http://host:5000") is None


@pytest.mark.parametrize(("name", "fits"), [("a b#c&é", True), ("50%", True), ("a?b", False), ("a%41", False)])
def test_a_path_that_no_address_can_hold_is_refused(tmp_path: Path, name: str, fits: bool) -> None:
    file = tmp_path / name / "mlflow.db"
    if fits:
        assert make_url(sqlite_address(file)).database == str(file)
    else:
        with pytest.raises(UserError, match=r"cannot hold '\?'.*choose another --output"):
            sqlite_address(file)
