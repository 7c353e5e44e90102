"""Rows in Milvus, on a server or in a file of Milvus Lite.

Written by the store's own client (pymilvus), also at the end of a pipeline. Beam 2.77 has a writer for Milvus
(`apache_beam.ml.rag.ingestion.milvus_search`), which upserts as well, but makes no collection, opens a client for each
batch and writes from all workers at once: Milvus Lite, which belongs to one process at a time, refuses that.

Keys are hashes, never ids: pymilvus 2.6 puts the keys that `get` and `delete` are given into the text of a filter as
they are, so that one with a quote in it would select other rows.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from wsrl.errors import InputError
from wsrl.extras import require
from wsrl.vector_stores.row import NUMBERS, Row, parse_row
from wsrl.vector_stores.vector_store import Bounds

MOST = 16_384  # nearest that Milvus finds at most
PAGE = 1000  # rows asked for at once
COLUMNS = ["model", "has_function"]
LOCKED = "is open already; a file of Milvus Lite belongs to one process at a time"
MEND = "wait until that has ended, or start `milvus-lite server --data-dir {}` and name milvus://localhost:19530"


class Milvus:
    """See `wsrl.vector_stores.vector_store.VectorStore`."""

    kind, most = "Milvus", MOST

    def __init__(self, address: str, local: Path | None, url: str):
        self.address, self.local = address, local
        self.exact = local is not None  # a file is searched whole
        package = require("pymilvus", "milvus")
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # what goes wrong is told by errors
        if local is not None:
            require("milvus_lite", "milvus")
            self._check_lock(local)
        token = os.environ.get("MILVUS_TOKEN", "")
        with self._told():
            self.client: Any = package.MilvusClient(str(local.absolute()) if local else url, token=token)
        self._loaded: set[str] = set()

    def _check_lock(self, local: Path) -> None:
        lock = local / "LOCK"
        if not lock.is_file():
            return
        with open(lock, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(self.address, LOCKED, MEND.format(local)) from error

    @contextmanager
    def _told(self) -> Iterator[None]:
        errors = require("pymilvus.exceptions", "milvus")
        try:
            yield
        except errors.MilvusException as error:
            reason = " ".join(str(error.message).split())[:200]
            fix = "check that it is a store of Milvus Lite" if self.local else "check the address, and MILVUS_TOKEN"
            raise InputError(self.address, f"does not answer ({reason})", fix) from error

    def collections(self) -> list[str]:
        """Returns the names of all collections."""
        with self._told():
            return list(self.client.list_collections())

    def create(self, name: str, weights_dim: int, function_dim: int) -> None:
        """Makes a collection. Every vector is required in Milvus: models without a function have zeros there."""
        kinds = require("pymilvus", "milvus").DataType
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", kinds.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("weights", kinds.FLOAT_VECTOR, dim=weights_dim)
        schema.add_field("function", kinds.FLOAT_VECTOR, dim=function_dim)
        schema.add_field("has_function", kinds.BOOL)
        for column in ("weights_digest", "content_digest"):
            schema.add_field(column, kinds.VARCHAR, max_length=64)
        for column in NUMBERS:
            schema.add_field(column, kinds.DOUBLE, nullable=True)
        schema.add_field("model", kinds.VARCHAR, max_length=65_535)
        indexes = self.client.prepare_index_params()
        for vector in ("weights", "function"):
            kind = "FLAT" if self.exact else "AUTOINDEX"
            indexes.add_index(vector, index_type=kind, metric_type="IP")  # of vectors of length 1, the cosine
        with self._told():
            self.client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")

    def put(self, name: str, rows: Sequence[Row]) -> None:
        """Writes rows."""
        dims = self._dims(name)
        data = [
            {
                "key": row.key, "model": row.text(), "has_function": row.has_function, **row.numbers,
                "weights": row.weights, "function": np.zeros(dims["function"], np.float32) if row.function is None
                else row.function, "weights_digest": row.model.weights_digest,
                "content_digest": row.model.content_digest,
            }
            for row in rows
        ]  # fmt: skip
        with self._told():
            self.client.upsert(name, data)

    def _dims(self, name: str) -> dict[str, int]:
        with self._told():
            fields = self.client.describe_collection(name)["fields"]
        return {field["name"]: int(field["params"]["dim"]) for field in fields if "dim" in field["params"]}

    def delete(self, name: str, keys: Sequence[str]) -> None:
        """Deletes rows."""
        with self._told():
            self.client.delete(name, ids=list(keys))

    def get(self, name: str, keys: Sequence[str], vectors: bool) -> list[Row]:
        """Returns the rows of keys that are there."""
        if not keys:
            return []
        with self._told():
            self._load(name)
            found = self.client.get(name, ids=list(keys), output_fields=_columns(vectors))
        return [_row(entity) for entity in found]

    def of_digest(self, name: str, column: str, digest: str) -> list[Row]:
        """Returns the rows of a digest, which is hexadecimal."""
        with self._told():
            self._load(name)
            columns = _columns(column == "content_digest")
            found = self.client.query(name, filter=f'{column} == "{digest}"', output_fields=columns, limit=PAGE)
        return [_row(entity) for entity in found]

    def nearest(
        self, name: str, kind: str, vector: Float32[np.ndarray, " dim"], count: int, bounds: Bounds, vectors: bool,
        exact: bool,
    ) -> list[tuple[Row, float]]:  # fmt: skip
        """Returns the nearest rows and the cosines; `exact` is what a file does anyway."""
        conditions = ["has_function == true"] if kind == "function" else []
        for column, (low, high) in bounds.items():
            conditions += [f"{column} >= {float(low)!r}"] if low > -np.inf else []
            conditions += [f"{column} <= {float(high)!r}"] if high < np.inf else []
        with self._told():
            self._load(name)
            found = self.client.search(
                name, [vector], anns_field=kind, limit=count, filter=" and ".join(conditions),
                output_fields=_columns(vectors),
            )  # fmt: skip
        return [(_row(hit["entity"]), float(hit["distance"])) for hit in found[0]]

    def rows(self, name: str) -> Iterator[Row]:
        """Yields all rows."""
        with self._told():
            self._load(name)
            pages = self.client.query_iterator(name, batch_size=PAGE, output_fields=COLUMNS)
            while found := pages.next():
                yield from map(_row, found)
            pages.close()

    def counts(self, name: str) -> tuple[int, int]:
        """Returns how many rows there are, and how many have a function vector."""
        with self._told():
            self._load(name)
            found = [
                self.client.query(name, filter=asked, output_fields=["count(*)"])
                for asked in ("", "has_function == true")
            ]
        return int(found[0][0]["count(*)"]), int(found[1][0]["count(*)"])

    def _load(self, name: str) -> None:
        if name not in self._loaded:
            self.client.load_collection(name)
            self._loaded.add(name)

    def close(self) -> None:
        """Closes the client; a file can then be opened by another process."""
        self.client.close()
        if self.local is not None:  # closing the client leaves the file with this process
            manager = require("milvus_lite.server_manager", "milvus").server_manager_instance
            manager.release_server(str(self.local.absolute()))


def _columns(vectors: bool) -> list[str]:
    return [*COLUMNS, "weights", "function"] if vectors else COLUMNS


def _row(entity: dict[str, Any]) -> Row:
    return parse_row(entity["model"], entity.get("weights"), entity.get("function"), entity["has_function"])
