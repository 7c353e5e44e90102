"""Candidates by ScaNN (Guo et al. 2020): hashes of all vectors, then their components in eight bits.

Some habits of ScaNN would go unnoticed, so this module guards against them: it accepts NaN vectors, pickles its ids on
disk and stores absolute paths, and fewer hits than were asked for are filled up with NaN. Here it is given checked
vectors without ids, and is built again when it is first used.
"""

import functools
import os
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from wsrl.search.components import Vectors, principal_axes, project

# Of a million embeddings resampled with the spread of 20,000 trained models (1,024 dimensions), the first 8,000 of a
# hash of 128 blocks hold .991 of the 10 nearest if it has 2 of 256 components a block, .994 if 3 of 384, .988 if 4 of
# 512; by these components, in 8 bits, the first 800 hold .957, .991 and .988. ScaNN's anisotropic loss, meant for
# neighbors that lie nearer, takes .01 off.
COMPONENTS = 384  # that are hashed, at most
BLOCK_DIMENSIONS = 3  # that are hashed together
HASHED_A_CANDIDATE = 12  # hits of the hash that are compared by all components, in 8 bits
CANDIDATES = 150  # at least,
CANDIDATES_A_ROOT = 0.8  # or more among many vectors, times the square root of their number
HASH_SAMPLE = 20_000  # vectors to train the hash


@functools.cache
def scann() -> Any | None:
    """Returns the module of ScaNN's searchers, loaded when it is first needed; None where there is no wheel."""
    try:
        from scann import scann_ops_pybind
    except ImportError:
        return None
    return scann_ops_pybind


class Hashed:
    """Hashes of the principal components of vectors, all of which are scanned for each query.

    Args:
      vectors: all are read once.
    """

    name = "hashes"

    def __init__(self, vectors: Vectors):
        self._axes = principal_axes(vectors, min(COMPONENTS, vectors.shape[1]))
        self._count = len(vectors)
        library: Any = scann()
        builder = library.builder(project(vectors, self._axes), 1, "dot_product")
        hashing = builder.score_ah(BLOCK_DIMENSIONS, training_sample_size=min(self._count, HASH_SAMPLE))
        self._searcher = hashing.reorder(HASHED_A_CANDIDATE, quantize=True).build()
        self._searcher.set_num_threads(os.cpu_count() or 1)

    @property
    def least(self) -> int:
        """How many candidates hold the nearest few."""
        return max(CANDIDATES, round(CANDIDATES_A_ROOT * self._count**0.5))

    def find(
        self, queries: Float32[np.ndarray, "q dim"], count: int
    ) -> tuple[Int64[np.ndarray, "q count"], Float32[np.ndarray, "q count"]]:
        """Returns rows that may be nearest to each query, in any order, and zeros."""
        count = min(count, self._count)
        rows, scores = self._searcher.search_batched_parallel(
            queries @ self._axes,
            final_num_neighbors=count,
            pre_reorder_num_neighbors=min(self._count, HASHED_A_CANDIDATE * count),
        )
        return np.where(np.isnan(scores), -1, rows.astype(np.int64)), np.zeros(rows.shape, np.float32)
