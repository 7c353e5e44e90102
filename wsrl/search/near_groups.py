"""Families among the hits of a search, by the vectors of an index alone: no file is opened.

`wsrl lineage --note` proves families on the files and notes them. A model of which nothing is noted counts to the
family of one whose weights vector is nearer than those of networks of different origin.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64

FAMILY = "lineage"  # key by which searches group, noted or not

# Cosine of weights vectors. Of the 2,210 networks of the main job's zoo, most of which have others of their
# architecture and task, none is as near to one of another origin (.966 at most); half of the checkpoints of one run are
# at .997.
CLOSE = 0.98


class NearGroups:
    """Groups of models that are asked for one after another, best hit first; an object serves one search.

    A model belongs to the family that is noted of it, else to the group of the model asked for first that it is near,
    or begins a group.

    Args:
      vectors: returns the weights vectors of models, of length 1, by their places in the index.
      noted: families of models of which they are noted, by their places.
    """

    def __init__(
        self, vectors: Callable[[Int64[np.ndarray, " m"]], Float32[np.ndarray, "m dim"]], noted: Mapping[int, Hashable]
    ):
        self._vectors, self._noted = vectors, noted
        self._first: dict[Hashable, Float32[np.ndarray, " dim"]] = {}  # of each group
        self._near: dict[int, Hashable] = {}  # groups of models by the first of them
        self._read: dict[int, Float32[np.ndarray, " dim"]] = {}

    def read(self, places: Sequence[int]) -> None:
        """Reads the vectors of models that are going to be asked for, all at once."""
        new = [place for place in places if place not in self._read]
        if new:
            vectors = self._vectors(np.array(new))
            self._read |= zip(new, vectors, strict=True)
            for group, first in self._first.items():
                self._claim(group, first, new, vectors)

    def of(self, place: int) -> Hashable:
        """Returns the group of a model: the family that is noted, or the place of the group's first one."""
        self.read([place])
        group = self._noted.get(place, self._near.get(place, place))
        if group not in self._first:
            self._first[group] = self._read[place]
            left = [other for other in self._read if other not in self._near]
            if left:
                self._claim(group, self._read[place], left, np.stack([self._read[other] for other in left]))
        return group

    def _claim(
        self,
        group: Hashable,
        first: Float32[np.ndarray, " dim"],
        places: Sequence[int],
        vectors: Float32[np.ndarray, "m dim"],
    ) -> None:
        for row in np.flatnonzero(vectors @ first >= CLOSE).tolist():
            self._near.setdefault(places[row], group)

    def members(self, places: Iterable[int]) -> int:
        """Returns how many models the groups of some models are sure to have, which is these."""
        return len({*places})
