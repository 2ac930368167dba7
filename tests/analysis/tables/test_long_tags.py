"""Tags that MLflow would cut are split, and put together again only where they belong together."""

from __future__ import annotations

import json

import pytest
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

from analysis.tables.long_tags import BrokenTagError, split, whole

LONG = json.dumps({f"score_{number}": number / 7 for number in range(800)})


def test_a_long_tag_is_whole_again() -> None:
    tags = split({"a": "short", "b": LONG})
    assert list(tags) == ["a", *(f"b.{number}" for number in range(1, len(tags) - 1)), "b"]
    assert max(map(len, tags.values())) < 5000 < MAX_TAG_VAL_LENGTH, "the shortest limit that MLflow has had"
    assert len(LONG) > MAX_TAG_VAL_LENGTH
    assert (whole(tags, "a"), whole(tags, "b"), whole(tags, "c")) == ("short", LONG, None)


def test_parts_that_a_longer_value_left_are_not_read() -> None:
    tags = split({"b": LONG})
    assert whole(tags | split({"b": LONG[:9000]}), "b") == LONG[:9000]
    assert whole(tags | split({"b": "{}"}), "b") == "{}"


@pytest.mark.parametrize("change", [{"b.2": None}, {"b.2": "cut"}, {"b.1": "x" * 4000}])
def test_a_part_that_is_missing_or_of_another_value_is_seen(change: dict[str, str | None]) -> None:
    """A writer that was killed between two batches, or somebody who edits tags in the UI."""
    changed = split({"b": LONG}) | change
    with pytest.raises(BrokenTagError, match="tag b: its parts do not belong together"):
        whole({key: value for key, value in changed.items() if value is not None}, "b")
