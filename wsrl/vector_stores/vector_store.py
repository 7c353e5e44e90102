"""What `StoreIndex` asks of a vector store."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from wsrl.vector_stores.row import Row

Bounds = Mapping[str, tuple[float, float]]  # key of `row.NUMBERS` -> least and greatest value


@runtime_checkable
class VectorStore(Protocol):
    """Rows by their keys, in collections, one for each encoder. Methods raise InputError where it does not answer.

    Attributes:
      address: as it was given.
      kind: its name.
      most: nearest rows that it finds at most.
      exact: whether it can compare a vector with all.
    """

    address: str
    kind: str
    most: int
    exact: bool

    def collections(self) -> list[str]:
        """Returns the names of all collections."""
        ...

    def create(self, name: str, weights_dim: int, function_dim: int) -> None:
        """Makes a collection of vectors of length 1, compared by their cosine."""
        ...

    def put(self, name: str, rows: Sequence[Row]) -> None:
        """Writes rows, in place of any of the same keys; searches see them from then on."""
        ...

    def delete(self, name: str, keys: Sequence[str]) -> None:
        """Deletes rows."""
        ...

    def get(self, name: str, keys: Sequence[str], vectors: bool) -> list[Row]:
        """Returns the rows of keys that are there."""
        ...

    def of_digest(self, name: str, column: str, digest: str) -> list[Row]:
        """Returns rows, without vectors, of one `weights_digest`, or with vectors of one `content_digest`."""
        ...

    def nearest(
        self,
        name: str,
        kind: str,
        vector: Float32[np.ndarray, " dim"],
        count: int,
        bounds: Bounds,
        vectors: bool,
        exact: bool,
    ) -> list[tuple[Row, float]]:
        """Returns the rows whose vector of a kind is nearest, nearest first, with the cosines."""
        ...

    def rows(self, name: str) -> Iterator[Row]:
        """Yields all rows, without vectors."""
        ...

    def counts(self, name: str) -> tuple[int, int]:
        """Returns how many rows there are, and how many have a function vector."""
        ...

    def close(self) -> None:
        """Gives the store back to other processes."""
        ...
