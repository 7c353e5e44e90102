"""Families among the hits of a search, by the vectors of an index alone: no file is opened.

`wsrl lineage --note` proves families on the files and notes them. Where nothing is noted, models count as one family
whose weights vectors are nearer than those of networks of different origin.
"""

from collections.abc import Callable, Hashable, Iterable

import numpy as np
from jaxtyping import Float32

FAMILY = "lineage"  # key by which searches group, noted or not

# Cosine of weights vectors. Of the 2,210 networks of the main job's zoo, most of which have others of their
# architecture and task, none is as near to one of another origin (.966 at most); half of the checkpoints of one run are
# at .997.
CLOSE = 0.98


class NearGroups:
    """Groups of models that are asked for one after another, best hit first; an object serves one search.

    A model belongs to the group of the model asked for first that it is near, or begins a group.

    Args:
      vector: returns the weights vector of a model, of length 1, by its place in the index.
    """

    def __init__(self, vector: Callable[[int], Float32[np.ndarray, " dim"]]):
        self._vector = vector
        self._first: dict[int, Float32[np.ndarray, " dim"]] = {}  # of each group
        self._known: dict[int, int] = {}

    def of(self, place: int) -> Hashable:
        """Returns the group of a model, which is the place of the group's first one."""
        if place not in self._known:
            own = self._vector(place)
            near = (other for other, vector in self._first.items() if vector @ own >= CLOSE)
            self._known[place] = next(near, place)
            if self._known[place] == place:
                self._first[place] = own
        return self._known[place]

    def members(self, places: Iterable[int]) -> int:
        """Returns how many models the groups of some models have at least: these."""
        return len({*places})
