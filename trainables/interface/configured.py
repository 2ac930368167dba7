"""A method as a set of coefficients: checks, texts, and its definition."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from settings.common.errors import UserError
from trainables.coefficients import SPACE, Choice, OpenSpec, RangeSpec, coefficients, label_of, value_text

Definition = Literal["principled", "published"]


@dataclass(frozen=True, kw_only=True)
class Configured:
    """A method's name, coefficients and definition, and what follows from them; see `trainables.method.Method`.

    Attributes:
        as_published: (coefficient, value) pairs that the published definition sets.

    Coefficients:
        definition: "principled" counts response tokens only, as the method's docstring says; "published" computes what
            the study's own code computes, so that its coefficients mean the same: the loss covers the whole rendered
            text (prompt, special tokens added twice, a trailing empty assistant turn), rows are padded on the side of
            the tokenizer, gradients are never clipped, warm-up starts at 0, and coefficients are set as in
            `as_published`. Its control is published plain fine-tuning. Its defects are not reproduced: a KL that is
            silently left out, training on losses that are not finite, ignored seeds and options, stale caches.
    """

    as_published: ClassVar[tuple[tuple[str, Any], ...]] = ()

    definition: Literal["principled", "published"] = Choice("principled", "principled", "published")

    def __post_init__(self) -> None:
        for coefficient in coefficients(type(self)):
            value = getattr(self, coefficient.name)
            problem = coefficient.metadata[SPACE].check(value)
            if problem:
                raise UserError(f"method {self.name!r}: coefficient {coefficient.name!r} {problem}, got {value!r}")
            if isinstance(coefficient.metadata[SPACE], OpenSpec):
                object.__setattr__(self, coefficient.name, coefficient.metadata[SPACE].read(value))
            if isinstance(coefficient.metadata[SPACE], RangeSpec) and not coefficient.metadata[SPACE].integer:
                object.__setattr__(self, coefficient.name, float(value))  # 1 and 1.0 are one trial
        if self.definition == "published":
            self._set_as_published()

    def _set_as_published(self) -> None:
        defaults = {item.name: item.default for item in fields(self)}
        for name, published in self.as_published:
            value = getattr(self, name)
            if value not in (defaults[name], published):
                raise UserError(
                    f"method {self.name!r}: the published definition sets {name}={published!r}, got {value!r};"
                    f" leave {name!r} out, or use the principled definition"
                )
            object.__setattr__(self, name, published)

    @property
    def name(self) -> str:
        """The name of the file that defines the method."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def title(self) -> str:
        """Name and definition, e.g. "kl_penalty" or "kl_penalty (published)"."""
        return self.name if self.definition == "principled" else f"{self.name} ({self.definition})"

    @property
    def label(self) -> str:
        """The coefficients as short text, e.g. "beta=0.3": the searched ones, and others with non-default values."""
        usual: dict[str, Any] = {"definition": self.definition}
        usual |= dict(self.as_published) if self.definition == "published" else {}
        shown = {}
        for item in coefficients(type(self)):
            value = getattr(self, item.name)
            if item.metadata[SPACE].searched or value != usual.get(item.name, item.default):
                shown[item.name] = value
        return label_of(shown)

    @property
    def text(self) -> str:
        """The method as a coefficient of another, e.g. "kl_penalty beta=10"; `methods.from_text` is the inverse.

        It has the coefficients that differ from their defaults, but not the definition.
        """
        usual: dict[str, Any] = {item.name: item.default for item in fields(self)} | {"definition": self.definition}
        usual |= dict(self.as_published) if self.definition == "published" else {}
        values = {item.name: getattr(self, item.name) for item in coefficients(type(self))}
        differing = [f"{name}={value_text(value)}" for name, value in values.items() if value != usual[name]]
        return " ".join([self.name, *differing])

    @property
    def is_neutral(self) -> bool:
        """Whether the losses add nothing to the task's: some coefficient has its neutral value."""
        specs = {item.name: item.metadata[SPACE] for item in coefficients(type(self))}
        return any(getattr(self, name) == getattr(spec, "neutral", None) for name, spec in specs.items())
