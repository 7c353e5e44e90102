"""Rows in Qdrant, on a server or in a folder of its own in this process.

Written by the store's own client (qdrant-client), also at the end of a pipeline. Beam 2.77 has a writer for Qdrant
(`apache_beam.ml.rag.ingestion.qdrant`), whose points have one dense vector; models have two, and a second point of the
same key would take the place of the first.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from wsrl.checkpoint import one_line
from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.vector_stores.row import Row, parse_row
from wsrl.vector_stores.vector_store import Bounds

PAGE = 1000  # rows asked for at once
LOCKED = "is open already; a folder of Qdrant belongs to one process at a time"


class Qdrant:
    """See `wsrl.vector_stores.vector_store.VectorStore`."""

    kind, most, exact = "Qdrant", 1_000_000, True

    def __init__(self, address: str, local: Path | None, url: str):
        self.address, self.local = address, local
        package = require("qdrant_client", "qdrant")
        self.models: Any = package.models
        try:
            with self._told():
                where: dict[str, Any] = {"path": str(local)} if local else {"url": url}
                self.client: Any = package.QdrantClient(**where, api_key=os.environ.get("QDRANT_API_KEY") or None)
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
            raise InputError(address, LOCKED, "wait until that has ended, or use a server of Qdrant") from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        errors = require("qdrant_client.http.exceptions", "qdrant")
        try:
            yield
        except (errors.ResponseHandlingException, errors.UnexpectedResponse, OSError) as error:
            fix = "check the address, and QDRANT_API_KEY"
            raise InputError(self.address, f"does not answer ({one_line(error)})", fix) from error

    def collections(self) -> list[str]:
        """Returns the names of all collections."""
        with self._told():
            return [found.name for found in self.client.get_collections().collections]

    def create(self, name: str, weights_dim: int, function_dim: int) -> None:
        """Makes a collection; points may be without one of the two vectors."""
        params, cosine = self.models.VectorParams, self.models.Distance.DOT  # of vectors of length 1
        dims = {"weights": weights_dim, "function": function_dim}
        with self._told():
            self.client.create_collection(name, {kind: params(size=dim, distance=cosine) for kind, dim in dims.items()})
            if self.local is None:  # a folder has no indexes of payloads
                for column in ("weights_digest", "content_digest"):
                    self.client.create_payload_index(name, column, self.models.PayloadSchemaType.KEYWORD)

    def put(self, name: str, rows: Sequence[Row]) -> None:
        """Writes rows."""
        points = []
        for row in rows:
            about = {"weights_digest": row.model.weights_digest, "content_digest": row.model.content_digest}
            payload = {"model": row.text(), "has_function": row.has_function, **row.numbers, **about}
            vectors = {"weights": row.weights, "function": row.function}
            own = {kind: vector.tolist() for kind, vector in vectors.items() if vector is not None}
            points.append(self.models.PointStruct(id=_id(row.key), vector=own, payload=payload))
        with self._told():
            self.client.upsert(name, points, wait=True)

    def delete(self, name: str, keys: Sequence[str]) -> None:
        """Deletes rows."""
        with self._told():
            self.client.delete(name, self.models.PointIdsList(points=list(map(_id, keys))), wait=True)

    def get(self, name: str, keys: Sequence[str], vectors: bool) -> list[Row]:
        """Returns the rows of keys that are there."""
        with self._told():
            found = self.client.retrieve(name, list(map(_id, keys)), with_vectors=vectors)
        return list(map(_row, found))

    def of_digest(self, name: str, column: str, digest: str) -> list[Row]:
        """Returns the rows of a digest."""
        match = self.models.FieldCondition(key=column, match=self.models.MatchValue(value=digest))
        with self._told():
            asked = self.models.Filter(must=[match])
            found, _ = self.client.scroll(name, asked, limit=PAGE, with_vectors=column == "content_digest")
        return list(map(_row, found))

    def nearest(
        self, name: str, kind: str, vector: Float32[np.ndarray, " dim"], count: int, bounds: Bounds, vectors: bool,
        exact: bool,
    ) -> list[tuple[Row, float]]:  # fmt: skip
        """Returns the nearest rows and the cosines."""
        ranges = [
            self.models.FieldCondition(key=column, range=self.models.Range(gte=_finite(low), lte=_finite(high)))
            for column, (low, high) in bounds.items()
        ]
        params = self.models.SearchParams(exact=exact)
        with self._told():
            found = self.client.query_points(
                name, query=vector.tolist(), using=kind, limit=count, with_vectors=vectors, search_params=params,
                query_filter=self.models.Filter(must=ranges) if ranges else None,
            ).points  # fmt: skip
        return [(_row(point), float(point.score)) for point in found]

    def rows(self, name: str) -> Iterator[Row]:
        """Yields all rows."""
        after = None
        while True:
            with self._told():
                found, after = self.client.scroll(name, limit=PAGE, offset=after)
            yield from map(_row, found)
            if after is None:
                return

    def counts(self, name: str) -> tuple[int, int]:
        """Returns how many rows there are, and how many have a function vector."""
        own = self.models.FieldCondition(key="has_function", match=self.models.MatchValue(value=True))
        with self._told():
            functions = self.client.count(name, self.models.Filter(must=[own])).count
            return int(self.client.count(name).count), int(functions)

    def close(self) -> None:
        """Closes the client; a folder can then be opened by another process."""
        self.client.close()


def _id(key: str) -> str:
    return str(uuid.UUID(key))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _row(point: Any) -> Row:
    payload, vectors = point.payload, point.vector or {}
    return parse_row(payload["model"], vectors.get("weights"), vectors.get("function"), payload["has_function"])
