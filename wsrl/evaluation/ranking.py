"""Scores of ranked lists with binary relevance, for many queries at once."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

METRICS = ("precision_at_1", "precision_at_10", "r_precision", "map", "ndcg_at_10", "mrr")
LIMIT = "precision_at_10_limit"  # the best that precision at 10 can be


def cosine_similarity(
    queries: Float[np.ndarray, "queries dim"], gallery: Float[np.ndarray, "gallery dim"]
) -> Float[np.ndarray, "queries gallery"]:
    """Cosine similarities in float64; a zero vector has similarity 0 to everything.

    They are rounded to twelve decimals so that equal vectors tie exactly, however the product is blocked.
    """
    product = unit_vectors(queries) @ unit_vectors(gallery).T
    return np.round(product, 12, out=product)


def unit_vectors(vectors: Float[np.ndarray, "n dim"]) -> Float64[np.ndarray, "n dim"]:
    """The rows scaled to length 1, in float64; zero rows stay zero."""
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def rank_gallery(similarity: Float[np.ndarray, "queries gallery"], seed: int = 0) -> Int[np.ndarray, "queries gallery"]:
    """Gallery indices by decreasing similarity.

    Ties are broken by one random order of the gallery: the order of a zoo's manifest puts models of one task
    side by side, so a stable sort would reward a method whose similarities are all equal.
    """
    shuffled = np.random.default_rng(seed).permutation(similarity.shape[1])
    return shuffled[np.argsort(-similarity[:, shuffled], axis=1, kind="stable")]


def ranked_blocks(
    embeddings: Float[np.ndarray, "n dim"], seed: int = 0, block: int = 1024
) -> Iterator[tuple[Int[np.ndarray, "q"], Int[np.ndarray, "q n"]]]:
    """All models as queries against all: indices of a block of queries and their ranked galleries.

    Blocks bound the memory: no array of n x n numbers is ever held.

    Raises:
      ValueError: an embedding is not finite.
    """
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(f"embedding {int(np.argmin(finite))} is not finite")
    for start in range(0, len(embeddings), block):
        queries = np.arange(start, min(start + block, len(embeddings)))
        yield queries, rank_gallery(cosine_similarity(embeddings[queries], embeddings), seed)


def ranking_metrics(
    order: Int[np.ndarray, "queries gallery"],
    relevant: Bool[np.ndarray, "queries gallery"],
    eligible: Bool[np.ndarray, "queries gallery"],
) -> dict[str, Float[np.ndarray, "queries"]]:
    """Scores of each query from its ranked gallery.

    Args:
      order: each row a permutation of the gallery's indices, best first (see `rank_gallery`).
      relevant: whether gallery item j answers query i; only eligible items count.
      eligible: whether item j is in the gallery of query i; others are skipped as if they were not there.

    Returns:
      One float64 array per name in `METRICS`: precision at 1 and at 10 (always divided by 10, so that a query
      with fewer than 10 relevant items cannot reach 1), precision at R with R the number of relevant items,
      average precision (its mean over queries is mAP), nDCG at 10 with binary gains (Järvelin and Kekäläinen
      2002) and the reciprocal rank of the first relevant item. `LIMIT` gives the best possible precision at
      10. Queries without a relevant item get NaN.
    """
    queries = len(order)
    eligible_in_order = np.take_along_axis(eligible, order, axis=1)
    relevant_in_order = np.take_along_axis(relevant, order, axis=1) & eligible_in_order
    rows, columns = np.nonzero(relevant_in_order)  # row by row, best first
    rank = np.cumsum(eligible_in_order, axis=1, dtype=np.int32)[rows, columns]  # from 1
    total = np.bincount(rows, minlength=queries)
    first = np.cumsum(total) - total  # where a query's relevant items begin in rows
    nth = np.arange(len(rows)) - first[rows] + 1  # the item is its query's nth relevant one

    def per_query(values: np.ndarray) -> Float[np.ndarray, "queries"]:
        return np.bincount(rows, weights=values, minlength=queries).astype(float)  # of no rows: integers

    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])[np.minimum(total, 10)]
    divisor = np.where(total > 0, total, np.nan)
    metrics = {
        "precision_at_1": per_query(rank <= 1),
        "precision_at_10": per_query(rank <= 10) / 10,
        "r_precision": per_query(rank <= total[rows]) / divisor,
        "map": per_query(nth / rank) / divisor,
        "ndcg_at_10": per_query((rank <= 10) / np.log2(rank + 1)) / ideal,
        "mrr": per_query((nth == 1) / rank),
        LIMIT: np.minimum(total, 10) / 10,
    }
    return {name: np.where(total > 0, values, np.nan) for name, values in metrics.items()}
