"""Bootstrap intervals for queries that come in clusters and encoders that come in seeds."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from wsrl.evaluation.interval import Interval


def cluster_bootstrap(
    scores: Mapping[str, Float[np.ndarray, "seeds queries"]],
    clusters: Int[np.ndarray, "queries"],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean of each score by its name, with its 95 % percentile interval.

    Checkpoints of one lineage (a training run and its fine-tuned descendants) are not independent, so whole
    clusters of queries are drawn with replacement. Encoder seeds are drawn too, independently of the
    clusters, as every encoder answers every query (the pigeonhole bootstrap of Owen 2007). The interval
    speaks of other models of these tasks, not of other tasks; and a few seeds show only part of the variance
    between encoders.

    Args:
      scores: finite scores of every encoder seed for every query, by name; all of one shape.
      clusters: label of each query's cluster.
      resamples: number of bootstrap samples.
      seed: of the resampling, which is the same for all scores.
    """
    _, cluster_of = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(cluster_of).astype(np.float64)
    seeds = len(next(iter(scores.values())))
    rng = np.random.default_rng(seed)
    clusters_drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples).astype(float)
    seeds_drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    queries_drawn = clusters_drawn @ sizes
    intervals = {}
    for name, values in scores.items():
        sums = np.stack([np.bincount(cluster_of, weights=row, minlength=len(sizes)) for row in values])
        means = ((clusters_drawn @ sums.T) * seeds_drawn).sum(axis=1) / queries_drawn
        low, high = np.quantile(means, [0.025, 0.975])
        intervals[name] = Interval(float(values.mean()), float(low), float(high))
    return intervals
