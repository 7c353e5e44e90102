"""Children that are searched: scores that compare across kinds of children, and what neighbors tell.

A score counts by how many deviations a child's similarity to the query exceeds that to a cohort of strangers
(`wsrl.relative.metric`). As in the search by function, what one child leaves open its neighbors settle: the scores of a
query are halfway those of its nearest children, and the score of a child is halfway that of its own (query expansion,
Chum et al. 2007; database augmentation, Turcot and Lowe 2009). No label is used.
"""

import numpy as np
from jaxtyping import Float, Float32, Int

from wsrl.relative.metric import Described, Metric, compare
from wsrl.search.query_expansion import SMALL

NEIGHBORS = 4  # chosen on training tasks (`experiments.tables.model_tree`)
SHARE = 0.5  # of neighbors in a score
SHORTLIST = 1000  # children whose neighbors are asked, of the best by themselves
HALF = 3.0  # deviations that are shown as 0.5


class Gallery:
    """Scores queries against children of one base.

    Args:
      vectors: of the children.
      metric: that was made of the same children.
      neighbors: that scores are smoothed over; 0 for none. None are asked where there are too few children to measure
        strangers on.
    """

    def __init__(self, vectors: Float[np.ndarray, "n dim"], metric: Metric, neighbors: int = NEIGHBORS):
        self._metric = metric
        self._children = metric.describe(vectors)
        self._levels = metric.levels(self._children)
        self._count = neighbors if self._levels is not None else 0
        self._near = np.full((len(vectors), self._count + 1), -1)  # one more, as the query is left out
        self._weights = np.zeros((len(vectors), self._count + 1), np.float32)

    def scores(self, vector: Float[np.ndarray, " dim"], place: int | None = None) -> Float32[np.ndarray, " n"]:
        """Returns the score of each child for a query.

        With few children they are cosines; with more of them deviations, of which `shown` makes numbers up to 1.

        Args:
          vector: of the query.
          place: of the query among the children, so that it is left out of all neighborhoods.
        """
        found = self._alone(self._metric.describe(vector[None]) if place is None else self._of([place]))[0]
        if not self._count:
            return found
        near = np.argsort(-found, kind="stable")
        near = near[near != place][: self._count]
        self._find(near)
        theirs = self._alone(self._of(near))
        others = np.where(self._near[near] != place, self._weights[near], 0.0)
        theirs[np.arange(len(near)), near] = others.max(1)  # each counts for itself as much as its best neighbor
        weights = np.maximum(found[near], SMALL)
        found = (1 - SHARE) * found + SHARE * weights @ theirs / weights.sum()
        shortlist = np.argsort(-found, kind="stable")
        shortlist = shortlist[shortlist != place][:SHORTLIST]
        self._find(shortlist)
        weights = _first(self._weights[shortlist] * (self._near[shortlist] != place), self._count)
        weights /= weights.sum(1, keepdims=True)
        smoothed = found.copy()
        smoothed[shortlist] = (1 - SHARE) * found[shortlist] + SHARE * (weights * found[self._near[shortlist]]).sum(1)
        return smoothed

    def shown(self, scores: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Returns scores as numbers from 0 to 1: cosines as they are, 0.5 for three deviations, nearly 1 for many."""
        found = np.clip(scores, 0.0, None if self._levels is not None else 1.0)
        return found if self._levels is None else found / (found + HALF)

    def _alone(self, queries: Described) -> Float32[np.ndarray, "q n"]:
        found = compare(queries, self._children)
        if self._levels is None:
            return found
        mean, deviation = self._levels
        return np.where(deviation > SMALL, (found - mean) / np.maximum(deviation, SMALL), 0.0).astype(np.float32)

    def _of(self, places: Int[np.ndarray, " m"] | list[int]) -> Described:
        return Described(*(part[places] for part in self._children))

    def _find(self, places: Int[np.ndarray, " m"]) -> None:
        """Finds the neighbors of some children, once."""
        places = places[self._near[places, 0] < 0]
        if not len(places):
            return
        found = self._alone(self._of(places))
        found[np.arange(len(places)), places] = -np.inf
        near = np.argsort(-found, axis=1, kind="stable")[:, : self._count + 1]
        self._near[places] = near
        self._weights[places] = np.maximum(np.take_along_axis(found, near, 1), SMALL)


def _first(weights: Float32[np.ndarray, "m k"], count: int) -> Float32[np.ndarray, "m k"]:
    """The first `count` weights of each row that are not zero; the others become zero."""
    return np.where(np.cumsum(weights > 0, 1) <= count, weights, 0.0).astype(np.float32)
