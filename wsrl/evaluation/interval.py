"""A number with its interval."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A number with its bounds; what stands between them says who makes it.

    Attributes:
      value: None where there is no such number.
      low, high: None where the number has no bounds.
    """

    value: float | int | None = None
    low: float | int | None = None
    high: float | int | None = None
