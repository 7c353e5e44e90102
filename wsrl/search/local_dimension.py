"""The local intrinsic dimension of unit vectors: how fast the number of neighbors grows with their distance."""

import numpy as np
from jaxtyping import Float, Int64

SAMPLE = 64  # vectors that it is estimated by
NEIGHBORS = 100  # of each
LEAST_DISTANCE = 1e-3  # of neighbors that tell something of it: nearer ones are copies


def sampled_rows(count: int) -> Int64[np.ndarray, " sample"]:
    """Returns the rows of those of `count` vectors that the dimension is estimated by."""
    return np.sort(np.random.default_rng(1).permutation(count)[:SAMPLE])


def local_dimension(squared: Float[np.ndarray, "sample neighbors"]) -> float:
    """Returns the estimate.

    The maximum-likelihood estimate of Levina and Bickel (2004), averaged as MacKay and Ghahramani (2005) propose.

    Args:
      squared: squared distances of vectors to their neighbors but themselves, ascending.
    """
    distance = np.sqrt(np.maximum(squared.astype(float), LEAST_DISTANCE**2))
    neighbors = distance.shape[1]
    mean = np.log(distance[:, -1:] / distance).mean() * (neighbors + 1) / max(neighbors, 1) if neighbors else 0.0
    return float(1 / max(mean, 1e-9))
