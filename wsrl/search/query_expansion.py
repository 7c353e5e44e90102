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

    An expanded vector is a sum of vectors, so its inner products are sums of theirs: queries are compared with all
    expanded vectors though these are never made.

    Attributes:
      groups: names of the classes of architectures.
      means: subtracted from the vectors of each class, and last from those of a class that is not there.
      given: the vectors as they are.
      group: class of each.
      near: places of the nearest others of each, nearest first; may hold more than the neighbors (see `spare`).
      neighbors: that a vector is expanded with.
      factors: what an earlier `QueryExpansion` of the same vectors found; None: it is found when it is needed.
    """

    groups: list[str]
    means: Float32[np.ndarray, "groups_and_rest dim"]
    given: Float32[np.ndarray, "n dim"]
    group: Int[np.ndarray, " n"]
    near: Int[np.ndarray, "n k"]
    neighbors: int
    factors: Float32[np.ndarray, "n k_and_2"] | None = None

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
        factors: Float32[np.ndarray, "n k_and_2"] | None = None,
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
          factors: with `near`, the `all_factors` of that call.
        """
        names, group = np.unique(np.asarray(architectures, str), return_inverse=True)
        means, overall = group_means(vectors, group, least)
        stacked = np.vstack([means, overall]).astype(np.float32)
        given = np.asarray(vectors, np.float32)
        if near is not None:
            return cls(names.tolist(), stacked, given, group, near, near.shape[1], factors)
        alone = cls(names.tolist(), stacked, given, group, np.zeros((len(given), 0), np.int32), 0)
        placed = alone._placed
        neighbors = neighbor_count(len(placed), neighbors)
        near = np.zeros((len(given), min(neighbors + spare, max(len(placed) - 1, 0)) if neighbors else 0), np.int32)
        if neighbors:
            near[placed] = placed[_nearest_others(alone.vectors[placed], near.shape[1], exact)]
        return cls(names.tolist(), stacked, given, group, near, neighbors)

    @functools.cached_property
    def vectors(self) -> Float32[np.ndarray, "n dim"]:
        """Centered, of length 1; zero where a vector equals the mean of its class."""
        return unit(self.given - self.means[self.group])

    @functools.cached_property
    def lengths(self) -> Float32[np.ndarray, " n"]:
        """Of the vectors when they are centered."""
        if self.factors is not None:
            return self.factors[:, 0]
        return np.linalg.norm(self.given - self.means[self.group], axis=1)

    @functools.cached_property
    def expanded_lengths(self) -> Float32[np.ndarray, " n"]:
        """Of the sums of vectors and their weighted neighbors."""
        if self.factors is not None:
            return self.factors[:, 1]
        products = np.einsum("nd,nd->n", self.expanded, self.vectors)
        weight = np.maximum(self.similarity[:, : self.neighbors], 0)
        along = (self.vectors**2).sum(1) + (weight * self.similarity[:, : self.neighbors]).sum(1)
        return along / np.where(products > SMALL, products, 1)

    @property
    def all_factors(self) -> Float32[np.ndarray, "n k_and_2"]:
        """What `build` takes as `factors`, so that nothing but the vectors has to be read for a query."""
        columns = self.lengths[:, None], self.expanded_lengths[:, None], self.similarity
        return np.hstack(columns).astype(np.float32)

    @functools.cached_property
    def similarity(self) -> Float32[np.ndarray, "n k"]:
        """Cosines of the vectors with those of `near`; 0 where a vector has no direction."""
        if self.factors is not None:
            return self.factors[:, 2:]
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
        similarity = self._similarity(places) if self.factors is None else self.similarity[places]
        weight = np.maximum(similarity[:, : self.neighbors], 0)
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
            return self._compare_with_sums(own)
        expanded, rows = self.expanded.copy(), []
        for query, left_out in zip(own, exclude, strict=True):
            touched, anew = self._expanded_without(left_out)
            expanded[touched] = anew
            rows.append(self._compare(query[None], expanded, left_out[None])[0])
            expanded[touched] = self.expanded[touched]
        return np.stack(rows) if rows else np.zeros(exclude.shape, np.float32)

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

    def _compare_with_sums(self, own: Float[np.ndarray, "q dim"]) -> Float[np.ndarray, "q n"]:
        """As `_compare` without exclusions, by sums of inner products in place of expanded vectors."""
        products = self._products(own)
        near = self._expanded_products(products)
        rows = np.argsort(-near, axis=1, kind="stable")[:, : self.neighbors]
        others = self._expanded_rows(np.unique(rows)) if rows.size else own
        within = np.searchsorted(np.unique(rows), rows)
        asked = expand(own, others, within, np.take_along_axis(near, rows, axis=1))
        return (products + self._expanded_products(self._products(asked))) / 2

    def _products(self, queries: Float[np.ndarray, "q dim"]) -> Float[np.ndarray, "q n"]:
        """Cosines of queries with `vectors`."""
        products = queries @ self.given.T - (queries @ self.means.T)[:, self.group]
        return products / np.maximum(self.lengths, SMALL)

    def _expanded_products(self, products: Float[np.ndarray, "q n"]) -> Float[np.ndarray, "q n"]:
        """Cosines with `expanded`, from those with `vectors`."""
        total = products.copy()
        for neighbor in range(self.neighbors):
            weight = np.maximum(self.similarity[:, neighbor], 0)
            total += weight * products[:, self.near[:, neighbor]]
        return total / np.maximum(self.expanded_lengths, SMALL)

    def _expanded_rows(self, places: Int[np.ndarray, " p"]) -> Float[np.ndarray, "p dim"]:
        """Some of `expanded`."""
        needed, within = np.unique(self.near[places, : self.neighbors], return_inverse=True)
        own, others = (unit(self.given[rows] - self.means[self.group[rows]]) for rows in (places, needed))
        return expand(own, others, within.reshape(len(places), -1), self.similarity[places, : self.neighbors])

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
        return np.flatnonzero(self.lengths > SMALL)


def _index(vectors: Float[np.ndarray, "n dim"], exact: bool = False) -> NearestNeighbors:
    return NearestNeighbors.build(vectors, [str(row) for row in range(len(vectors))], exact=exact)


def _nearest_others(vectors: Float[np.ndarray, "n dim"], count: int, exact: bool) -> Int[np.ndarray, "n count"]:
    """Returns places of the nearest other vectors of each."""
    index = _index(vectors, exact)
    rows, _ = index.search(index.vectors, count + 1)
    itself = rows == np.arange(len(vectors))[:, None]
    itself[~itself.any(1), -1] = True  # not among its nearest, as there are many copies of it: the farthest gives way
    return rows[~itself].reshape(-1, count)
