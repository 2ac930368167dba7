"""Spaces: what the methods declare, what users narrow, and what is refused in one line that names the coefficient."""

import math
import re

import optuna
import pytest

from settings.common.errors import UserError
from sweeps.search.distributions import suggest
from sweeps.space import MethodSpace, between, grid, one_of, vary
from trainables import methods
from trainables.coefficients import ChoiceSpec, RangeSpec


def test_a_searched_rank_is_one_that_the_method_can_have() -> None:
    """Pareto adapters halve it: of 2 to 9, even ones up to 8."""
    space = vary("pareto_adapters", share=0.5, rank=between(2, 9))
    ranks = {space.at([place / 50])["rank"] for place in range(51)}
    assert ranks == {2, 4, 6, 8}


def test_the_methods_own_ranges_are_searched_by_default() -> None:
    space = vary("kl_penalty", configurations=4)
    beta = space.ranges["beta"]
    assert isinstance(beta, RangeSpec)
    assert (beta.low, beta.high, beta.log) == (0.03, 30.0, True)
    assert space.budget(9) == 4 and vary("kl_penalty").budget(9) == 9


def test_a_value_fixes_a_coefficient_and_leaves_one_configuration() -> None:
    space = vary("kl_penalty", beta=2)
    assert space.ranges == {} and space.budget(6) == 1
    assert space.to_method({}) == methods.make("kl_penalty", {"beta": 2.0})
    assert isinstance(space.fixed["beta"], float), "1 and 1.0 must be one configuration"


def test_a_method_without_coefficients_has_one_configuration() -> None:
    assert vary("plain").budget(6) == 1


def test_between_narrows_and_keeps_the_scale() -> None:
    assert vary("kl_penalty", beta=between(0.1, 10)).ranges["beta"] == RangeSpec(0.1, 10.0, True, 0.0, math.inf, 0.0)
    linear = vary("kl_penalty", beta=between(0, 10, log=False)).ranges["beta"]
    assert isinstance(linear, RangeSpec) and not linear.log


def test_layers_and_targets_are_texts_that_optuna_and_tables_can_hold() -> None:
    space = vary("kl_penalty", beta=1, layers=one_of("all", "last 2", (5, 3)), rank=between(1, 8))
    assert space.ranges["layers"] == ChoiceSpec(("all", "last 2", "3+5"), searched=True)
    assert space.ranges["rank"] == RangeSpec(1, 8, True, 1, math.inf, integer=True)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [suggest(space, study.ask()) for _ in range(20)]
    assert {values["layers"] for values in asked} == {"all", "last 2", "3+5"}
    assert all(isinstance(values["rank"], int) and 1 <= values["rank"] <= 8 for values in asked)
    assert len(space.every_option()) == 3 and space.knob_names == {"layers", "rank"}


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("first 3", '"all", "last N" or a tuple of layer numbers'),
        ("last 0", "last 0"),
        ((2, 2), "names a layer twice"),
        ((-1,), "layer numbers from 0"),
        ((), "layer numbers from 0"),
    ],
)
def test_layers_that_are_none(layers: object, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        vary("plain", layers=layers)


def test_grid_is_the_product() -> None:
    space = grid("upweighted", weight=[0.3, 1, 3])
    assert space.points == ({"weight": 0.3}, {"weight": 1.0}, {"weight": 3.0})
    assert space.budget(1) == 3
    assert space.to_method(space.points[1]) == methods.make("upweighted", {"weight": 1.0})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: vary("kl_penality"), ["kl_penality", "kl_penalty", "plain"]),
        (lambda: vary("kl_penalty", gamma=1), ["'gamma'", "beta"]),
        (lambda: vary("plain", beta=1), ["'beta'", "definition", "steps"]),
        (lambda: grid("plain", steps=[0]), ["'steps'", "an integer"]),
        (lambda: grid("plain", adapter_scale=[1.5]), ["'adapter_scale'", "[0, 1]"]),
        (lambda: vary("kl_penalty", beta=-1), ["'beta'", "[0, inf]", "-1"]),
        (lambda: vary("mixed", share=0.99), ["'share'", "[0, 0.95]"]),
        (lambda: vary("kl_penalty", beta="high"), ["'beta'", "'high'"]),
        (lambda: vary("kl_penalty", beta=[1, 2]), ["'beta'", "must be a number"]),
        (lambda: vary("kl_penalty", beta=float("nan")), ["'beta'", "nan"]),
        (lambda: vary("kl_penalty", beta=between(3, 1)), ["'beta'", "between(3, 1)"]),
        (lambda: vary("kl_penalty", beta=between(1, 1)), ["'beta'", "between(1, 1)"]),
        (lambda: vary("kl_penalty", beta=between(0, 1)), ["'beta'", "logarithmic"]),
        (lambda: vary("mixed", share=between(0.1, 2)), ["'share'", "[0, 0.95]"]),
        (lambda: vary("kl_penalty", beta=one_of(1, 2)), ["'beta'", "grid('kl_penalty', beta=[...])"]),
        (lambda: vary("kl_penalty", configurations=0), ["configurations", "0"]),
        (lambda: grid("upweighted", weight=[]), ["'weight'", "empty"]),
        (lambda: grid("upweighted", weight=[1, 1.0]), ["'weight'", "more than once"]),
        (lambda: grid("upweighted", weight=[1, -1]), ["'weight'", "-1"]),
        (lambda: grid("upweighted", height=[1]), ["'height'", "weight"]),
        (
            lambda: vary("kl_penalty", beta=(0.1, 10)),
            ["a range is between(low, high), a list grid('kl_penalty', beta=[...])"],
        ),
    ],
)
def test_refusals_are_one_line_and_name_the_coefficient(make, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_suggested_numbers_are_short_and_inside() -> None:
    space = vary("kl_penalty", beta=between(0.031234, 29.8765))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    values = [suggest(space, study.ask())["beta"] for _ in range(200)]
    inner = [value for value in values if value not in (0.031234, 29.8765)]
    assert all(float(f"{value:.3g}") == value for value in inner) and len(set(inner)) > 100
    assert all(0.031234 <= value <= 29.8765 for value in values)


def test_rounding_never_leaves_the_range() -> None:
    space = vary("kl_penalty", beta=between(0.12349, 0.98761))
    assert space.at([0.0]) == {"beta": 0.12349}, "0.123 lies below the range"
    assert space.at([1.0]) == {"beta": 0.98761}, "0.988 lies above the range"


@pytest.mark.parametrize("override", [between(0.1, 10), between(1, 9, log=False)])
def test_position_inverts_at(override: object) -> None:
    space = vary("kl_penalty", beta=override)
    for point in (0.0, 0.2, 0.77, 1.0):
        assert space.position(space.at([point]))[0] == pytest.approx(point, abs=0.01)


def test_choices_share_the_cube_equally() -> None:
    space = MethodSpace("plain", {"norm": ChoiceSpec(("a", "b", "c"), searched=True)})
    assert [space.at([u])["norm"] for u in (0.0, 0.34, 0.67, 1.0)] == ["a", "b", "c", "c"]
    assert space.position({"norm": "b"}) == [0.5]


def test_defaults_outside_of_the_range_are_not_proposed() -> None:
    assert vary("kl_penalty").defaults() == {"beta": 1.0}
    assert vary("kl_penalty", beta=between(2, 3)).defaults() is None


def test_trial_knobs_vary_beside_the_coefficients() -> None:
    space = vary("kl_penalty", steps=between(10, 100), learning_rate=0.01)
    assert list(space.ranges) == ["steps", "beta"]
    values = space.at([0.5, 0.5])
    assert values["steps"] == 32, "integers, on a log scale"
    assert space.to_method(values) == methods.make("kl_penalty", {"beta": values["beta"]})
    assert space.knobs(values) == {"steps": 32, "learning_rate": 0.01}
    assert space.defaults() is None
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert isinstance(suggest(space, drawn)["steps"], int)


def test_a_grid_over_a_knob_is_one_configuration_per_value() -> None:
    space = grid("plain", adapter_scale=[0, 0.5, 1])
    assert space.points == ({"adapter_scale": 0.0}, {"adapter_scale": 0.5}, {"adapter_scale": 1.0})
    assert space.knob_names == {"adapter_scale"}


def test_examples_are_the_points_or_the_middle() -> None:
    assert grid("upweighted", weight=[1, 3]).examples() == [{"weight": 1.0}, {"weight": 3.0}]
    assert vary("kl_penalty", beta=between(1, 100)).examples(count=2) == [{"beta": 10.0}, {"beta": 10.0}]
    assert vary("plain").examples() == [{}]


def test_blends_of_one_method_are_told_from_those_of_another() -> None:
    ends = {"first": "orpo weight=0.1", "second": "orpo weight=10"}
    assert grid("blend", **ends, w=[0.2, 0.4]).title == "blend (orpo)"
    assert grid("blend", first="plain", second="orpo", w=[0.2]).title == "blend (plain, orpo)"
    assert grid("blend", first=["plain", "orpo"], second="dpo", w=[0.2]).title == "blend (plain, dpo, orpo)"
    assert grid("blend", second="orpo", w=[0.2]).title == "blend (plain, orpo)"
    assert grid("blend", w=[0.2]).title == "blend (plain, alignment_only)"
    assert vary("blend", first=one_of("plain", "orpo")).title == "blend"
