"""LogME: how well features suit labels, without training a head (You et al., "LogME: Practical Assessment of
Pre-trained Models for Transfer Learning", ICML 2021).

A class against the rest is a linear regression of its indicator y on the features F = u s v with precisions alpha of
the weights and beta of the noise. What counts is the evidence p(y | F) at the alpha and beta that maximize it. At a
given t = alpha / beta, the best beta has a closed form, so one number a class is left to find:

    log p = -n/2 (log(2 pi q(t) / n) + 1) - 1/2 sum log(1 + s^2 / t),   q(t) = |y|^2 - sum (u.y)^2 s^2 / (s^2 + t)
"""

import numpy as np
from jaxtyping import Float, Float64, Int

STEPS = 200  # of the fixed point, at most
CLOSE = 1e-6  # relative change of t at which it ends
RANGE = 1e10  # of t against the largest s^2, and of |y|^2 / q(t)
TINY = np.finfo(np.float64).tiny


def log_maximum_evidence(features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]) -> float:
    """Returns LogME: the log maximum evidence a sample, mean over the classes that occur; more is better.

    Args:
      features: finite, of n labeled samples; computed with in float64.
      labels: class of each sample, any integers.

    Raises:
      ValueError: there is no sample, or a feature is not finite.
    """
    if not len(labels) or not np.isfinite(features).all():
        raise ValueError("LogME needs samples, and features that are finite")
    left, singular, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    targets = (labels[:, None] == np.unique(labels)).astype(np.float64)  # [n, classes]
    return float(maximum_evidence(left, singular, targets).mean() / len(labels))


def maximum_evidence(
    left: Float64[np.ndarray, "n rank"],
    singular: Float64[np.ndarray, "rank"],
    targets: Float64[np.ndarray, "n classes"],
) -> Float64[np.ndarray, "classes"]:
    """Returns the log maximum evidence of each target, by the fixed point of You et al., "Ranking and Tuning
    Pre-trained Models" (JMLR 2022), all targets at once.

    Args:
      left, singular: of the features' singular value decomposition.
      targets: none of them zero.
    """
    n = len(targets)
    square = (singular[:, None] / max(singular.max(initial=0.0), TINY)) ** 2  # at most 1; only s^2 / t matters
    power = (left.T @ targets) ** 2  # [rank, classes]
    total = np.square(targets).sum(0)
    outside = np.maximum(total - power.sum(0), 0.0)  # what no weights explain
    t = np.ones(targets.shape[1])
    for _ in range(STEPS):
        share = square / (square + t)
        effective = share.sum(0)  # gamma, the number of well-determined weights
        weights = (power * share / (square + t)).sum(0)  # |m|^2
        residual = outside + (power * (1 - share) ** 2).sum(0)
        ratio = effective * residual
        floor = np.maximum(ratio / RANGE, TINY)  # weights may be zero
        before, t = t, np.maximum(ratio / np.maximum(weights * (n - effective), floor), 1 / RANGE)
        if (np.abs(t - before) <= CLOSE * before).all():
            break
    quadratic = np.maximum(outside + (power * t / (square + t)).sum(0), total / RANGE)
    return -n / 2 * (np.log(2 * np.pi * quadratic / n) + 1) - np.log1p(square / t).sum(0) / 2
