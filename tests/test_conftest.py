"""What `tests/conftest.py` promises to every test."""

import os

import pytest


@pytest.mark.parametrize("turn", ["first", "second"])
def test_no_test_meets_the_environment_of_another(turn: str) -> None:
    assert "LEFT_BEHIND" not in os.environ and os.environ["OMP_NUM_THREADS"] == "1"
    os.environ["LEFT_BEHIND"] = turn
    os.environ["OMP_NUM_THREADS"] = "2"
    del os.environ["TOKENIZERS_PARALLELISM"]


def test_what_was_removed_is_there_again() -> None:
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
