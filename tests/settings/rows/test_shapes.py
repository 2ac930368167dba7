"""Rows of usual forms become the chats that a reader would write by hand."""

from __future__ import annotations

from typing import Any

import pytest

from settings.common.errors import UserError
from settings.rows.columns import FormError
from settings.rows.shapes import chat_row


def said(*texts: str, system: str = "") -> list[dict[str, str]]:
    """Turns of user and assistant, in turns."""
    start = [{"role": "system", "content": system}] if system else []
    return start + [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("row", "messages", "others", "read_from"),
    [
        ({"prompt": "q", "completion": "a"}, said("q", "a"), (), "'prompt' and 'completion'"),
        ({"prompt": said("q"), "completion": [{"role": "assistant", "content": "a"}]}, said("q", "a"), (), None),
        ({"prompt": "q", "response": "a"}, said("q", "a"), (), "'prompt' and 'response'"),
        ({"question": "q", "answer": "a"}, said("q", "a"), (), None),
        ({"instruction": "do", "input": "", "output": "a"}, said("do", "a"), (), "'instruction' and 'output'"),
        (
            {"instruction": "do", "input": "it", "output": "a", "system": "s"},
            said("do\n\nit", "a", system="s"),
            (),
            "'instruction', 'input' and 'output'",
        ),
        ({"input": "q", "output": "a"}, said("q", "a"), (), None),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            said("q", "a"),
            (),
            "'conversations'",
        ),
        (
            {"conversations": '[{"from": "system", "value": "s"}, {"role": "user", "content": "q"}]'},
            [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
            (),
            None,
        ),
        (
            {"prompt": "q", "chosen": "good", "rejected": "bad"},
            said("q", "good"),
            ("bad",),
            "'prompt', 'chosen' and 'rejected'",
        ),
        ({"prompt": "q", "chosen": said("q", "good"), "rejected": said("q", "bad")}, said("q", "good"), ("bad",), None),
        ({"chosen": said("q", "good"), "rejected": said("q", "bad")}, said("q", "good"), ("bad",), None),
        (
            {"prompt": "q", "chosen": said("q", "good", system="s"), "rejected": said("q", "bad", system="s")},
            said("q", "good", system="s"),
            ("bad",),
            None,
        ),
        ({"query": "q", "response": '[{"name": "f"}]'}, said("q", '[{"name": "f"}]'), (), None),
        (
            {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "good", "rejected": "bad"},
            said("q", "good"),
            ("bad",),
            None,
        ),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
            said("q", "good"),
            ("bad",),
            "'chosen' and 'rejected'",
        ),
    ],
)
def test_a_usual_form_is_a_chat(
    row: dict[str, Any], messages: list[dict[str, str]], others: tuple[str, ...], read_from: str | None
) -> None:
    read = chat_row(row | {"topic": "x"}, "here")
    assert read.fields == {"messages": messages, "topic": "x"}
    assert read.alternatives == others
    assert read.read_from == read_from or (read_from is None and read.read_from)


def test_a_chat_stays_as_it_is() -> None:
    row = {"messages": said("q", "a"), "prompt": "tag", "completion": "tag", "empty": None}
    assert chat_row(row, "here").fields == {"messages": said("q", "a"), "prompt": "tag", "completion": "tag"}
    assert chat_row(row, "here").read_from == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "^here has the columns none, and not 'prompt' and 'completion'; settings/README.md, "),
        (
            {"prompt": "q"},
            "^here has the columns prompt, and not 'completion'; settings/README.md, .* lists the forms$",
        ),
        (
            {"asked": "q", "best": "a", "topic": "x"},
            "^here has the columns asked, best, topic; say which is which, e.g."
            ' `"columns": {"prompt": "asked", "completion": "best"}`$',
        ),
        ({"question": "q", "my reply": "a"}, 'e.g. `"columns": {"answer": "my reply"}`$'),
        ({"prompt": "q", "completion": None}, "^here: the column 'completion' is empty$"),
        ({"prompt": "q", "chosen": "a", "rejected": "a "}, "are the same reply"),
        ({"chosen": "a", "rejected": "b"}, "only replies, and there is no 'prompt'"),
        ({"chosen": said("q", "a"), "rejected": said("other", "b")}, "not two replies to one prompt"),
        ({"prompt": "other", "chosen": said("q", "a"), "rejected": said("q", "b")}, "'prompt' differs from the prompt"),
        (
            {"conversations": [{"from": "narrator", "value": "q"}]},
            "turn 1: unknown speaker 'narrator'; allowed: system",
        ),
        ({"conversations": "hello"}, "'conversations' must be a list of turns"),
        ({"instruction": "do", "input": ["it"], "output": "a"}, "'input' must be text"),
        (
            {"system": "s", "conversations": [{"from": "system", "value": "t"}, {"from": "human", "value": "q"}]},
            "keep only one of them",
        ),
    ],
)
def test_what_has_no_obvious_reading_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        chat_row(row, "here")


def test_the_mapping_as_arguments() -> None:
    with pytest.raises(FormError) as caught:
        chat_row({"my id": 1, "asked": "q"}, "here")
    told = str(caught.value.as_arguments("--columns", "; more"))
    assert told.endswith("e.g. `--columns 'prompt=my id' --columns completion=asked`; more")
    assert str(FormError("write", {"a": "x"}, "option 'task'").as_arguments("-c")) == "-c: write `-c a=x`"
