"""What a search is asked, and how it came to its answer."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from wsrl.embedded import Embedded

Mask = Bool[np.ndarray, " n"]


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
      groups: of each model; None is a group of its own. None if models are not grouped.
      per_group: hits that a group may have.
      exact: compare with all models.
    """

    queries: Sequence[Embedded]
    against: Sequence[Embedded] = ()
    k: int = 10
    by: str = "auto"
    left_out: Mask | None = None
    among: Mask | None = None
    groups: Sequence[Hashable] | None = None
    per_group: int = 1
    exact: bool = False

    @property
    def plain(self) -> bool:
        """Whether the k nearest of one query answer it."""
        few = len(self.queries) == 1 and not self.against
        return few and self.left_out is None and self.among is None and self.groups is None and not self.exact


@dataclass(frozen=True)
class Explanation:
    """How a search came to its answer.

    Attributes:
      by: the vector that scores rest on, "weights" or "function".
      index: what found the nearest: "exact", or a search by hashes, or a tree and hashes.
      models: that have such a vector.
      among: of them, those that the conditions leave.
      compared: vectors that were compared whole with each query.
      unindexed: models that the index of hashes does not know and that were compared one by one.
      seconds: the search took, without embedding the queries.
    """

    by: str
    index: str
    models: int
    among: int
    compared: int
    unindexed: int
    seconds: float
