"""Principal components: what long vectors are searched by first, before what is found is compared by whole vectors."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from wsrl.search.fixed_point import single

SAMPLE = 20_000  # vectors that the components are those of
BLOCK = 16_384  # vectors projected at once


@runtime_checkable
class Vectors(Protocol):
    """Vectors of length 1 that are read where they are indexed: an array, or what acts as one; see `fixed_point`."""

    @property
    def dtype(self) -> np.dtype:
        """Their precision."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Their number and their dimensions."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


def principal_axes(vectors: Vectors, components: int) -> Float32[np.ndarray, "dim components"]:
    """Returns axes of the leading principal components of a sample about the origin, which keep inner products.

    Args:
      vectors: a sample of them is read.
      components: at most as many as there are dimensions.
    """
    places = np.random.default_rng(0).permutation(len(vectors))[:SAMPLE]
    sample = single(vectors[np.sort(places)])
    return np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :components].astype(np.float32)


def project(vectors: Vectors, axes: Float32[np.ndarray, "dim components"]) -> Float32[np.ndarray, "n components"]:
    """Returns the components of vectors, which are read a block at a time."""
    found = np.empty((len(vectors), axes.shape[1]), np.float32)
    for start in range(0, len(vectors), BLOCK):
        found[start : start + BLOCK] = single(vectors[start : start + BLOCK]) @ axes
    return found
