"""Galleries ranked by query expansion, from which each query's own run and lineage are left out throughout."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from wsrl.evaluation.ranking import rank_gallery, unit_vectors
from wsrl.evaluation.relevance import Relevance
from wsrl.search.query_expansion import NEIGHBORS, QueryExpansion

BLOCK = 256  # queries
DECIMALS = 6  # that equal similarities agree to, in float32


def neighborhood_blocks(
    embeddings: Float[np.ndarray, "n dim"],
    relevance: Relevance,
    seed: int = 0,
    neighbors: int = NEIGHBORS,
    queries: Int[np.ndarray, "m"] | None = None,
) -> Iterator[tuple[Int[np.ndarray, "q"], Int[np.ndarray, "q n"]]]:
    """Models as queries against all by `wsrl.search.query_expansion`: blocks of queries and their ranked galleries.

    Models of a query's run or lineage expand no vector while it is asked: it would reach its task by them.

    Args:
      embeddings: finite.
      relevance: of the models; vectors are centered by its architectures.
      seed: of the breaking of ties.
      neighbors: that a vector is expanded with, at most; see `wsrl.search.query_expansion.neighbor_count`.
      queries: places of the models that ask; None for all.

    Raises:
      ValueError: an embedding is not finite.
    """
    if not len(embeddings):
        return
    if not np.isfinite(embeddings).all():
        raise ValueError(f"embedding {int(np.argmin(np.isfinite(embeddings).all(axis=1)))} is not finite")
    vectors = unit_vectors(embeddings)
    names = relevance.architecture.astype(str).tolist()
    related = int(max(np.bincount(relevance.lineage).max(), np.bincount(relevance.run).max()))
    # Equal vectors tie, and a zoo's manifest puts models of one task side by side: the order is drawn
    order = np.random.default_rng(seed).permutation(len(vectors))
    shuffled = [names[place] for place in order]
    database = QueryExpansion.build(vectors[order], shuffled, neighbors, least=1, spare=2 * related, exact=True)
    places = np.arange(len(vectors)) if queries is None else queries
    for start in range(0, len(places), BLOCK):
        asked = places[start : start + BLOCK]
        exclude = ~relevance.eligible(asked)["any"]
        found = np.empty(exclude.shape)
        found[:, order] = database.similarities(vectors[asked], [names[place] for place in asked], exclude[:, order])
        yield asked, rank_gallery(np.round(found, DECIMALS), seed)
