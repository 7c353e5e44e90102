"""Units of two networks that are each other's nearest, and how likely so much agreement is by chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr

ALIKE = 0.1  # share of units that networks agree in which were trained alike from independent starts; see docs
SIGNIFICANT = 1e-5  # p-value below which networks are related
SMALLEST = 8  # units of a group that is tested
TINY = 1e-30
AT_ONCE = 2**19  # similarities that are held at a time: they stay in the processor's cache


@dataclass(frozen=True)
class Matching:
    """Units of A and the units of B that they are matched with.

    Attributes:
      a, b: places, as many in one as in the other.
      sign: by which B's unit is multiplied.
    """

    a: Int[np.ndarray, "n"]
    b: Int[np.ndarray, "n"]
    sign: Float[np.ndarray, "n"]

    @classmethod
    def identity(cls, size_a: int, size_b: int) -> "Matching":
        """The same order in both, as far as both go."""
        both = np.arange(min(size_a, size_b))
        return cls(both, both, np.ones(len(both)))

    @property
    def ordered(self) -> bool:
        """Whether all units stand in the same order and none has another sign."""
        return bool(np.array_equal(self.a, self.b) and (self.sign > 0).all())

    def is_whole(self, size_a: int, size_b: int) -> bool:
        """Whether all of so many units stand in the same order, so that nothing is to be moved or left out."""
        return len(self.a) == size_a == size_b and self.ordered

    def is_same(self, other: "Matching") -> bool:
        """Whether another matches the same units with the same signs."""
        pairs = (self.a, other.a), (self.b, other.b), (self.sign, other.sign)
        return all(np.array_equal(own, its) for own, its in pairs)


@dataclass(frozen=True)
class Agreement:
    """How many units agree, of how many."""

    equal: int
    units: int

    @property
    def share(self) -> float:
        """Of the units."""
        return self.equal / max(self.units, 1)

    @property
    def p_value(self) -> float:
        """Probability of as much agreement without a common start.

        Two random matchings of n units correlate with a standard deviation of 1 / sqrt(n - 1). Networks that learn the
        same from independent starts agree in some units, so what counts is what goes beyond the share ALIKE.
        """
        return float(ndtr(-(self.share - ALIKE) * sqrt(max(self.units - 1, 0))))

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(self.equal + other.equal, self.units + other.units)


def significant(tests: Sequence[Agreement | None], pooled: Agreement) -> bool:
    """Whether all groups together, or one of them, agree more than independent networks do (Bonferroni).

    Args:
      tests: of groups; None of those that were not tested.
      pooled: of all of them.
    """
    values = [pooled.p_value, *(test.p_value for test in tests if test is not None)]
    return min(values) * len(values) < SIGNIFICANT


def similarity(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> Float[np.ndarray, "n m"]:
    """Returns the cosines of units."""
    return unit(a) @ unit(b).T


def unit(x: Float[np.ndarray, "n features"]) -> Float[np.ndarray, "n features"]:
    """Returns rows of length 1; those that are 0 stay 0."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), TINY)


def fixed_points(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "n features"]) -> Agreement:
    """Counts the units that are each other's nearest in the order in which they stand.

    What all units have in common is subtracted before, since it would make some of them the nearest of many.
    """
    close = similarity(a - a.mean(0), b - b.mean(0))
    places = np.arange(len(a))
    alive = np.abs(a).sum(1) > 0
    own = (close.argmax(1) == places) & (close.argmax(0) == places) & alive
    return Agreement(int(own.sum()), len(a))


def match(close: Float[np.ndarray, "n m"]) -> Matching:
    """Matches units that are each other's nearest, of either sign."""
    size = np.abs(close)
    best = size.argmax(1)
    mutual = size.argmax(0)[best] == np.arange(len(size))
    mutual &= size[np.arange(len(size)), best] > 0
    a = np.flatnonzero(mutual)
    return Matching(a, best[a], np.where(close[a, best[a]] < 0, -1.0, 1.0))


def match_features(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> Matching:
    """Matches units whose rows are each other's nearest, as `match` does, some rows at a time if they are many.

    Args:
      a, b: rows whose scalar product is the similarity of two units.
    """
    best, sign = np.zeros(len(a), np.int64), np.ones(len(a))
    size, largest = (np.zeros(len(own), np.result_type(a, b)) for own in (a, b))
    step = max(AT_ONCE // max(len(b), 1), 1)
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        best[rows], size[rows], sign[rows], sizes = _nearest(a[rows], b)
        np.maximum(largest, sizes.max(0), out=largest)
    mutual = np.flatnonzero((size > 0) & (size == largest[best]))
    mutual = np.sort(mutual[np.unique(best[mutual], return_index=True)[1]])  # of equal ones the first
    return Matching(mutual, best[mutual], sign[mutual])


def nearest(
    a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"], places: Int[np.ndarray, "k"]
) -> Matching:
    """Matches some units of A with their nearest ones of B, of either sign, whether or not they are theirs too."""
    best, size, sign, _ = _nearest(a[places], b)
    found = size > 0
    return Matching(places[found], best[found], sign[found])


def _nearest(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> tuple[np.ndarray, ...]:
    """Of each row of a the nearest of b, the size and the sign of their product; and the sizes of all products."""
    close = a @ b.T
    sizes = np.abs(close)
    best = sizes.argmax(1)
    chosen = np.arange(len(close)), best
    return best, sizes[chosen], np.where(close[chosen] < 0, -1.0, 1.0), sizes


def agreement(first: Matching, second: Matching, size_a: int, size_b: int) -> Agreement:
    """Counts the units that two matchings match alike."""
    partner = np.full(size_a, -1)
    partner[first.a] = first.b
    return Agreement(int((partner[second.a] == second.b).sum()), min(size_a, size_b))
