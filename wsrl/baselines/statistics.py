"""Statistics of each layer's weights (Unterthiner et al. 2020, arXiv 2002.11448)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float32, Int

from wsrl.baselines.raw_weights import natural_order

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
STATISTICS = 2 + len(QUANTILES)  # mean, variance and the quantiles


def statistics_features(
    weights: Sequence[Mapping[str, np.ndarray]], fit: Int[np.ndarray, "m"], slots: int = 12
) -> Float32[np.ndarray, "n features"]:
    """Mean, variance and five quantiles of every tensor, standardized.

    Unterthiner et al. compare networks of one depth. Here tensors are aligned twice, from the first on and
    from the last backwards, `slots` of them each way; tensors that a model does not have take the mean value,
    0.

    Args:
      weights: finite tensors of each model by name; their order is the natural order of the names.
      fit: rows from which mean and standard deviation are taken (the train split).
      slots: number of tensors in each alignment.

    Returns:
      2 * slots * 7 features.

    Raises:
      ValueError: `fit` is empty.
    """
    if not len(fit):
        raise ValueError("no row to fit mean and standard deviation on")
    features = np.stack([_aligned(tensors, slots) for tensors in weights])
    return _standardized(features, fit).astype(np.float32)


def _aligned(tensors: Mapping[str, np.ndarray], slots: int) -> Float[np.ndarray, "features"]:
    """Statistics in fixed slots from the front and from the back, NaN where the model has no tensor."""
    rows = np.stack([_describe(tensors[name]) for name in natural_order(tensors)])
    front, back = np.full((2, slots, STATISTICS), np.nan)
    front[: len(rows)] = rows[:slots]
    back[: len(rows)] = rows[::-1][:slots]
    return np.concatenate([front.ravel(), back.ravel()])


def _describe(tensor: np.ndarray) -> Float[np.ndarray, "statistics"]:
    flat = np.asarray(tensor, dtype=np.float64).ravel()
    return np.array([flat.mean(), flat.var(), *np.quantile(flat, QUANTILES)])


def _standardized(
    features: Float[np.ndarray, "n features"], fit: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "n features"]:
    known = np.isfinite(features)
    filled = np.where(known, features, 0)
    count = np.maximum(known[fit].sum(axis=0), 1)
    mean = filled[fit].sum(axis=0) / count
    centered = np.where(known, filled - mean, 0)
    deviation = np.sqrt((centered[fit] ** 2).sum(axis=0) / count)
    # A statistic that is constant on the fitted rows carries nothing to scale by: it is left out.
    return np.divide(centered, deviation, out=np.zeros_like(centered), where=deviation > 1e-12)
