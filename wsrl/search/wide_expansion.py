"""Query expansion in an index of so many models that not all are compared: neighbors are found when they are needed.

Scores are those of `wsrl.search.query_expansion`, for models that a search by vectors proposes: the nearest of the
query, and those of the query after it was expanded. Their own neighbors, which expand them, are searched for as well.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64

from wsrl.search.components import Vectors
from wsrl.search.fixed_point import single
from wsrl.search.query_expansion import CENTERED_FROM, SMALL, expand, group_means, neighbor_count, unit
from wsrl.search.segments import Segments

POOL = 200  # models that the nearest of a query are taken from, at least
POOL_A_HIT = 2  # or where many hits are asked for
MEAN_SAMPLE = 4096  # models of a class that its mean is taken of, at most


class Means:
    """Means of the classes of architectures, which are subtracted from function vectors.

    Args:
      names: class of each model that has a function vector.
      rows: reads vectors by place.
    """

    def __init__(self, names: Sequence[str], rows: "Rows"):
        self.names, group = np.unique(np.asarray(names, str), return_inverse=True)
        order = np.argsort(group, kind="stable")
        chosen = []
        for own in np.split(order, np.cumsum(np.bincount(group))[:-1]):
            chosen.append(own[:: max(1, -(-len(own) // MEAN_SAMPLE))])
        places = np.concatenate(chosen)
        means, overall = group_means(rows[places], group[places], CENTERED_FROM)
        self._means = np.vstack([means, overall]).astype(np.float32)
        self.group = group

    def of(self, architectures: Sequence[str]) -> Float32[np.ndarray, "q dim"]:
        """Returns the means of classes; that of all models for a class that is not there."""
        known = {name: row for row, name in enumerate(self.names.tolist())}
        return self._means[[known.get(name, -1) for name in architectures]]

    def at(self, places: Int[np.ndarray, " p"]) -> Float32[np.ndarray, "p dim"]:
        """Returns the means of the classes of models."""
        return self._means[self.group[places]]


class Rows:
    """Vectors of models by place, gathered from segments.

    Args:
      parts: vectors of each segment, and the places of its rows; -1 for those that are gone.
      count: models.
    """

    def __init__(self, parts: Sequence[tuple[Vectors, Int64[np.ndarray, " rows"]]], count: int):
        self._arrays = [vectors for vectors, _ in parts]
        self._segment, self._row = np.zeros(count, np.int32), np.zeros(count, np.int64)
        for number, (_, places) in enumerate(parts):
            there = np.flatnonzero(places >= 0)
            self._segment[places[there]], self._row[places[there]] = number, there

    def __getitem__(self, places: Int[np.ndarray, " p"]) -> Float32[np.ndarray, "p dim"]:
        found = np.empty((len(places), self._arrays[0].shape[1]), np.float32)
        segments, rows = self._segment[places], self._row[places]
        for number in np.unique(segments).tolist():
            own = segments == number
            found[own] = single(self._arrays[number][rows[own]])
        return found


class Centered:
    """Vectors of a segment less the means of their classes, of length 1, made where they are read."""

    dtype = np.dtype(np.float32)

    def __init__(self, vectors: Vectors, places: Int64[np.ndarray, " rows"], means: Means):
        self._vectors, self._places, self._means = vectors, places, means
        self.shape, self.by_row = vectors.shape, getattr(vectors, "by_row", False)

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: slice | Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m dim"]:
        places = self._places[rows]  # those that are gone are centered by some class, and are no hits
        return unit(single(self._vectors[rows]) - self._means.at(places)).astype(np.float32)


class WideExpansion:
    """Ranks models by function in a large index.

    Args:
      segments: of centered vectors.
      rows: the vectors as they are, by place.
      means: of the classes.

    Attributes:
      neighbors: that a vector is expanded with.
    """

    def __init__(self, segments: Segments, rows: Rows, means: Means):
        self.segments, self._rows, self._means = segments, rows, means
        self.neighbors = neighbor_count(len(means.group))

    def centered(
        self, queries: Float[np.ndarray, "q dim"], architectures: Sequence[str]
    ) -> Float32[np.ndarray, "q dim"]:
        """Returns queries less the means of their classes, of length 1."""
        return unit(queries - self._means.of(architectures)).astype(np.float32)

    def ranked(
        self,
        queries: Float32[np.ndarray, "q dim"],
        k: int,
        allowed: Bool[np.ndarray, " n"] | None = None,
        left_out: Bool[np.ndarray, " n"] | None = None,
        exact: bool = False,
    ) -> tuple[Int64[np.ndarray, " p"], Float32[np.ndarray, "q p"]]:
        """Compares queries with the models that are nearest to them.

        Args:
          queries: centered.
          k: hits that are wanted of each.
          allowed: models that may be hits; None for all.
          left_out: models that expand nothing; None for none.
          exact: compare with all models where candidates are searched for.

        Returns:
          Places of the models, and their scores: the mean of the cosines of the vectors and of the expanded ones.
        """
        count = max(POOL, POOL_A_HIT * k)
        among = None if left_out is None else ~left_out
        near, _ = self.segments.search(queries, count, among, exact)
        pool = np.unique(near[near >= 0])
        own, expanded = self._expanded(pool, among)
        asked = self._expand_queries(queries, expanded)
        further, _ = self.segments.search(asked, count, allowed, exact)
        chosen, _ = self.segments.search(queries, count, allowed, exact) if allowed is not None else (near, None)
        wanted = np.unique(np.concatenate([further[further >= 0], chosen[chosen >= 0]]))
        if not np.isin(wanted, pool).all():
            own, expanded = self._expanded(wanted, among)
        else:
            own, expanded = (part[np.searchsorted(pool, wanted)] for part in (own, expanded))
        return wanted, (queries @ own.T + asked @ expanded.T) / 2

    def smoothed(self, values: Float[np.ndarray, " n"], places: Int64[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
        """Returns models' values moved half-way to their neighbors' mean, which is weighted by similarity."""
        near, weight = self._neighbors(places, self._at(places), None)
        total = weight.sum(1)
        mean = (weight * values[near]).sum(1) / np.maximum(total, SMALL)
        return np.where(total > 0, (values[places] + mean) / 2, values[places])

    def _expand_queries(
        self, queries: Float32[np.ndarray, "q dim"], expanded: Float32[np.ndarray, "p dim"]
    ) -> Float32[np.ndarray, "q dim"]:
        product = queries @ expanded.T
        best = np.argsort(-product, axis=1, kind="stable")[:, : self.neighbors]
        return expand(queries, expanded, best, np.take_along_axis(product, best, axis=1)).astype(np.float32)

    def _at(self, places: Int64[np.ndarray, " p"]) -> Float32[np.ndarray, "p dim"]:
        return unit(self._rows[places] - self._means.at(places)).astype(np.float32)

    def _neighbors(
        self, places: Int64[np.ndarray, " p"], own: Float32[np.ndarray, "p dim"], among: Bool[np.ndarray, " n"] | None
    ) -> tuple[Int64[np.ndarray, "p k"], Float32[np.ndarray, "p k"]]:
        """Places of the neighbors of models, and their weights: 0 for the model itself and where there is none."""
        near, similarity = self.segments.search(own, self.neighbors + 1, among)
        itself = near == places[:, None]
        itself[~itself.any(1), -1] = True  # not among its nearest, as there are many copies of it
        others = np.argsort(itself, axis=1, kind="stable")[:, :-1]
        near, similarity = (np.take_along_axis(part, others, axis=1) for part in (near, similarity))
        return np.maximum(near, 0), np.where(near >= 0, np.maximum(similarity, 0), 0)

    def _expanded(
        self, places: Int64[np.ndarray, " p"], among: Bool[np.ndarray, " n"] | None
    ) -> tuple[Float32[np.ndarray, "p dim"], Float32[np.ndarray, "p dim"]]:
        """Centered vectors of models, and the same expanded by their neighbors."""
        own = self._at(places)
        near, weight = self._neighbors(places, own, among)
        needed, within = np.unique(near, return_inverse=True)
        return own, expand(own, self._at(needed), within.reshape(near.shape), weight).astype(np.float32)
