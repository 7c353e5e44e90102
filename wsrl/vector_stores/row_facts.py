"""Values of rows of a store by key, for conditions, groups and orders, as `wsrl.search.facts` has them of a folder."""

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from wsrl.search.conditions import Condition
from wsrl.search.facts import ALSO, Facts, group_of, modified
from wsrl.search.near_groups import FAMILY, NearGroups
from wsrl.search.question import Groups
from wsrl.vector_stores.row import NUMBERS, Row
from wsrl.vector_stores.vector_store import Bounds


class RowFacts(Facts):
    """Values of some rows by key. Which keys there are is known of no store: a wrong one has no values."""

    def __init__(self, rows: Sequence[Row]):
        self.found = rows

    def key(self, name: str) -> str:
        """Returns the key that a name stands for."""
        return ALSO.get(name, name)

    def groups(self, name: str) -> Groups | NearGroups:
        """Returns the groups of the rows; see `Facts.groups`. Families are told by the weights vectors of the rows."""
        key = self.key(name)
        values = self.values(key)
        if key == FAMILY:
            noted = {place: str(value) for place, value in enumerate(values) if value is not None}
            return NearGroups(self._weights, noted)
        return Groups(own := list(map(group_of, values)), Counter(own))

    def _weights(self, places: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m dim"]:
        return np.stack([weights for place in places if (weights := self.found[place].weights) is not None])

    def values(self, key: str) -> list[object]:
        """Returns the value of each row; see `Facts.values`."""
        return [self._value(row, key) for row in self.found]

    def _value(self, row: Row, key: str) -> object:
        model = row.model
        if key in NUMBERS:
            return row.numbers[key]
        if key in ("id", "path"):
            return getattr(model, key)
        if key == "architecture":
            return model.architecture or None
        if key == "weights":
            return model.weights_digest
        if key in ("modified", "age"):
            at = modified(model.path)
            return at if at is None or key == "modified" else time.time() - at
        return model.metadata.get(key)


def bounds_of(where: Sequence[str]) -> Bounds:
    """Returns what a store can narrow a search to: bounds that no row that fulfills the conditions lies outside of.

    Conditions on other keys than `row.NUMBERS`, and `!=`, narrow nothing.

    Raises:
      InputError: see `wsrl.search.conditions.Condition.parse`.
    """
    bounds: dict[str, tuple[float, float]] = {}
    for text in where:
        condition = Condition.parse(text, RowFacts([]))
        if condition.key not in NUMBERS or condition.operator == "!=":
            continue
        first, last = condition.bounds()
        low, high = bounds.get(condition.key, (-float("inf"), float("inf")))
        low = max(low, first) if condition.operator in ("=", ">", ">=") else low
        high = min(high, last) if condition.operator in ("=", "<", "<=") else high
        bounds[condition.key] = low, high
    return bounds
