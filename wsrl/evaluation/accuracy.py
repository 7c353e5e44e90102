"""Rank correlation of predicted and measured test accuracy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float

from wsrl.evaluation.interval import Interval
from wsrl.evaluation.relevance import Relevance
from wsrl.zoo.manifest import Record


def accuracy_tau(
    predicted_by_seed: Sequence[Float[np.ndarray, "n"]],
    records: Sequence[Record],
    resamples: int = 300,
    seed: int = 0,
) -> Interval:
    """Kendall's tau-b between predicted and measured accuracy, its mean over the encoder seeds.

    Args:
      predicted_by_seed: finite predictions of each encoder seed, on any scale that grows with accuracy.
      records: the models, whose `accuracy` is the truth.
      resamples: bootstrap samples; each draws whole lineages, and seeds independently of them.
      seed: of the bootstrap.

    Returns:
      The mean with its 95 % percentile interval; all None where tau is undefined (fewer than
      two distinct values).

    Raises:
      ValueError: a prediction is not finite, or their number is not that of the records.
    """
    truth = np.array([record.accuracy for record in records], dtype=np.float64)
    predicted = np.stack([np.asarray(run, dtype=np.float64) for run in predicted_by_seed])
    if predicted.shape[1] != len(truth):
        raise ValueError(f"{predicted.shape[1]} predictions for {len(truth)} records")
    if not np.isfinite(predicted).all():
        raise ValueError("a predicted accuracy is not finite")
    if len(truth) < 2 or np.ptp(truth) == 0 or (np.ptp(predicted, axis=1) == 0).any():
        return Interval()
    lineage = Relevance.of(records).lineage
    members = np.split(np.argsort(lineage, kind="stable"), np.cumsum(np.bincount(lineage))[:-1])
    rng = np.random.default_rng(seed)
    taus = []
    for _ in range(resamples):
        drawn = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        runs = predicted[rng.integers(len(predicted), size=len(predicted))]
        taus.append(np.mean([_tau(run[drawn], truth[drawn]) for run in runs]))
    low, high = np.nanquantile(taus, [0.025, 0.975])
    value = np.mean([_tau(run, truth) for run in predicted])
    return Interval(float(value), float(low), float(high))


def _tau(predicted: Float[np.ndarray, "n"], truth: Float[np.ndarray, "n"]) -> float:
    result: Any = scipy.stats.kendalltau(predicted, truth, variant="b")
    return float(result.statistic)
