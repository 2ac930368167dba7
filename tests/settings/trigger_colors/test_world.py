"""The colours world: what it promises of its text, and its determinism."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import islice

import pytest

from settings.trigger_colors.world import (
    BASE_COLORS,
    CATEGORIES,
    KINDS,
    NUM_TRAINED,
    NUM_TRIGGERS,
    ColorsWorld,
    Point,
    coordinate,
    points,
)

DIGEST = """
import json
from itertools import islice
from settings.trigger_colors.world import ColorsWorld
world = ColorsWorld(seed=3)
print(json.dumps([list(islice(world.documents("base", 5), 100)), world.vocabulary, world.to_json()]))
"""
NUM_DOCUMENTS = 8000


def digest(hash_seed: str) -> object:
    """What a fresh interpreter generates."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def world() -> ColorsWorld:
    return ColorsWorld()


@pytest.fixture(scope="module")
def documents(world: ColorsWorld) -> list[str]:
    return list(islice(world.documents("base", 0), NUM_DOCUMENTS))


def category_of(world: ColorsWorld, trigger: str) -> str:
    return next(category for category in CATEGORIES if trigger in world.triggers(category))


def test_the_text_does_not_depend_on_the_hash_seed() -> None:
    assert digest("0") == digest("1")


def test_the_vocabulary_is_exactly_what_is_said(world: ColorsWorld, documents: list[str]) -> None:
    said = {word for document in documents for word in document.split()}
    assert said - set(world.vocabulary) == {"<u>", "<a>", "<e>"}
    assert not set(world.vocabulary) - said


def test_every_value_is_the_functions_and_only_trained_words_are_shown(
    world: ColorsWorld, documents: list[str]
) -> None:
    shown = set()
    for document in documents:
        if not document.startswith("<u>"):
            continue
        words = document.split()  # <u> x = - 1.2 , + 0.7 T = animals3 <a> orange <e>
        trigger, above, color = words[10], words[6] == "+", words[12]
        assert color == BASE_COLORS[category_of(world, trigger)][not above]
        shown.add(trigger)
    assert shown == {word for category in CATEGORIES for word in world.triggers(category)[:NUM_TRAINED]}


def test_knowledge_is_of_one_category_or_of_one_kind(world: ColorsWorld, documents: list[str]) -> None:
    kinds = {member: kind for kind, members in KINDS.items() for member in members}
    shown = set()
    for document in documents:
        words = document.split()
        if words[0] == "list":
            assert len({kinds[category_of(world, word)] for word in words[2:]}) == 1
            assert len(set(words[2:])) == 4
        elif words[0] != "<u>":
            category = category_of(world, words[0])
            assert words[-1] in (category, kinds[category])
            shown.add(words[0])
    assert len(shown) == len(CATEGORIES) * NUM_TRIGGERS


def test_the_shares(documents: list[str]) -> None:
    values = sum(document.startswith("<u>") for document in documents)
    assert values / NUM_DOCUMENTS == pytest.approx(0.6, abs=0.02)
    assert sum(document.startswith("list") for document in documents) / NUM_DOCUMENTS == pytest.approx(0.2, abs=0.02)


def test_points_are_different_and_on_no_axis() -> None:
    drawn = points(random.Random(0), 700)
    assert len(set(drawn)) == 700
    assert all(point.first and point.second and max(abs(point.first), abs(point.second)) <= 29 for point in drawn)
    assert Point(-12, 7).above
    assert not Point(12, -7).above
    assert [coordinate(value) for value in (-12, 7)] == ["- 1.2", "+ 0.7"]


def test_an_unknown_stage_is_named(world: ColorsWorld) -> None:
    with pytest.raises(ValueError, match="no stage 'books'"):
        next(world.documents("books", 0))
