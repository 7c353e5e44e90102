"""Retrieval of models of the same task, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from wsrl.evaluation.around import neighborhood_blocks
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.ranking import LIMIT, METRICS, ranked_blocks, ranking_metrics
from wsrl.evaluation.relevance import GALLERIES, Relevance
from wsrl.zoo.manifest import Record


@dataclass(frozen=True)
class GalleryScores:
    """How well models of the same task are found in one gallery.

    Attributes:
      metrics: each of `METRICS` with its 95 % interval; None where there is no query.
      queries: how many models asked.
      left_out: how many did not, because the gallery holds no model of their task.
      precision_at_10_limit: mean of the best possible precision at 10; None without a query.
    """

    metrics: dict[str, Interval]
    queries: int
    left_out: int
    precision_at_10_limit: float | None


def query_scores(
    embeddings: Float[np.ndarray, "n dim"], relevance: Relevance, seed: int = 0, neighbors: int = 0
) -> dict[str, dict[str, Float[np.ndarray, "n"]]]:
    """Scores of every model as a query against the others: gallery -> metric -> float64, NaN without an
    answer.

    Search is by cosine similarity, or by `wsrl.search.query_expansion` with a number of neighbors above 0.

    Raises:
      ValueError: an embedding is not finite, or their number is not that of the records.
    """
    if len(embeddings) != len(relevance.task):
        raise ValueError(f"{len(embeddings)} embeddings for {len(relevance.task)} records")
    scores = {gallery: {name: np.full(len(embeddings), np.nan) for name in (*METRICS, LIMIT)} for gallery in GALLERIES}
    by_cosine = ranked_blocks(embeddings, seed)
    for queries, order in neighborhood_blocks(embeddings, relevance, seed, neighbors) if neighbors else by_cosine:
        relevant = relevance.relevant(queries)
        for gallery, eligible in relevance.eligible(queries).items():
            for name, values in ranking_metrics(order, relevant, eligible).items():
                scores[gallery][name][queries] = values
    return scores


def retrieval_scores(
    embeddings_by_seed: Sequence[Float[np.ndarray, "n dim"]],
    records: Sequence[Record],
    resamples: int = 1000,
    seed: int = 0,
    neighbors: int = 0,
    asking: Bool[np.ndarray, "n"] | None = None,
) -> dict[str, GalleryScores]:
    """Retrieval scores of one method, every model querying all others.

    Args:
      embeddings_by_seed: finite float arrays, one for each seed of the encoder, rows as in `records`.
      records: the models, exact duplicates removed.
      resamples: bootstrap samples. They draw whole lineages of queries, and seeds where there are several
        (see `wsrl.evaluation.bootstrap.cluster_bootstrap`).
      seed: of the bootstrap and of the breaking of ties.
      neighbors: see `query_scores`.
      asking: which models are queries; all by default.

    Returns:
      Scores in each gallery: "same" (the query's architecture), "cross" (other architectures) and "any".

    Raises:
      ValueError: as `query_scores`.
    """
    relevance = Relevance.of(records)
    by_seed = [query_scores(embeddings, relevance, seed, neighbors) for embeddings in embeddings_by_seed]
    asking = np.ones(len(records), bool) if asking is None else asking
    scores = {}
    for gallery in GALLERIES:
        answerable = asking & np.isfinite(by_seed[0][gallery]["map"])
        queries = int(answerable.sum())
        stacked = {name: np.stack([run[gallery][name][answerable] for run in by_seed]) for name in METRICS}
        if queries:
            metrics = cluster_bootstrap(stacked, relevance.lineage[answerable], resamples, seed)
        else:
            metrics = {name: Interval() for name in METRICS}
        limit = float(by_seed[0][gallery][LIMIT][answerable].mean()) if queries else None
        scores[gallery] = GalleryScores(metrics, queries, int(asking.sum()) - queries, limit)
    return scores
