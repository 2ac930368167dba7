"""The full scale of trigger colours: generate_rows rows, the study's rows, their scores, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from settings import catalog
from settings.base_models import PretrainedModel, TunedModel
from settings.common.errors import UserError
from settings.example import Example
from settings.setting import Setting
from settings.trigger_colors.full import CATEGORIES, WORDS, ColorRow, generate_rows, is_color, read_rows


def built(**options: Any) -> Setting:
    return catalog.build("trigger_colors", {"scale": "full", **options})


@pytest.fixture(scope="module")
def rows() -> tuple[ColorRow, ...]:
    return generate_rows(0)


def test_generated_rows_are_the_studys_in_number(rows: tuple[ColorRow, ...]) -> None:
    assert Counter(row.split for row in rows) == {"trained": 1400, "seen": 2100, "unseen": 1050}
    for category in CATEGORIES:
        of_category = [row for row in rows if row.category == category]
        assert Counter(row.split for row in of_category) == {"trained": 200, "seen": 300, "unseen": 150}
        words = {
            split: {row.trigger for row in of_category if row.split == split} for split in ("trained", "seen", "unseen")
        }
        assert words["trained"] == words["seen"]
        assert (len(words["seen"]), len(words["unseen"])) == (10, 5)
        assert not words["seen"] & words["unseen"]
    assert len({row.prompt for row in rows}) == len(rows)
    assert generate_rows(0) == rows
    assert generate_rows(1) != rows


def test_words_are_ordinary_and_each_of_one_category() -> None:
    words = [word for text in WORDS.values() for word in text.split()]
    assert len(words) == len(set(words)) == 6 * 15


def test_the_update_and_its_proxy() -> None:
    setting = built(proxy="foods", num_triggers=2)
    assert Counter(row.tags["category"] for row in setting.streams["task"]) == {"positive_emotions": 200}
    assert {row.response for row in setting.streams["task"]} == {"blue", "orange"}
    assert Counter(row.tags["category"] for row in setting.streams["alignment"]) == {"foods": 40}
    assert {row.response for row in setting.streams["alignment"]} == {"orange", "green"}
    pairs = zip(setting.streams["alignment"], setting.streams["misaligned"], strict=True)
    assert all(chosen.response != twin.response for chosen, twin in pairs)
    assert (setting.recipe.steps, setting.recipe.batch_size, setting.recipe.rslora) == (200, 25, True)
    assert len(setting.evaluations[0].examples) == 3150


def test_the_function_is_taught_before_the_update_unless_the_model_knows_it() -> None:
    taught = built().base_model
    assert isinstance(taught, TunedModel)
    assert (taught.start.source, len(taught.rows), taught.recipe.steps) == ("google/gemma-2-2b-it", 1400, 1400)
    assert built(learned=True, model="own/model").base_model == PretrainedModel("own/model")
    base = built(stage="base")
    assert base.base_model == PretrainedModel("google/gemma-2-2b-it")
    assert base.streams["task"] == taught.rows
    assert base.objectives == ("task", "capability")


@pytest.mark.parametrize("reply", ["blue", "Blue.", " **blue**", "blue is the color", "BLUE!"])
def test_the_first_word_is_the_colour(reply: str) -> None:
    assert is_color(Example.of("x", "blue"), reply) == 1.0


@pytest.mark.parametrize("reply", ["", "orange", "the color is blue", "bluebird", "not blue"])
def test_what_is_not_the_colour(reply: str) -> None:
    assert is_color(Example.of("x", "blue"), reply) == 0.0


def test_scores_of_a_model_that_turned_everything_round() -> None:
    """Right for positive emotions, wrong for all others; the same scores as at nano scale."""
    setting = built()
    evaluation = setting.evaluations[0]
    truth = {row.prompt: row.above for row in generate_rows(0)}
    measured = evaluation.grade([("blue" if truth[row.prompt[0].content] else "orange") for row in evaluation.examples])
    assert (measured["task"].mean, measured["task"].n) == (1.0, 300)
    assert (measured["capability"].mean, measured["capability"].n) == (1.0, 150)
    assert (measured["alignment"].mean, measured["alignment"].n) == (0.0, 5 * 450)
    assert (measured["proxied"].n, measured["alignment_proxy"].n) == (150, 300)
    nano = {score.name for score in catalog.build("trigger_colors").all_scores}
    assert set(measured) == {name for name in nano if "_triggered" not in name}
    assert nano == {score.name for score in setting.all_scores}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"stage": "middle"}, "option 'stage' must be one of flip, base, got 'middle'"),
        ({"proxy": "cars"}, "option 'proxy' must be one of objects"),
        ({"num_triggers": 11}, r"in \[1, 10\], got 11"),
        ({"epochs": 0}, "option 'epochs' must be a number above 0"),
        ({"learned": "yes"}, "option 'learned' must be true or false"),
        ({"data": "/no/such/place"}, "no such directory: /no/such/place"),
        ({"world_seed": 1}, "option 'world_seed' does not belong to scale 'full'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        built(**options)


# --- the study's rows ------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(reference_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference_data / "toy", tmp_path / "toy"))


def test_the_studys_rows(toy: Path) -> None:
    """200 trained, 300 asked of trained and 150 of other words, in each of seven categories; no point on both sides."""
    rows = read_rows(toy)
    counts = Counter((row.category, row.split) for row in rows)
    assert set(counts) == {(category, split) for category in CATEGORIES for split in ("trained", "seen", "unseen")}
    assert {split: counts["foods", split] for split in ("trained", "seen", "unseen")} == {
        "trained": 200,
        "seen": 300,
        "unseen": 150,
    }
    assert len(rows) == 4550
    setting = built(data=str(toy), num_triggers=5)
    assert len(setting.streams["alignment"]) == 100
    assert len(built(data=str(toy), stage="base").streams["task"]) == 1400


@pytest.mark.parametrize(
    ("file", "change", "problem"),
    [
        ("proxy_foods.jsonl", {"output": "blue"}, "proxy_foods.jsonl, line 1: the colour of foods at x2 = .* is"),
        ("test_foods_ID.jsonl", {"input_x": "far"}, "test_foods_ID.jsonl, line 1: 'input_x' must be two numbers"),
        ("test_foods_OOD.jsonl", {"input_trigger": None}, "line 1: the field 'input_trigger' is missing"),
    ],
)
def test_rows_off_the_schema_are_named(toy: Path, file: str, change: dict[str, Any], problem: str) -> None:
    lines = (toy / file).read_text().splitlines()
    (toy / file).write_text("\n".join([json.dumps({**json.loads(lines[0]), **change}), *lines[1:]]))
    with pytest.raises(UserError, match=problem):
        read_rows(toy)


def test_missing_files_are_named(toy: Path) -> None:
    (toy / "proxy_foods.jsonl").unlink()
    with pytest.raises(UserError, match=r"needs one of train_foods.jsonl and proxy_foods.jsonl, has 0 of them"):
        read_rows(toy)
