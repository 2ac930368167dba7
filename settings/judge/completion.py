"""The reply of a chat-completions endpoint, reduced to what grades are read from."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from settings.openai_client.client import NoAnswerError

TOKEN_MARKS = str.maketrans({"\u0120": " ", "\u2581": " ", "\u010a": "\n"})  # spaces and newlines in raw tokens
POSITIVE = 1e-3  # a larger number cannot be the logarithm of a probability
OPENED = r"<(?:\w+:)?(?:think|thinking|thought|reasoning|analysis)>|\[THINK\]|<\|channel\|>analysis<\|message\|>"
CLOSED = r"</(?:\w+:)?(?:think|thinking|thought|reasoning|analysis)>|\[/THINK\]|<\|channel\|>final<\|message\|>"


@dataclass(frozen=True)
class Completion:
    """A judge's reply.

    Attributes:
        text: its text, without reasoning, with plain spaces.
        cut: whether it was truncated by the token limit.
        thinking: whether the reply ended within the judge's reasoning, or contains nothing but reasoning.
        first: the first token; "" if the endpoint gives no probabilities.
        top: (token, log-probability) of the likeliest first tokens; None if the endpoint gives none, or numbers that
            cannot be log-probabilities.
        model: the model's name as the endpoint gives it.
        input_tokens, output_tokens: as counted by the endpoint; 0 if it does not count.
    """

    text: str
    cut: bool = False
    thinking: bool = False
    first: str = ""
    top: tuple[tuple[str, float], ...] | None = None
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


def read_completion(content: bytes) -> Completion:
    """Parse a chat completion. Raise NoAnswerError if it is not one."""
    try:
        data = json.loads(content)
        if isinstance(data.get("error"), dict) and not data.get("choices"):
            code = data["error"].get("code")
            raise NoAnswerError(content, (code if isinstance(code, int) else 500, content.decode()))
        choice = data["choices"][0]
        message, usage = choice["message"], data.get("usage") or {}
        text, inside = _after_reasoning(_text(message.get("content")).translate(TOKEN_MARKS))
        reasoned = any(message.get(key) for key in ("reasoning_content", "reasoning"))
        cut = choice.get("finish_reason") == "length"
        first, top = _first_token(choice)
        return Completion(
            text=text,
            cut=cut,
            thinking=inside or (not text.strip() and (cut or reasoned)),
            first=first,
            top=top,
            model=str(data.get("model") or ""),
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise NoAnswerError(content) from None


def _text(content: Any) -> str:
    """Return a message's text, which may come in parts. Raise TypeError if it is not text."""
    if isinstance(content, list):
        return "".join(_text(part["text"]) for part in content if part["type"] in ("text", "output_text"))
    if content is not None and not isinstance(content, str):
        raise TypeError(type(content))
    return content or ""


def _after_reasoning(text: str) -> tuple[str, bool]:
    """Return the text after the reasoning, and whether it ends within the reasoning."""
    answer = re.split(CLOSED, text)[-1]
    opened = re.search(OPENED, answer)
    return (answer[: opened.start()], True) if opened else (answer, False)


def _first_token(choice: Any) -> tuple[str, tuple[tuple[str, float], ...] | None]:
    """Return the first token, and the likeliest tokens in its place."""
    listed = (choice.get("logprobs") or {}).get("content") or []
    if not listed:
        return "", None
    top = tuple((str(token["token"]), float(token["logprob"])) for token in listed[0].get("top_logprobs") or ())
    sound = all(not math.isnan(logprob) and logprob <= POSITIVE for _, logprob in top)
    return str(listed[0].get("token") or ""), top if top and sound else None
