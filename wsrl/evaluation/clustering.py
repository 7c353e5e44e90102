"""Agreement of the embedding's clusters with tasks and with architectures."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from wsrl.evaluation.interval import Interval
from wsrl.evaluation.ranking import unit_vectors
from wsrl.evaluation.relevance import labels
from wsrl.extras import require
from wsrl.zoo.manifest import Record


@dataclass(frozen=True)
class PartitionScores:
    """How far clusters of embeddings agree with a partition of the models.

    Attributes:
      nmi: normalized mutual information.
      ari: adjusted Rand index.
      silhouette: of the partition, by cosine distance.
    """

    nmi: Interval
    ari: Interval
    silhouette: Interval


def clustering_scores(
    embeddings_by_seed: Sequence[Float[np.ndarray, "n dim"]], records: Sequence[Record], seed: int = 0
) -> dict[str, PartitionScores]:
    """How far the embedding groups models by task, and how far by architecture.

    k-means with as many clusters as the partition has classes is compared with the partition: normalized
    mutual information and adjusted Rand index. The silhouette (cosine distance) is of the partition itself.

    Args:
      embeddings_by_seed: one array for each encoder seed.
      records: the models.
      seed: of k-means.

    Returns:
      Scores of the partitions "task" and "architecture", each the mean, least and greatest over the encoder seeds; None
      where the partition has one class only or one for each model.
    """
    partitions = {
        "task": labels([record.task for record in records]),
        "architecture": labels([record.architecture for record in records]),
    }
    scores = {}
    for name, partition in partitions.items():
        by_seed = [_partition_scores(embeddings, partition, seed) for embeddings in embeddings_by_seed]
        scores[name] = PartitionScores(*(over_seeds(own) for own in zip(*by_seed, strict=True)))
    return scores


def over_seeds(values: Sequence[float | None]) -> Interval:
    """Mean, least and greatest of the values of several encoder seeds; None if any of them is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Interval()
    return Interval(float(np.mean(known)), float(min(known)), float(max(known)))


def _partition_scores(
    embeddings: Float[np.ndarray, "n dim"], partition: Int[np.ndarray, "n"], seed: int
) -> tuple[float | None, float | None, float | None]:
    """Normalized mutual information, adjusted Rand index and silhouette."""
    classes = len(np.unique(partition))
    if not 2 <= classes < len(partition):
        return None, None, None
    unit = unit_vectors(embeddings)
    cluster, metrics = require("sklearn.cluster", "train"), require("sklearn.metrics", "train")
    # One thread: these fits are short, and OpenMP threads that wait for a busy core cost seconds.
    with warnings.catch_warnings(), threadpool_limits(1):
        # A method may give fewer distinct vectors than there are classes; its scores say so.
        warnings.simplefilter("ignore", require("sklearn.exceptions", "train").ConvergenceWarning)
        clusters = cluster.KMeans(classes, n_init=2, random_state=seed).fit_predict(unit)
    return (
        float(metrics.normalized_mutual_info_score(partition, clusters)),
        float(metrics.adjusted_rand_score(partition, clusters)),
        float(metrics.silhouette_score(unit, partition, metric="cosine")),
    )
