"""Hubness: a few models that are neighbors of everything."""

from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Float

from wsrl.evaluation.clustering import over_seeds
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.ranking import ranked_blocks


def hubness(embeddings_by_seed: Sequence[Float[np.ndarray, "n dim"]], k: int = 10) -> Interval:
    """Skewness of N_k, the number of models that have a given model among their k nearest ones.

    0 means evenly spread; values far above 1 mean hubs (Radovanović, Nanopoulos and Ivanović 2010, equation
    1).

    Args:
      embeddings_by_seed: one array for each encoder seed.
      k: length of the neighbor lists, by cosine similarity and without the model itself; clipped to n - 1.

    Returns:
      Mean, least and greatest over the seeds; None with fewer than three models.
    """
    return over_seeds([_skewness(embeddings, k) for embeddings in embeddings_by_seed])


def _skewness(embeddings: Float[np.ndarray, "n dim"], k: int) -> float | None:
    count = len(embeddings)
    if count < 3:
        return None
    occurrence = np.zeros(count, np.int64)
    for queries, order in ranked_blocks(embeddings):
        others = order[order != queries[:, None]].reshape(len(queries), count - 1)
        occurrence += np.bincount(others[:, :k].ravel(), minlength=count)
    # All models equally often: scipy calls the skewness of a constant undefined, here it is no hubness at
    # all.
    return float(scipy.stats.skew(occurrence)) if np.ptp(occurrence) else 0.0
