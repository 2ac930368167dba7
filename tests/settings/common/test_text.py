"""Names as in a sentence."""

import pytest

from settings.common.text import listed


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [
        ("", None, ""),
        ("a", 1, "a"),
        ("ab", None, "a and b"),
        ("abc", 3, "a, b and c"),
        ("abcd", 3, "a, b, c and 1 more"),
        ("abc", 1, "a and 2 more"),
    ],
)
def test_names_are_listed_as_in_a_sentence(names: str, most: int | None, text: str) -> None:
    assert listed(list(names), most) == text
