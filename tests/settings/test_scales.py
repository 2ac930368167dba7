"""Options of one scale are not taken for options of another."""

from __future__ import annotations

from typing import Any

import pytest

from settings import catalog
from settings.common.errors import UserError
from settings.scales import at_scale


def small(size: int = 1) -> Any:
    return ("small", size)


def large(model: str = "m") -> Any:
    return ("large", model)


SCALES: dict[str, Any] = {"nano": small, "full": large}


def test_what_is_not_given_stays_the_scales_default() -> None:
    assert at_scale("s", "nano", SCALES, {"size": None, "model": None}) == ("small", 1)
    assert at_scale("s", "full", SCALES, {"model": "other", "size": None}) == ("large", "other")


def test_an_option_of_the_other_scale_is_refused() -> None:
    with pytest.raises(UserError, match="option 'model' does not belong to scale 'nano', which has size"):
        at_scale("s", "nano", SCALES, {"model": "other"})
    with pytest.raises(UserError, match="has no scale 'huge'; its scales: nano, full"):
        at_scale("s", "huge", SCALES, {})


def test_a_real_setting_refuses_it_too() -> None:
    with pytest.raises(UserError, match="option 'epochs' does not belong to scale 'nano'"):
        catalog.build("gcd_sycophancy", {"epochs": 3})
