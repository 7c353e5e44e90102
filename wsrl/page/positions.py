"""Where models lie on a map: similar ones near one another."""

import numpy as np
from jaxtyping import Float, Float32
from threadpoolctl import threadpool_limits

from wsrl.extras import require

SAMPLE = 3000  # models that t-SNE arranges; the others are laid among these
NEAR = 3  # arranged models that another one is laid between
BLOCK = 1024  # of the others, compared with the sample at once
PERPLEXITY = 30.0
STEPS = 500


def positions(
    vectors: Float[np.ndarray, "n dim"], seed: int = 0, sample: int = SAMPLE
) -> Float32[np.ndarray, "n 2"] | None:
    """Arranges vectors in the plane by t-SNE (van der Maaten and Hinton 2008).

    The time of t-SNE grows faster than the number of vectors, so it arranges a sample. Every other vector is laid at
    the mean of the places of its nearest ones in the sample.

    Args:
      vectors: of length 1.
      seed: of the sample and of the arrangement.
      sample: vectors that are arranged by t-SNE.

    Returns:
      Two coordinates a vector; None with fewer than five different vectors, which have no map.

    Raises:
      InputError: scikit-learn is not installed.
    """
    manifold = require("sklearn.manifold", "report")
    chosen = np.sort(np.random.default_rng(seed).choice(len(vectors), min(sample, len(vectors)), replace=False))
    arranged = vectors[chosen]
    if len(np.unique(arranged, axis=0)) < 5:
        return None
    tsne = manifold.TSNE(
        init="pca" if arranged.shape[1] > 1 else "random",
        perplexity=min(PERPLEXITY, (len(arranged) - 1) / 3),
        max_iter=STEPS,
        random_state=seed,
    )
    with threadpool_limits(1):  # the same map on every machine, and no waiting for a busy core
        places = tsne.fit_transform(arranged).astype(np.float32)
    if len(arranged) == len(vectors):
        return places
    found = np.empty((len(vectors), 2), np.float32)
    for start in range(0, len(vectors), BLOCK):
        similar = vectors[start : start + BLOCK] @ arranged.T
        near = np.argpartition(-similar, NEAR - 1, axis=1)[:, :NEAR]
        found[start : start + BLOCK] = places[near].mean(axis=1)
    found[chosen] = places
    return found
