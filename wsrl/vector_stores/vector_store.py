"""What `StoreIndex` asks of a vector store, and the addresses of stores."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float32

from wsrl.errors import InputError
from wsrl.search.manifest import MANIFEST
from wsrl.vector_stores.row import Row

SCHEMES = ("milvus", "qdrant")
LITE = ".db"
NAME = "wsrl"  # of an index that its address does not name
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


def is_address(name: str | Path) -> bool:
    """Whether a name stands for a vector store rather than for a folder."""
    text = str(name)
    if text.partition("://")[0] in SCHEMES and "://" in text:
        return True
    return text.endswith(LITE) and not (Path(text) / MANIFEST).is_file()


def connect(address: str, make: bool) -> tuple[VectorStore, str]:
    """Returns the store of an address, and the name of the index in it.

    Args:
      address: see `wsrl.vector_stores`.
      make: make a local store that is not there.

    Raises:
      InputError: the package of the store is missing, the store is not there or does not answer, or another process
        holds a local one.
    """
    scheme, _, rest = address.partition("://") if "://" in address else ("milvus", "", address)
    place = urlsplit(f"//{rest}" if "://" in address and not rest.startswith("/") else "")
    local = None if place.netloc else Path(rest)
    if local is not None and not make and not local.exists():
        raise InputError(address, "is not there", "make it with `wsrl index`, or check the path")
    if local is not None:
        local.absolute().parent.mkdir(parents=True, exist_ok=True)
    url = f"{os.environ.get(f'{scheme.upper()}_URL_SCHEME', 'http')}://{place.netloc}"
    name = place.path.strip("/") or NAME
    if not name.isidentifier():
        raise InputError(address, f"names an index {name!r}", "use letters, digits and _")
    if scheme == "milvus":
        from wsrl.vector_stores.milvus import Milvus

        return Milvus(address, local, url), name
    from wsrl.vector_stores.qdrant import Qdrant

    return Qdrant(address, local, url), name
