"""Families among the hits of a search, by the vectors of an index alone: no file is opened.

`wsrl lineage --note` proves families on the files and notes them. A model of which nothing is noted counts to the
family of one whose weights vector is nearer than those of networks of different origin.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping

import numpy as np
from jaxtyping import Float32

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
      vector: returns the weights vector of a model, of length 1, by its place in the index.
      noted: families of models of which they are noted, by their places.
    """

    def __init__(self, vector: Callable[[int], Float32[np.ndarray, " dim"]], noted: Mapping[int, Hashable]):
        self._vector, self._noted = vector, noted
        self._first: dict[Hashable, Float32[np.ndarray, " dim"]] = {}  # of each group
        self._known: dict[int, Hashable] = {}

    def of(self, place: int) -> Hashable:
        """Returns the group of a model: the family that is noted, or the place of the group's first one."""
        if place not in self._known:
            own = self._vector(place)
            near = (other for other, vector in self._first.items() if vector @ own >= CLOSE)
            group = self._noted.get(place)
            self._known[place] = next(near, place) if group is None else group
            self._first.setdefault(self._known[place], own)
        return self._known[place]

    def members(self, places: Iterable[int]) -> int:
        """Returns how many models the groups of some models are sure to have, which is these."""
        return len({*places})
