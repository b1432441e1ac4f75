"""What stands beside a hyperparameter's type: the values that it may have, and those that a search tries.

`Annotated[float, Between(0, 10), Range(1e-5, 1e-3, log=True)]` → limits that are checked, candidates of `--search`.
Standard library only.
"""

import json
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

from reid_core.errors import UserError

INFINITE = float("inf")


@dataclass(frozen=True)
class Between:
    """The limits of a number, or of each number of a tuple, both included."""

    low: float
    high: float

    def holds(self, value: Any) -> bool:
        """Whether a value lies within; None, which switches something off, always does."""
        numbers = value if isinstance(value, tuple) else (value,)
        return value is None or all(self.low <= number <= self.high for number in numbers)


@dataclass(frozen=True)
class Choices:
    """Candidates of a search: one of a few values."""

    values: tuple

    def including(self, base: Any) -> "Choices":
        """The same with the base's value, last if it is a new one."""
        return self if base in self.values else Choices((*self.values, base))

    def __str__(self) -> str:
        return ",".join(value if isinstance(value, str) else json.dumps(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """Candidates of a search: a number between two others, both included; whole where both are `int`."""

    low: float
    high: float
    log: bool = False

    def including(self, base: float) -> "Range":
        """The same, stretched to hold the base's value; a logarithmic one moves to one decade around it.

        Example:
            >>> Range(0.1, 0.5).including(0.0), Range(1e-6, 1e-4, log=True).including(1e-2)
            (Range(low=0.0, high=0.5, log=False), Range(low=0.001, high=0.1, log=True))
        """
        if self.low <= base <= self.high:
            return self
        return Range(base / 10, base * 10, log=True) if self.log else self.stretched(base)

    def stretched(self, base: float) -> "Range":
        """The same with the base's value as a new end, if it lies outside."""
        return Range(min(self.low, base), max(self.high, base), self.log)

    def __str__(self) -> str:
        return f"{'log:' if self.log else ''}{self.low!r}..{self.high!r}"


Candidates = Choices | Range


def annotations_of(part: Any, kind: type | tuple[type, ...]) -> dict[str, Any]:
    """What of one kind stands beside the fields of a part of the configuration, by field name, in their order.

    Args:
        part: A dataclass whose fields are annotated.
        kind: `Between`, `Choices`, `Range`, or several of them.
    """
    beside = {name: getattr(hint, "__metadata__", ()) for name, hint in _hints(part).items()}
    return {name: note for name, notes in beside.items() for note in notes if isinstance(note, kind)}


def check_limits(name: str, part: Any) -> None:
    """Refuse a part of the configuration that has a value outside its limits.

    Args:
        name: Of the part, as "optim".
        part: The dataclass.

    Raises:
        UserError: If there is one; names it by its dotted key.
    """
    for field, limits in annotations_of(type(part), Between).items():
        value = getattr(part, field)
        if not limits.holds(value):
            raise UserError(f"{name}.{field}={value!r} is outside {limits.low} … {limits.high}")


@cache
def _hints(part: Hashable) -> dict[str, Any]:
    return get_type_hints(part, include_extras=True)
