"""Units of two networks that are each other's nearest, and how likely so much agreement is by chance."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr

ALIKE = 0.1  # share of units that networks agree in which were trained alike from independent starts; see docs
SMALLEST = 8  # units of a group that is tested
TINY = 1e-30
AT_ONCE = 2**24  # similarities that are held at a time


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
    if len(a) * len(b) <= AT_ONCE:
        return match(a @ b.T)
    best, size, sign = np.zeros(len(a), np.int64), np.zeros(len(a)), np.ones(len(a))
    back, largest = np.zeros(len(b), np.int64), np.zeros(len(b))
    step = max(AT_ONCE // len(b), 1)
    for start in range(0, len(a), step):
        close = a[start : start + step] @ b.T
        sizes = np.abs(close)
        rows, columns = np.arange(len(close)), np.arange(len(b))
        own = best[start : start + step] = sizes.argmax(1)
        size[start : start + step], sign[start : start + step] = sizes[rows, own], np.sign(close[rows, own])
        first = sizes.argmax(0)
        nearer = sizes[first, columns] > largest
        back[nearer], largest[nearer] = first[nearer] + start, sizes[first, columns][nearer]
    mutual = np.flatnonzero((back[best] == np.arange(len(a))) & (size > 0))
    return Matching(mutual, best[mutual], np.where(sign[mutual] < 0, -1.0, 1.0))


def agreement(first: Matching, second: Matching, size_a: int, size_b: int) -> Agreement:
    """Counts the units that two matchings match alike."""
    partner = np.full(size_a, -1)
    partner[first.a] = first.b
    return Agreement(int((partner[second.a] == second.b).sum()), min(size_a, size_b))
