"""A linear read-out of the classes that a child was trained on (after ProbeX, Horwitz et al. 2024, on Model-J)."""

import numpy as np
from jaxtyping import Bool, Float

SHRINKAGE = 1.0  # of the ridge regression, as a multiple of the mean squared length


def class_precision(features: Float[np.ndarray, "n dim"], known: Bool[np.ndarray, "n classes"], seed: int) -> float:
    """Fits on one half of the children, drawn by `seed`, and returns the mean average precision on the other.

    Children are ranked for each class by how much the read-out thinks that they know it.
    """
    x = features.astype(np.float64)
    order = np.random.default_rng([seed, 63]).permutation(len(x))
    fit, rest = order[: len(x) // 2], order[len(x) // 2 :]
    mean, share = x[fit].mean(0), known[fit].mean(0)
    gram = (x[fit] - mean) @ (x[fit] - mean).T
    gram += SHRINKAGE * np.trace(gram) / len(fit) * np.eye(len(fit))
    scores = (x[rest] - mean) @ (x[fit] - mean).T @ np.linalg.solve(gram, known[fit] - share)
    found = []
    for column, truth in zip(scores.T, known[rest].T, strict=True):
        ranked = truth[np.argsort(-column, kind="stable")]
        if ranked.any():
            places = np.flatnonzero(ranked) + 1
            found.append(np.mean(np.arange(1, len(places) + 1) / places))
    return float(np.mean(found))
