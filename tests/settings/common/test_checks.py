"""Checks return what fits, and name what does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from settings.common import checks
from settings.common.errors import UserError

CASES: list[tuple[Callable[..., Any], list[Any], list[Any], str]] = [
    (checks.integer, [0, -3], [True, 1.0, "1", None], "must be an integer, got "),
    (partial(checks.integer, least=1), [1, 9], [0, False], "must be an integer of at least 1, got "),
    (partial(checks.integer, least=1, most=3), [1, 3], [0, 4], "must be an integer in [1, 3], got "),
    (checks.number, [0, -1.5], [True, "1", math.nan, math.inf], "must be a number, got "),
    (partial(checks.number, least=0), [0, 2.5], [-1, math.nan, math.inf], "must be a number of at least 0, got "),
    (partial(checks.number, above=0), [0.1], [0, -1, False], "must be a number above 0, got "),
    (checks.share, [0.1], [0, 1, math.nan, "0.5", True], "must be a number between 0 and 1, got "),
    (checks.flag, [True, False], [0, "yes", None], "must be true or false, got "),
    (checks.text, ["a"], ["", 3, None], "must be text, got "),
    (partial(checks.text, form="a name"), ["a"], [""], "must be a name, got "),
    (partial(checks.one_of, choices=("a", "b")), ["a"], ["c", ["a"], None], "must be one of a, b, got "),
]


@pytest.mark.parametrize(("check", "fits", "refused", "message"), CASES)
def test_checks(check: Callable[..., Any], fits: list[Any], refused: list[Any], message: str) -> None:
    for value in fits:
        assert check("option 'x'", value) == value
    for value in refused:
        with pytest.raises(UserError) as caught:
            check("option 'x'", value)
        assert str(caught.value) == f"option 'x' {message}{value!r}"
