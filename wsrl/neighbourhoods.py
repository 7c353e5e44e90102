"""Search by neighbourhoods: models are compared by their own vectors and by those of the models around them.

What one model's vector leaves open its neighbours' settle: a vector and its nearest ones, added up, lie nearer to the
other models of their task, and reach those of other architectures by way of models in between. The vectors of a gallery
are blended so once (Turcot and Lowe 2009; Arandjelović and Zisserman 2012), a query when it is asked (Chum et al.
2007); similarities weigh what is added (Radenović et al. 2018). Before, the mean of each kind of architecture is taken
off. No label is used.

So are values that a network's weights tell with much noise, such as its accuracy: what is told of its neighbours says
how hard their common task is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from wsrl.index import Index

NEIGHBOURS = 20  # that a vector is blended with, at most
GALLERY_SHARE = 10  # the neighbours are no more than one in so many models, since few models of a task may be there
BLOCK = 4096  # vectors blended at once
SMALL = 1e-12


def neighbour_count(models: int, most: int = NEIGHBOURS) -> int:
    """How many neighbours vectors are blended with in a gallery of so many models."""
    return min(most, models // GALLERY_SHARE)


def group_means(
    vectors: Float[np.ndarray, "n dim"], group: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "groups dim"], Float[np.ndarray, "dim"]]:
    """Means of the groups, numbered from 0, and of all; each group's counts the mean of all as one more vector."""
    overall = vectors.mean(0)
    sums = np.zeros((group.max(initial=-1) + 1, vectors.shape[1]))
    np.add.at(sums, group, vectors)
    return (sums + overall) / (np.bincount(group) + 1)[:, None], overall


def unit(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """The rows scaled to length 1; zero rows stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SMALL)


def centred(
    vectors: Float[np.ndarray, "n dim"], group: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n dim"]:
    """Unit vectors less the mean of their group, scaled to length 1 again.

    This removes hubs near the mean (Suzuki et al. 2013) and, by groups, what tells the groups apart.

    Args:
      vectors: of length 1.
      group: of each, numbered from 0; None for one group of all.
    """
    group = np.zeros(len(vectors), int) if group is None else group
    return unit(vectors - group_means(vectors, group)[0][group])


def blend(
    own: Float[np.ndarray, "n dim"],
    others: Float[np.ndarray, "m dim"],
    rows: Int[np.ndarray, "n k"],
    similarity: Float[np.ndarray, "n k"],
) -> Float[np.ndarray, "n dim"]:
    """Adds to each vector its neighbours, rows of `others`, times their similarity if it is positive; of length 1."""
    blended = np.empty_like(own)
    for start in range(0, len(own), BLOCK):
        at = slice(start, start + BLOCK)
        blended[at] = own[at] + np.einsum("nk,nkd->nd", np.maximum(similarity[at], 0), others[rows[at]])
    return unit(blended)


@dataclass(frozen=True)
class Neighbourhoods:
    """Models to be searched. Build with `Neighbourhoods.of`.

    Attributes:
      kinds: of architectures.
      means: of the vectors of each kind, then of all.
      vectors: centred, of length 1.
      blended: with their neighbours.
      near: places of the nearest of each, itself most likely among them.
      weight: of these: 0 of itself; of the others their similarity if it is positive, else 0.
    """

    kinds: list[str]
    means: Float32[np.ndarray, "kinds_and_all dim"]
    vectors: Float32[np.ndarray, "n dim"]
    blended: Float32[np.ndarray, "n dim"]
    near: Int[np.ndarray, "n k"]
    weight: Float32[np.ndarray, "n k"]

    @classmethod
    def of(
        cls, vectors: Float[np.ndarray, "n dim"], kinds: Sequence[str], neighbours: int = NEIGHBOURS
    ) -> "Neighbourhoods":
        """Blends each model with its neighbours, which an index finds.

        Args:
          vectors: of length 1, one a model.
          kinds: see `wsrl.graph.kind.network_kind`.
          neighbours: at most; see `neighbour_count`.
        """
        names, group = np.unique(np.asarray(kinds, str), return_inverse=True)
        means, overall = group_means(vectors, group)
        own = unit(vectors - means[group]).astype(np.float32)
        there = np.flatnonzero(own.any(1))  # what equals the mean of its kind has no direction, and no neighbours
        neighbours, blended = neighbour_count(len(there), neighbours), own.copy()
        near = np.zeros((len(own), neighbours + 1), np.int32)
        weight = np.zeros(near.shape, np.float32)
        if neighbours:
            index = Index.build(own[there], [str(row) for row in there])
            rows, similarity = index.search(index.vectors, neighbours + 1)
            itself = rows == np.arange(len(there))[:, None]
            near[there], weight[there] = there[rows], np.where(itself, 0, np.maximum(similarity, 0))
            blended[there] = blend(own[there], own, near[there], weight[there])
        stacked = np.vstack([means, overall]).astype(np.float32)
        return cls(names.tolist(), stacked, own, blended, near, weight)

    @property
    def neighbours(self) -> int:
        """That a query is blended with; a model of the gallery stands among its own."""
        return self.near.shape[1] - 1

    def smoothed(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """A value of each model, half-way to the mean of its neighbours' by similarity; as it is without any."""
        total = self.weight.sum(1)
        mean = (self.weight * values[self.near]).sum(1) / np.maximum(total, SMALL)
        return np.where(total > 0, (values + mean) / 2, values)

    def similarities(self, queries: Float[np.ndarray, "q dim"], kinds: Sequence[str]) -> Float[np.ndarray, "q n"]:
        """How near the models lie to queries: the mean of the cosine of the vectors and that of the blended ones.

        Args:
          queries: vectors of length 1.
          kinds: of the queries; from one that no model is of, the mean of all is taken.
        """
        known = {kind: row for row, kind in enumerate(self.kinds)}
        own = unit(queries - self.means[[known.get(kind, -1) for kind in kinds]])
        near = own @ self.blended.T
        rows = np.argsort(-near, axis=1, kind="stable")[:, : self.neighbours]
        query = blend(own, self.blended, rows, np.take_along_axis(near, rows, axis=1))
        return (own @ self.vectors.T + query @ self.blended.T) / 2
