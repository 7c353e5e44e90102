"""What a search is asked, and how it came to its answer."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from wsrl.embedded import Embedded
from wsrl.search.near_groups import NearGroups

Mask = Bool[np.ndarray, " n"]


class Groups(NamedTuple):
    """Groups of the models of an index.

    Attributes:
      values: the group of each model; None is a group of its own.
      sizes: models of each.
    """

    values: Sequence[Hashable]
    sizes: Mapping[Hashable, int]

    def of(self, place: int) -> Hashable:
        """Returns the group of a model; None if it has none."""
        return self.values[place]

    def members(self, places: Iterable[int]) -> int:
        """Returns how many models the groups of some models have together."""
        own = [self.values[place] for place in places]
        return sum(value is None for value in own) + sum(self.sizes[value] for value in {*own} - {None})


@dataclass(frozen=True)
class Question:
    """What a search is asked.

    Attributes:
      queries: models like these, by the mean of their scores; one in most cases.
      against: models that are no less like one of these are left out.
      k: number of hits.
      by: "auto", "weights" or "function"; see `wsrl.search.index.Index.search`.
      left_out: models that are in no hit and in no neighborhood either; None for none.
      among: models that may be hits; None for all.
      groups: None if models are not grouped.
      per_group: hits that a group may have.
      exact: compare with all models.
    """

    queries: Sequence[Embedded]
    against: Sequence[Embedded] = ()
    k: int = 10
    by: str = "auto"
    left_out: Mask | None = None
    among: Mask | None = None
    groups: Groups | NearGroups | None = None
    per_group: int = 1
    exact: bool = False


@dataclass(frozen=True)
class Request:
    """What `wsrl.search.index.Index.search` was given, with the rows of its queries; see there."""

    queries: Sequence[Embedded]
    against: Sequence[Embedded]
    k: int
    by: str
    exclude: Mask | Collection[str]
    exact: bool
    where: Sequence[str]
    architecture: str
    group_by: str | None
    per_group: int
    sort: str | None


@dataclass(frozen=True)
class Explanation:
    """How a search came to its answer.

    Attributes:
      by: the vector that scores rest on, "weights" or "function".
      index: what found the nearest: "exact", or candidates of a "graph" or of "hashes".
      models: that have such a vector.
      among: of them, those that the conditions leave.
      compared: vectors that were compared whole with each query, at most.
      unindexed: models that no graph and no hashes know, as they were added later, and that were all compared.
      seconds: the search took, without embedding the queries.
    """

    by: str
    index: str
    models: int
    among: int
    compared: int
    unindexed: int
    seconds: float
