"""Database augmentation and query expansion: models are compared by their own vectors and by those of their neighbors.

What one vector leaves open its neighbors settle: a vector plus its nearest ones lies nearer to other models of the same
task, and reaches those of other architectures by way of models in between. The vectors of a database are expanded once
(database augmentation: Turcot and Lowe 2009; Arandjelović and Zisserman 2012), a query when it is asked (query
expansion: Chum et al. 2007); each neighbor is weighted by its similarity (Radenović et al. 2018). First the mean vector
of the model's class of architectures is subtracted, which removes hubs (Suzuki et al. 2013). No label is used.

Noisy values that are read from weights, such as predicted accuracy, are smoothed over the same neighbors, whose
predictions show how hard their common task is.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from wsrl.search.nearest import NearestNeighbors

NEIGHBORS = 20  # that a vector is expanded with, at most
DATABASE_SHARE = 10  # one neighbor for so many models, since a small database may hold few models of a task
CENTERED_FROM = 20  # vectors; the mean of n unrelated ones, subtracted from them, makes similarities of -1 / (n - 1)
BLOCK = 256  # vectors expanded at once
SMALL = 1e-12


def neighbor_count(models: int, most: int = NEIGHBORS) -> int:
    """Returns with how many neighbors each vector of a database of so many models is expanded."""
    return min(most, models // DATABASE_SHARE)


def group_means(
    vectors: Float[np.ndarray, "n dim"], group: Int[np.ndarray, " n"], least: int = 1
) -> tuple[Float[np.ndarray, "groups dim"], Float[np.ndarray, "dim"]]:
    """Returns what to subtract from the vectors of each group, and from those of no known group.

    This is the mean of a group, in which the mean of all counts as one more vector; the mean of all for a group of
    fewer than `least` vectors; and zero if there are fewer than `least` in all.

    Args:
      vectors: of the models.
      group: of each, numbered from 0.
      least: vectors that a mean is taken of.
    """
    overall = vectors.mean(0) if len(vectors) >= least else np.zeros(vectors.shape[1])
    sizes = np.bincount(group)[:, None]
    sums = np.zeros((len(sizes), vectors.shape[1]))
    for number in range(len(sizes)):
        sums[number] = vectors[group == number].sum(0, dtype=np.float64)
    return np.where(sizes >= least, (sums + overall) / (sizes + 1), overall), overall


def unit(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Returns the rows scaled to length 1; zero rows stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SMALL)


def centered(
    vectors: Float[np.ndarray, "n dim"], group: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n dim"]:
    """Returns unit vectors less the mean of their group, scaled to length 1 again.

    Args:
      vectors: of length 1.
      group: of each, numbered from 0; None for one group of all.
    """
    group = np.zeros(len(vectors), int) if group is None else group
    return unit(vectors - group_means(vectors, group)[0][group])


def expand(
    own: Float[np.ndarray, "n dim"],
    others: Float[np.ndarray, "m dim"],
    rows: Int[np.ndarray, "n k"],
    similarity: Float[np.ndarray, "n k"],
) -> Float[np.ndarray, "n dim"]:
    """Adds to each vector its neighbors, rows of `others`, times their similarity where positive; of length 1."""
    expanded = np.empty_like(own)
    for start in range(0, len(own), BLOCK):
        at = slice(start, start + BLOCK)
        expanded[at] = own[at] + np.einsum("nk,nkd->nd", np.maximum(similarity[at], 0), others[rows[at]])
    return unit(expanded)


@dataclass(frozen=True)
class QueryExpansion:
    """A database of models, expanded by their neighbors. Get one with `QueryExpansion.build`.

    Attributes:
      groups: names of the classes of architectures.
      means: subtracted from the vectors of each class, and last from those of a class that is not there.
      vectors: centered, of length 1; zero where a vector equals the mean of its class.
      near: places of the nearest others of each, nearest first; may hold more than the neighbors (see `spare`).
      neighbors: that a vector is expanded with.
    """

    groups: list[str]
    means: Float32[np.ndarray, "groups_and_rest dim"]
    vectors: Float32[np.ndarray, "n dim"]
    near: Int[np.ndarray, "n k"]
    neighbors: int

    @classmethod
    def build(
        cls,
        vectors: Float[np.ndarray, "n dim"],
        architectures: Sequence[str],
        neighbors: int = NEIGHBORS,
        least: int = CENTERED_FROM,
        spare: int = 0,
        exact: bool = False,
        near: Int[np.ndarray, "n k"] | None = None,
    ) -> "QueryExpansion":
        """Finds the neighbors of each vector by `NearestNeighbors`.

        Args:
          vectors: of length 1, one for each model.
          architectures: class of each model's architecture; see `wsrl.encoder.kind.network_kind`.
          neighbors: at most; see `neighbor_count`.
          least: vectors that a mean is taken of; see `group_means`.
          spare: further neighbors that are kept, to take the place of those that a query excludes.
          exact: find neighbors exactly, however many models there are.
          near: what an earlier call found for the same vectors; then only these are used.
        """
        names, group = np.unique(np.asarray(architectures, str), return_inverse=True)
        means, overall = group_means(vectors, group, least)
        own = unit(vectors - means[group]).astype(np.float32)
        stacked = np.vstack([means, overall]).astype(np.float32)
        if near is not None:
            return cls(names.tolist(), stacked, own, near, near.shape[1])
        placed = np.flatnonzero(own.any(1))  # a vector that equals the mean of its class has no direction
        neighbors = neighbor_count(len(placed), neighbors)
        near = np.zeros((len(own), min(neighbors + spare, max(len(placed) - 1, 0)) if neighbors else 0), np.int32)
        if neighbors:
            near[placed] = placed[_nearest_others(own[placed], near.shape[1], exact)]
        return cls(names.tolist(), stacked, own, near, neighbors)

    @functools.cached_property
    def similarity(self) -> Float32[np.ndarray, "n k"]:
        """Cosines of the vectors with those of `near`; 0 where a vector has no direction."""
        return self._similarity(np.arange(len(self.vectors)))

    @functools.cached_property
    def expanded(self) -> Float32[np.ndarray, "n dim"]:
        """The vectors with their neighbors, of length 1."""
        near, similarity = self.near[:, : self.neighbors], self.similarity[:, : self.neighbors]
        return expand(self.vectors, self.vectors, near, similarity)

    def _similarity(self, places: Int[np.ndarray, " p"]) -> Float32[np.ndarray, "p k"]:
        found = np.empty((len(places), self.near.shape[1]), np.float32)
        for start in range(0, len(places), BLOCK):
            own = places[start : start + BLOCK]
            found[start : start + BLOCK] = np.einsum("nd,nkd->nk", self.vectors[own], self.vectors[self.near[own]])
        return found

    def smoothed(
        self, values: Float[np.ndarray, " n"], places: Int[np.ndarray, " p"] | None = None
    ) -> Float[np.ndarray, " p"]:
        """Returns models' values moved half-way to their neighbors' mean, which is weighted by similarity.

        Args:
          values: of all models.
          places: of the models whose values are asked for; all by default.
        """
        places = np.arange(len(values)) if places is None else places
        weight = np.maximum(self._similarity(places)[:, : self.neighbors], 0)
        total = weight.sum(1)
        mean = (weight * values[self.near[places, : self.neighbors]]).sum(1) / np.maximum(total, SMALL)
        return np.where(total > 0, (values[places] + mean) / 2, values[places])

    def similarities(
        self,
        queries: Float[np.ndarray, "q dim"],
        architectures: Sequence[str],
        exclude: Bool[np.ndarray, "q n"] | None = None,
    ) -> Float[np.ndarray, "q n"]:
        """Compares queries with all models: the mean of the cosines of the vectors and of the expanded vectors.

        Args:
          queries: vectors of length 1.
          architectures: of the queries.
          exclude: models that are not in a query's database: they expand neither the query nor other models.

        Returns:
          Similarities from -1 to 1; minus infinity where a model is excluded.
        """
        own = self._center(queries, architectures)
        if exclude is None:
            return self._compare(own, self.expanded, np.zeros((1, len(self.vectors)), bool))
        expanded, rows = self.expanded.copy(), []
        for query, left_out in zip(own, exclude, strict=True):
            touched, anew = self._expanded_without(left_out)
            expanded[touched] = anew
            rows.append(self._compare(query[None], expanded, left_out[None])[0])
            expanded[touched] = self.expanded[touched]
        return np.stack(rows) if rows else np.zeros(exclude.shape, np.float32)

    def search(
        self, query: Float[np.ndarray, " dim"], architecture: str, k: int
    ) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Returns places and similarities of the k most similar models, best first, by approximate search.

        The mean of two cosines is one inner product of vectors twice as long, so that one search finds both.
        """
        own = self._center(query[None], [architecture])
        near, similarity = self._expanded_index.search(own, self.neighbors or 1)
        near = self._placed[near[:, : self.neighbors]]
        asked = expand(own, self.expanded, near, similarity[:, : self.neighbors])
        rows, found = self._joined_index.search(np.hstack([own, asked]), k)
        return self._placed[rows[0]], found[0]

    def _center(self, queries: Float[np.ndarray, "q dim"], architectures: Sequence[str]) -> Float[np.ndarray, "q dim"]:
        known = {name: row for row, name in enumerate(self.groups)}
        return unit(queries - self.means[[known.get(name, -1) for name in architectures]])

    def _compare(
        self,
        own: Float[np.ndarray, "q dim"],
        expanded: Float[np.ndarray, "n dim"],
        exclude: Bool[np.ndarray, "_ n"],
    ) -> Float[np.ndarray, "q n"]:
        near = np.where(exclude, -np.inf, own @ expanded.T)
        rows = np.argsort(-near, axis=1, kind="stable")[:, : self.neighbors]
        asked = expand(own, expanded, rows, np.take_along_axis(near, rows, axis=1))
        return np.where(exclude, -np.inf, (own @ self.vectors.T + asked @ expanded.T) / 2)

    def _expanded_without(
        self, exclude: Bool[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " t"], Float[np.ndarray, "t dim"]]:
        """Places and expanded vectors of the models that lose a neighbor, which the next nearest one replaces."""
        touched = np.flatnonzero(~exclude & exclude[self.near[:, : self.neighbors]].any(1))
        near, similarity = self.near[touched], self.similarity[touched]
        kept = ~exclude[near]
        short = kept.sum(1) < self.neighbors
        if short.any():  # more are excluded than there are spare ones
            product = self.vectors[touched] @ self.vectors.T
            product[:, exclude] = -1
            product[np.arange(len(touched)), touched] = -1
            near = np.argsort(-product, axis=1, kind="stable")[:, : self.neighbors]
            similarity = np.take_along_axis(product, near, axis=1)
            kept = np.ones(near.shape, bool)
        first = np.argsort(~kept, axis=1, kind="stable")[:, : self.neighbors]
        weight = np.take_along_axis(np.where(kept, similarity, 0), first, axis=1)
        return touched, expand(self.vectors[touched], self.vectors, np.take_along_axis(near, first, axis=1), weight)

    @functools.cached_property
    def _placed(self) -> Int[np.ndarray, " placed"]:
        return np.flatnonzero(self.vectors.any(1))

    @functools.cached_property
    def _expanded_index(self) -> NearestNeighbors:
        return _index(self.expanded[self._placed])

    @functools.cached_property
    def _joined_index(self) -> NearestNeighbors:
        return _index(np.hstack([self.vectors, self.expanded])[self._placed])


def _index(vectors: Float[np.ndarray, "n dim"], exact: bool = False) -> NearestNeighbors:
    return NearestNeighbors.build(vectors, [str(row) for row in range(len(vectors))], exact=exact)


def _nearest_others(vectors: Float[np.ndarray, "n dim"], count: int, exact: bool) -> Int[np.ndarray, "n count"]:
    """Returns places of the nearest other vectors of each."""
    index = _index(vectors, exact)
    rows, _ = index.search(index.vectors, count + 1)
    itself = rows == np.arange(len(vectors))[:, None]
    itself[~itself.any(1), -1] = True  # not among its nearest, as there are many copies of it: the farthest gives way
    return rows[~itself].reshape(-1, count)
