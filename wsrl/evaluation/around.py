"""Ranked galleries by neighbourhoods, from which each query's own run and lineage are left out throughout."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from wsrl.evaluation.ranking import rank_gallery, ranked_blocks, unit_vectors
from wsrl.evaluation.relevance import Relevance
from wsrl.neighbourhoods import NEIGHBOURS, blend, centred, neighbour_count

BLOCK = 256  # queries
DECIMALS = 6  # that equal similarities agree to, in float32


def neighbourhood_blocks(
    embeddings: Float[np.ndarray, "n dim"],
    relevance: Relevance,
    seed: int = 0,
    neighbours: int = NEIGHBOURS,
    queries: Int[np.ndarray, "m"] | None = None,
) -> Iterator[tuple[Int[np.ndarray, "q"], Int[np.ndarray, "q n"]]]:
    """Models as queries against all by `wsrl.neighbourhoods`: a block of queries and their ranked galleries.

    A query's kin, the models of its run or lineage, stand in nobody's neighbourhood while it is asked: it would reach
    its task by them. Groups of the centring are the architectures.

    Args:
      embeddings: finite.
      relevance: of the models.
      seed: of the breaking of ties.
      neighbours: that a vector is blended with, at most; see `wsrl.neighbourhoods.neighbour_count`.
      queries: places of the models that ask; None for all.

    Raises:
      ValueError: an embedding is not finite.
    """
    if not len(embeddings):
        return
    neighbours = neighbour_count(len(embeddings), neighbours)
    vectors = centred(unit_vectors(embeddings), relevance.architecture).astype(np.float32)
    kin = int(max(np.bincount(relevance.lineage).max(), np.bincount(relevance.run).max()))
    rows = _nearest(vectors, neighbours + 2 * kin, seed)
    similarity = np.stack([vectors[near] @ own for near, own in zip(rows, vectors, strict=True)])
    blended = blend(vectors, vectors, rows[:, :neighbours], similarity[:, :neighbours])
    places = np.arange(len(vectors)) if queries is None else queries
    for start in range(0, len(places), BLOCK):
        asked = places[start : start + BLOCK]
        found = np.empty((len(asked), len(vectors)))
        for i, others in enumerate(relevance.eligible(asked)["any"]):
            touched = np.flatnonzero(others & ~others[rows[:, :neighbours]].all(1))
            whole = blended[touched]
            blended[touched] = _blend_others(vectors, rows, similarity, touched, others, neighbours)
            own = vectors[asked[i]]
            near = np.where(others, blended @ own, -np.inf)
            nearest = np.argsort(-near, kind="stable")[: min(neighbours, int(others.sum()))]
            query = blend(own[None], blended, nearest[None], near[nearest][None])[0]
            found[i] = (vectors @ own + blended @ query) / 2
            blended[touched] = whole
        yield asked, rank_gallery(np.round(found, DECIMALS), seed)


def _nearest(vectors: Float[np.ndarray, "n dim"], count: int, seed: int) -> Int[np.ndarray, "n k"]:
    """The nearest other vectors of each, at most `count`."""
    lists = [
        order[order != queries[:, None]].reshape(len(queries), -1)[:, :count]
        for queries, order in ranked_blocks(vectors, seed)
    ]
    return np.concatenate(lists)


def _blend_others(
    vectors: Float[np.ndarray, "n dim"],
    rows: Int[np.ndarray, "n k"],
    similarity: Float[np.ndarray, "n k"],
    touched: Int[np.ndarray, " t"],
    others: Bool[np.ndarray, " n"],
    neighbours: int,
) -> Float[np.ndarray, "t dim"]:
    """The touched vectors, blended with their nearest ones among the others."""
    there = others[rows[touched]]
    kept = np.argsort(~there, axis=1, kind="stable")[:, :neighbours]
    weight = np.take_along_axis(np.where(there, similarity[touched], 0), kept, axis=1)
    return blend(vectors[touched], vectors, np.take_along_axis(rows[touched], kept, axis=1), weight)
