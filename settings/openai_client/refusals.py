"""What an endpoint's error means, and how to show it: in the endpoint's own words, without the key or any reply."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

RETRIED = (408, 409, 425, 429)  # and all of 500 and above
LONGEST_WORDS = 300  # characters
OVERLAP = 12  # quoted characters of a reply that could reveal it in an error
NO_MONEY = re.compile(
    r"insufficient.{0,3}(quota|balance|credit|fund)|exceeded.(your.)?current.quota|out of credits|no credits"
    r"|credit balance|billing|payment required",
    re.IGNORECASE,
)
RETRY_HINT = re.compile(r"(retry|try again) (in|after)|retryDelay", re.IGNORECASE)
CAUSES = {
    401: "it does not accept the key in {key}",
    402: "the account has no credit left",
    403: "access is denied",
    404: "no such model or path",
    407: "the proxy requires a password",
}


def is_passing(code: int, text: str, *, retry_after: float | None = None) -> bool:
    """Return whether another attempt makes sense: the endpoint is busy or broken, and the account has money left.

    Args:
        text: text of the error. A rate limit may mention a quota, too, but then says when to try again.
    """
    if code == 429 and "insufficient_quota" in text:
        return False
    if code == 429 and NO_MONEY.search(text):
        return retry_after is not None or bool(RETRY_HINT.search(text))
    return code in RETRIED or code >= 500


def cause(code: int, text: str, key: str) -> str:
    """Return in a few words what a status means; "" if the endpoint's own words suffice.

    Args:
        key: the environment variable that the key comes from.
    """
    return (CAUSES[402] if code == 429 and NO_MONEY.search(text) else CAUSES.get(code, "")).format(key=key)


def words_of(content: str) -> str:
    """Return the message of an error's body in one line."""
    try:
        data = json.loads(content)
    except ValueError:
        data = re.sub(r"<[^>]*>", " ", content)
    for key in ("error", "message", "detail"):
        if isinstance(data, dict) and data.get(key):
            data = data[key]
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return " ".join(text.split())


def discreet(words: str, key: str, texts: Iterable[str]) -> str:
    """Return an endpoint's words, shortened, without the key and without any part of the texts that were sent."""
    if key:
        words = words.replace(key, "***")
    words = re.sub(r"\bsk-[\w*-]{4,}", "***", words)
    for text in texts:
        words = _without_overlap(words, text)
    return words if len(words) <= LONGEST_WORDS else words[:LONGEST_WORDS] + "..."


def _without_overlap(words: str, text: str) -> str:
    kept, start = "", 0
    while start < len(words):
        length = OVERLAP
        while start + length <= len(words) and words[start : start + length] in text:
            length += 1
        if length > OVERLAP:
            kept, start = kept + "...", start + length - 1
        else:
            kept, start = kept + words[start], start + 1
    return kept


def retry_after_seconds(header: str | None) -> float | None:
    """Return a Retry-After header (seconds or a date) as seconds from now; None if missing or in another form."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
