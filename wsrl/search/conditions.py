"""Conditions on models such as `parameters>6B`, in text and in effect."""

import datetime
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import ge, gt, le, lt
from typing import Any

import numpy as np
from jaxtyping import Bool

from wsrl.errors import InputError
from wsrl.search.facts import KEY, Facts
from wsrl.search.masks import sealed

FORM = re.compile(rf"\s*({KEY})\s*(!=|>=|<=|=|>|<)\s*(.*?)\s*", re.DOTALL)
COMPARE: dict[str, Callable[[float, float], bool]] = {">": gt, ">=": ge, "<": lt, "<=": le}
UNITS = {  # factors by the kind of a value
    "count": {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12},
    "bytes": {
        **{unit + b: 1000**power for power, unit in enumerate(("", "k", "m", "g", "t")) for b in ("", "b")},
        **{f"{unit}ib": 1024**power for power, unit in enumerate(("k", "m", "g", "t"), 1)},
    },
    "duration": {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 365.25 * 86_400},
    "number": {"": 1, "%": 0.01},
}
MASKS = 16  # that are kept, of a byte a model each
FLEETING = ("modified", "age")  # keys whose values are looked up each time
EXAMPLE = {"count": "6B", "bytes": "30GB", "duration": "30d", "number": "0.9", "date": "2026-01-31"}


@dataclass(frozen=True)
class Condition:
    """A condition on one key. Get one by `parse`.

    Attributes:
      key: see `wsrl.search.facts`.
      operator: one of = != > >= < <=.
      value: as it was written.
      kind: of the key's values.
    """

    key: str
    operator: str
    value: str
    kind: str

    @classmethod
    def parse(cls, text: str, facts: Facts) -> "Condition":
        """Reads a condition.

        Raises:
          InputError: it has another form, an unknown key, or a value that the key cannot have.
        """
        match = FORM.fullmatch(text)
        if not match or not match[3]:
            raise InputError(text, "is no condition", "write one as 'parameters>6B' or 'license=mit'")
        key = facts.key(match[1])
        condition = cls(key, match[2], match[3], facts.kind(key))
        if condition.kind == "text" and match[2] in COMPARE:
            raise InputError(text, f"{key} is no number", "compare it by = or !=")
        if condition.kind not in ("text", "any"):
            condition.bounds()
        return condition

    def __str__(self) -> str:
        return f"{self.key} {self.operator} {self.value}"

    def holds(self, value: object) -> bool:
        """Whether a value fulfills it; where there is none, only `!=` is fulfilled."""
        if value is None:
            return self.operator == "!="
        if self.kind not in ("text", "any"):
            assert isinstance(value, int | float)
            return bool(self._within(float(value), *self.bounds()))
        if self.operator in COMPARE:
            try:
                return COMPARE[self.operator](float(str(value)), float(self.value))
            except ValueError:
                return False
        texts = value if isinstance(value, list) else [value]
        equal = any(fnmatchcase(_text(text), self.value.casefold()) for text in texts)
        return equal == (self.operator == "=")

    def holding(self, values: Sequence[object]) -> Bool[np.ndarray, " n"]:
        """Returns which of many values fulfill it."""
        if self.kind not in ("text", "any"):
            return np.asarray(self._within(np.array(values, float), *self.bounds()))  # NaN where there is none
        known: dict[tuple[type, object], bool] = {}  # values of many models are the same; True is not 1
        found = np.empty(len(values), bool)
        for place, value in enumerate(values):
            own = (type(value), str(value) if isinstance(value, list | dict) else value)
            if own not in known:
                known[own] = self.holds(value)
            found[place] = known[own]
        return found

    def bounds(self) -> tuple[float, float]:
        """Returns the first number that the value stands for and the last one: a day has many moments.

        Raises:
          InputError: it stands for none.
        """
        if self.kind == "date":
            return self._day()
        match = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*(\D*)", self.value.casefold())
        try:
            assert match
            number = float(match[1]) * UNITS[self.kind][match[2]]
            return number, number
        except (AssertionError, ValueError, KeyError) as error:
            mend = f"write {self.key}{self.operator}{EXAMPLE[self.kind]}"
            raise InputError(str(self), f"{self.value!r} is no {self.kind}", mend) from error

    def _day(self) -> tuple[float, float]:
        """The first and the last moment of a day, a month or a year."""
        try:
            parts = [int(part) for part in self.value.split("-")]
            year, month, day = (*parts, *(1, 1)[len(parts) - 1 :])
            first = datetime.datetime(year, month, day)
        except (ValueError, OverflowError) as error:
            mend = "write one as 2026-01-31, 2026-01 or 2026"
            raise InputError(str(self), f"{self.value!r} is no date", mend) from error
        if len(parts) == 3:
            after = first + datetime.timedelta(days=1)
        elif len(parts) == 2:
            after = datetime.datetime(year + month // 12, month % 12 + 1, 1)
        else:
            after = datetime.datetime(year + 1, 1, 1)
        return first.timestamp(), math.nextafter(after.timestamp(), 0)

    def _within(self, value: Any, first: float, last: float) -> Any:
        """Whether a number, or which numbers of an array, fulfill it; NaN fulfills `!=`."""
        inside = (first <= value) & (value <= last)
        return {
            "=": inside,
            "!=": np.logical_not(inside),
            ">": value > last,
            ">=": value >= first,
            "<": value < first,
            "<=": value <= last,
        }[self.operator]


def fulfilling(texts: Sequence[str], facts: Facts, count: int) -> Bool[np.ndarray, " count"]:
    """Returns which of `count` models fulfill all conditions, as a mask that cannot be written to.

    The facts keep masks of conditions that were asked last, so that the next search has the same one at once.

    Raises:
      InputError: see `Condition.parse`.
    """
    conditions = tuple(Condition.parse(text, facts) for text in texts)
    if (known := facts.masks.get(conditions)) is not None:
        return known
    mask = np.ones(count, bool)
    for condition in conditions:
        mask &= condition.holding(facts.values(condition.key))
    mask = sealed(mask)
    if not any(condition.key in FLEETING for condition in conditions):
        while len(facts.masks) >= MASKS:
            facts.masks.pop(next(iter(facts.masks)), None)
        facts.masks[conditions] = mask
    return mask


def order(text: str, facts: Facts, places: Sequence[int]) -> list[int]:
    """Returns places of models in the order of a key.

    Args:
      text: `KEY`, `KEY:asc` or `KEY:desc`; models without a value come last.
      facts: of the index.
      places: of models.

    Raises:
      InputError: the key or the direction is unknown.
    """
    name, _, direction = text.partition(":")
    if direction not in ("", "asc", "desc"):
        raise InputError(text, f"{direction!r} is no direction", f"write {name}:asc or {name}:desc")
    values = facts.values(facts.key(name))
    known = [place for place in places if values[place] is not None]
    numbers = all(isinstance(values[place], int | float) for place in known)
    known.sort(key=lambda place: values[place] if numbers else _text(values[place]), reverse=direction == "desc")  # pyright: ignore
    return known + [place for place in places if values[place] is None]


def _text(value: object) -> str:
    return str(value).casefold()
