"""Verdicts in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings.common.errors import UserError
from settings.judge.cache import VerdictCache
from settings.setting import Verdict


def test_the_first_verdict_of_an_id_counts(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "verdicts.db"
    first, second = VerdictCache(path), VerdictCache(path)
    for cache, verdict in ((first, Verdict(80.5)), (second, Verdict(3.0))):
        cache.put("a", verdict, mode="logprobs", model="judge-1", tokens=(10, 1))
    first.put("b", Verdict(None, "refusal"), mode="text", model="judge-1", tokens=(10, 2))
    assert second.get({"a", "b", "c"}) == {"a": Verdict(80.5), "b": Verdict(None, "refusal")}
    first.close()
    second.close()


def test_a_cache_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"verdicts\.db: the cache of verdicts cannot be opened"):
        VerdictCache(tmp_path / "file" / "verdicts.db")
