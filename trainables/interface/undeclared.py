"""What a step holds in place of what its method does not declare: reading it says what to declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Undeclared(Sequence[Any]):
    """Stands for something that a method does not declare. Reading it, or computing with it, raises TypeError."""

    def __init__(self, message: str) -> None:
        self._message = message

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(self._message)

    __getitem__ = __len__ = __iter__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __neg__ = __abs__ = _refuse
    __mul__ = __rmul__ = __truediv__ = __matmul__ = _refuse

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # asked for by Python itself
            raise AttributeError(name)
        self._refuse()


class Declared(dict[Any, T]):
    """The outputs on the streams that an attribute of a method declares, by stream."""

    def __init__(self, outputs: Mapping[Any, T], read_as: str, attribute: str) -> None:
        super().__init__(outputs)
        self._read_as, self._attribute = read_as, attribute

    def __missing__(self, stream: object) -> NoReturn:
        declared = ", ".join(f'"{name}"' for name in (*self, stream))
        raise KeyError(
            f'{self._read_as}["{stream}"] is not declared by the method: declare'
            f" {self._attribute} = ({declared}{',' if len(self) == 0 else ''})"
        )
