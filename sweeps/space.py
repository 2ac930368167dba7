"""Which coefficients of a method a sweep searches and in which ranges: the method declares them, the user narrows them.

In a sweep file:

    vary("kl_penalty")                                          # search the method's knob in its own range
    vary("kl_penalty", beta=between(0.1, 10), configurations=8)  # narrow the range, set the budget
    vary("kl_penalty", beta=0.3)                                # one configuration
    grid("upweighted", weight=[0.3, 1, 3])                      # exactly these, without a search

Besides the coefficients of its method, a configuration may vary in its steps, batch_size, alignment_batch_size,
learning_rate and schedule; in its adapter's rank, alpha (twice the rank unless given), targets and layers; and in what
is evaluated of one training: the checkpoint after checkpoint_step updates, the adapter times adapter_scale, or the
trial mixed with the base model at decoding by decoding_mix. These are the trial knobs
(`trainables.trial.TRIAL_KNOBS`).

    grid("plain", adapter_scale=[0, 0.25, 0.5, 0.75, 1])        # one training, five evaluations
    vary("kl_penalty", layers=one_of("all", "last 10", (24,)), rank=between(1, 32))
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from settings.common import checks
from settings.common.errors import UserError, did_you_mean
from trainables import methods
from trainables.coefficients import SPACE, ChoiceSpec, OpenSpec, RangeSpec, Spec, coefficients
from trainables.method import Method
from trainables.trial import TRIAL_KNOBS

SIGNIFICANT_DIGITS = 3
Values = Mapping[str, Any]


@dataclass(frozen=True)
class MethodSpace:
    """The configurations of one method that a sweep may try.

    Attributes:
        method: name of the method.
        ranges: coefficient or knob -> the values that are searched; empty if there is nothing to search.
        fixed: coefficient or knob -> a value that the user set; all others keep the method's default.
        points: exactly these configurations instead of a search; None searches `ranges`.
        configurations: how many to try; None takes the sweep's number.
    """

    method: str
    ranges: Mapping[str, Spec] = field(default_factory=dict)
    fixed: Values = field(default_factory=dict)
    points: tuple[Values, ...] | None = None
    configurations: int | None = None

    def budget(self, configurations: int) -> int:
        """Return how many configurations to try if the sweep allows `configurations` per method."""
        if self.points is not None:
            return len(self.points)
        return (self.configurations or configurations) if self.ranges else 1

    @property
    def definitions(self) -> set[str]:
        """The definitions that its configurations have."""
        searched = self.ranges.get("definition")
        if isinstance(searched, ChoiceSpec):
            return set(map(str, searched.options))
        listed = (self.fixed, *(self.points or ()))
        return {str(values["definition"]) for values in listed if "definition" in values} or {"principled"}

    @property
    def method_titles(self) -> tuple[str, ...]:
        """What tables and figures call the methods of its configurations: one title per definition."""
        return tuple(methods.make(self.method, {"definition": name}).title for name in sorted(self.definitions))

    @property
    def title(self) -> str:
        """The method, and in brackets what it blends, its definition and the knobs that differ: "blend (orpo)"."""
        examples = [self.to_method(values) for values in self.points or ({},)]
        blends = [each for each in examples if each.reads_priors_out and not {"first", "second"} & set(self.ranges)]
        blended = dict.fromkeys(end.name for each in blends for end in (each.trained_as, *each.priors))
        named = self.definitions if self.definitions != {"principled"} else set()
        parts = [*blended, *sorted(named), *sorted(self.knob_names)]
        return f"{self.method} ({', '.join(parts)})" if parts else self.method

    def to_method(self, values: Values) -> Method:
        """Make the method with these values of the searched coefficients. Raise UserError for values it refuses."""
        everything = {**self.fixed, **values}
        return methods.make(self.method, {name: value for name, value in everything.items() if not self._is_knob(name)})

    def knobs(self, values: Values) -> dict[str, Any]:
        """Return the trial knobs that these values set."""
        return {name: value for name, value in {**self.fixed, **values}.items() if self._is_knob(name)}

    def _is_knob(self, name: str) -> bool:
        """Return whether a name is a trial knob. A method's own coefficient of that name takes precedence."""
        return name in TRIAL_KNOBS and name not in {item.name for item in coefficients(methods.get(self.method))}

    @property
    def knob_names(self) -> set[str]:
        """The trial knobs that the configurations may differ in or that the user set."""
        named = {*self.ranges, *self.fixed, *(name for point in self.points or () for name in point)}
        return {name for name in named if self._is_knob(name)}

    def rounded(self, values: Values) -> dict[str, Any]:
        """Round the values to 3 significant digits within their ranges, and a rank to one that the method allows."""
        rounded = {
            name: _rounded(values[name], spec) if isinstance(spec, RangeSpec) else values[name]
            for name, spec in self.ranges.items()
        }
        multiple = methods.get(self.method).rank_multiple
        if multiple > 1 and isinstance(spec := self.ranges.get("rank"), RangeSpec):
            most = int(spec.high) // multiple * multiple
            rounded["rank"] = min(max(multiple, round(rounded["rank"] / multiple) * multiple), most)
        return rounded

    def defaults(self) -> dict[str, Any] | None:
        """Return the method's defaults for the searched coefficients; None if one lies outside its searched range.

        Also None if a trial knob is searched: its default is the sweep's, which is not known here.
        """
        if any(self._is_knob(name) for name in self.ranges):
            return None
        method = methods.get(self.method)
        values = {item.name: item.default for item in coefficients(method) if item.name in self.ranges}
        inside = all(_inside(self.ranges[name], value) for name, value in values.items())
        return self.rounded(values) if inside else None

    def at(self, point: Sequence[float]) -> dict[str, Any]:
        """Return the values at a point of the unit cube, one axis per searched coefficient, in order."""
        raw = {name: _from_unit(spec, u) for (name, spec), u in zip(self.ranges.items(), point, strict=True)}
        return self.rounded(raw)

    def position(self, values: Values) -> list[float]:
        """Return where `values` lie in the unit cube; the inverse of `at`, except for rounding."""
        return [_to_unit(spec, values[name]) for name, spec in self.ranges.items()]

    def examples(self, count: int = 1) -> list[Values]:
        """Return configurations for planning: the listed ones, or else the middle of each range, `count` times."""
        return list(self.points) if self.points else [self.at([0.5] * len(self.ranges))] * count

    def every_option(self) -> list[Values]:
        """Return configurations to check: the listed ones, or else all categorical options, numbers in mid-range."""
        choices = {name: spec.options for name, spec in self.ranges.items() if isinstance(spec, ChoiceSpec)}
        middle = self.at([0.5] * len(self.ranges))
        options = (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))
        return list(self.points) if self.points else [{**middle, **chosen} for chosen in options]

    def to_json(self) -> dict[str, Any]:
        """Return, as JSON data, what determines which configurations are proposed: everything but their number."""
        ranges = {
            name: [spec.low, spec.high, spec.log] if isinstance(spec, RangeSpec) else list(spec.options)
            for name, spec in self.ranges.items()
        }
        points = None if self.points is None else [dict(point) for point in self.points]
        return {"method": self.method, "ranges": ranges, "fixed": dict(self.fixed), "points": points}


@dataclass(frozen=True)
class Between:
    """A range that replaces the method's; `log` None keeps the method's scale. Made by `between`."""

    low: float
    high: float
    log: bool | None = None


@dataclass(frozen=True)
class OneOf:
    """Options that replace the method's. Made by `one_of`."""

    options: tuple[Any, ...]


def between(low: float, high: float, log: bool | None = None) -> Between:
    """Search a numeric coefficient in [low, high], on the method's scale unless `log` is given."""
    return Between(low, high, log)


def one_of(*options: Any) -> OneOf:
    """Search a categorical coefficient among these options."""
    return OneOf(options)


def vary(method: str, /, *, configurations: int | None = None, **overrides: Any) -> MethodSpace:
    """Search those coefficients that the method declares as searched, in its ranges; the others keep their defaults.

    Args:
        method: name of a method; `selgen methods` lists them.
        configurations: how many to try; None takes the sweep's number.
        **overrides: per coefficient, a value that fixes it, `between(low, high)` or `one_of(...)`.

    Raises:
        UserError: unknown method or coefficient, a value or range that the method refuses.
    """
    if configurations is not None:
        checks.integer(f"method {method!r}: configurations", configurations, 1)
    specs = _specs(method, overrides)
    ranges: dict[str, Spec] = {}
    fixed: dict[str, Any] = {}
    for name, spec in specs.items():
        if name not in overrides:
            if spec.searched and not isinstance(spec, OpenSpec):
                ranges[name] = spec
        elif isinstance(overrides[name], Between | OneOf):
            ranges[name] = _narrowed(method, name, spec, overrides[name])
        else:
            fixed[name] = _value(method, name, spec, overrides[name])
    return MethodSpace(method, ranges, fixed, None, configurations)


def grid(method: str, /, **options: Any) -> MethodSpace:
    """Try every combination of the listed values, without a search.

    Args:
        method: name of a method.
        **options: per coefficient, a list of values, or one value.

    Raises:
        UserError: unknown method or coefficient, an empty or repeating list, a value that the method refuses.
    """
    specs = _specs(method, options)
    lists = {name: _values(method, name, specs[name], listed) for name, listed in options.items()}
    points = tuple(dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return MethodSpace(method, points=points)


def _specs(method: str, named: Mapping[str, Any]) -> dict[str, Spec | OpenSpec]:
    """Return the specs of the trial knobs in `named` and of all coefficients. Raise UserError for any other name."""
    specs: dict[str, Spec | OpenSpec] = {item.name: item.metadata[SPACE] for item in coefficients(methods.get(method))}
    for name in named:
        if name not in specs and name not in TRIAL_KNOBS:
            raise UserError(
                f"method {method!r} has no coefficient {name!r}{did_you_mean(name, [*specs, *TRIAL_KNOBS])};"
                f" its coefficients: {', '.join(specs)}; what else may vary: {', '.join(TRIAL_KNOBS)}"
            )
    return {name: TRIAL_KNOBS[name] for name in TRIAL_KNOBS if name in named} | specs


def _value(method: str, name: str, spec: Spec | OpenSpec, value: Any) -> Any:
    """Check and normalise a value: numbers to floats, names to text. Each configuration is then written in one way."""
    problem = spec.check(value)
    if problem:
        listed = isinstance(value, list | tuple) and isinstance(spec, RangeSpec)
        hint = f"; a range is between(low, high), a list grid({method!r}, {name}=[...])" if listed else ""
        raise UserError(f"method {method!r}: coefficient {name!r} {problem}, got {value!r}{hint}")
    if isinstance(spec, OpenSpec):
        return spec.read(value)
    return float(value) if isinstance(spec, RangeSpec) and not spec.integer else value


def _values(method: str, name: str, spec: Spec | OpenSpec, listed: Any) -> list[Any]:
    single = isinstance(spec, OpenSpec) and isinstance(listed, tuple)  # the names or numbers of one value
    options = list(listed) if isinstance(listed, list | tuple) and not single else [listed]
    values = [_value(method, name, spec, option) for option in options]
    if not values:
        raise UserError(f"method {method!r}: the grid of coefficient {name!r} is empty; list at least one value")
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise UserError(f"method {method!r}: the grid of coefficient {name!r} lists {repeated[0]!r} more than once")
    return values


def _narrowed(method: str, name: str, spec: Spec | OpenSpec, override: Between | OneOf) -> Spec:
    where = f"method {method!r}: coefficient {name!r}"
    if isinstance(spec, ChoiceSpec | OpenSpec):
        if not isinstance(override, OneOf):
            what = f"is one of {', '.join(map(repr, spec.options))}" if isinstance(spec, ChoiceSpec) else "has no order"
            raise UserError(f"{where} {what}; use one_of(...), not between(...)")
        return ChoiceSpec(tuple(_values(method, name, spec, list(override.options))), searched=True)
    if not isinstance(override, Between):
        raise UserError(
            f"{where} is a number; use between(low, high), or grid({method!r}, {name}=[...]) to list values"
        )
    low, high = _value(method, name, spec, override.low), _value(method, name, spec, override.high)
    log = spec.log if override.log is None else override.log
    if low >= high:
        raise UserError(f"{where}: between({low:g}, {high:g}) is empty; the first number must be the smaller one")
    if log and low <= 0:
        raise UserError(f"{where}: a logarithmic range must start above 0, got between({low:g}, {high:g})")
    return replace(spec, low=low, high=high, log=log)


def _rounded(value: float, spec: RangeSpec) -> float:
    if spec.integer:
        return int(min(max(round(value), spec.low), spec.high))
    short = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return min(max(short, spec.low), spec.high)


def _inside(spec: Spec, value: Any) -> bool:
    return spec.low <= value <= spec.high if isinstance(spec, RangeSpec) else value in spec.options


def _from_unit(spec: Spec, u: float) -> Any:
    if isinstance(spec, ChoiceSpec):
        return spec.options[min(int(u * len(spec.options)), len(spec.options) - 1)]
    if spec.log:
        return math.exp(math.log(spec.low) + u * (math.log(spec.high) - math.log(spec.low)))
    return spec.low + u * (spec.high - spec.low)


def _to_unit(spec: Spec, value: Any) -> float:
    if isinstance(spec, ChoiceSpec):
        return (spec.options.index(value) + 0.5) / len(spec.options)
    if spec.log:
        return (math.log(value) - math.log(spec.low)) / (math.log(spec.high) - math.log(spec.low))
    return (value - spec.low) / (spec.high - spec.low)
