"""Nearest neighbors by cosine similarity among embeddings with ids, in memory and in one file."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Int

from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.search.segment import Segment

FILE = "index.safetensors"
FORMAT = "wsrl-index-1"
UNIT_BLOCK = 16_384  # vectors scaled in float64 at once


@dataclass(frozen=True)
class NearestNeighbors:
    """Unit vectors with ids. Build one with `NearestNeighbors.build` or `NearestNeighbors.load`.

    Attributes:
      vectors: float32 unit vectors.
      ids: model id of each vector, all different.
      encoder_hash: of the encoder that made the vectors.
      exact: never approximate, whatever the number of vectors.
    """

    vectors: Float[np.ndarray, "n dim"]
    ids: list[str]
    encoder_hash: str = ""
    exact: bool = False

    @classmethod
    def build(
        cls,
        embeddings: Float[np.ndarray, "n dim"],
        ids: Sequence[str],
        encoder_hash: str = "",
        exact: bool = False,
    ) -> "NearestNeighbors":
        """An index of the embeddings, which are scaled to unit length.

        Raises:
          InputError: no vector, ids of another number or repeated, a vector that is zero or not finite (the
            error names its id).
        """
        ids = list(ids)
        if np.ndim(embeddings) != 2 or len(embeddings) != len(ids) or not len(ids):
            raise InputError(
                "index",
                f"embeddings of shape {np.shape(embeddings)} for {len(ids)} ids",
                "give one row for each id",
            )
        repeated = [name for name, times in Counter(ids).items() if times > 1]
        if repeated:
            raise InputError("index", f"id {repeated[0]!r} appears more than once", "give every model its own id")
        return cls(_unit(embeddings, ids), ids, encoder_hash, exact)

    @property
    def backend(self) -> str:
        """What answers queries: exact, or candidates of a graph or of hashes."""
        candidates = None if self.exact else self._segment.candidates
        return candidates.name if candidates else "exact"

    def compared(self, k: int) -> int:
        """How many vectors are compared whole for k hits."""
        return len(self.ids) if self.exact else self._segment.compared(k)

    def search(
        self, queries: Float[np.ndarray, "q dim"], k: int
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        """The k nearest vectors of each query.

        Args:
          queries: vectors of any length but zero.
          k: number of hits, at least 1; more than n gives n.

        Returns:
          Row numbers (int64, into `ids`) and cosine similarities (float32), best first.

        Raises:
          InputError: a query is zero or not finite, has another dimension, or k is not positive.
        """
        if k < 1:
            raise InputError("query", f"k is {k}", "ask for at least one hit")
        if np.ndim(queries) != 2 or np.shape(queries)[1] != self.vectors.shape[1]:
            reason = f"shape {np.shape(queries)} does not fit vectors of {self.vectors.shape[1]} dimensions"
            raise InputError("query", reason, "embed queries with the encoder of the index")
        queries = _unit(queries, [f"row {row}" for row in range(len(queries))])
        return self._segment.search(queries, k, exact=self.exact)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes one file into the directory, atomically; ids stand as JSON in its header."""
        metadata = {
            "format": FORMAT,
            "encoder_hash": json.dumps(self.encoder_hash),
            "exact": json.dumps(self.exact),
            "ids": json.dumps(self.ids),
        }
        write_atomically(Path(directory) / FILE, safetensors.numpy.save({"vectors": self.vectors}, metadata))

    @classmethod
    def load(cls, directory: str | os.PathLike[str], encoder_hash: str | None = None) -> "NearestNeighbors":
        """Reads the index that `save` wrote.

        Args:
          directory: where `save` wrote it.
          encoder_hash: of the encoder that will make the queries; None skips the comparison.

        Raises:
          InputError: the file is missing or damaged, or another encoder filled it.
        """
        path = Path(directory) / FILE
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(path, f"format {metadata.get('format')!r}", f"build an index of {FORMAT}")
                vectors = file.get_tensor("vectors")
            ids, exact, stored = (json.loads(metadata[key]) for key in ("ids", "exact", "encoder_hash"))
            if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
                raise InputError(path, "its ids are no list of texts", "build the index again")
        except FileNotFoundError as error:
            raise InputError(path, "no such file", "build the index first") from error
        except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(path, f"damaged ({error})", "build the index again") from error
        if encoder_hash is not None and encoder_hash != stored:
            reason = f"filled by encoder {stored!r}, not {encoder_hash!r}"
            raise InputError(path, reason, "build the index again with this encoder")
        try:
            return cls.build(vectors, ids, stored, exact)
        except InputError as error:
            raise InputError(path, f"damaged ({error})", "build the index again") from error

    @cached_property
    def _segment(self) -> Segment:
        return Segment(self.vectors)


def _unit(vectors: Float[np.ndarray, "n dim"], names: Sequence[str]) -> Float[np.ndarray, "n dim"]:
    """The vectors as float32 of unit length. Raises InputError with the name of one that has none."""
    unit = np.empty(np.shape(vectors), np.float32)
    for start in range(0, len(vectors), UNIT_BLOCK):
        block = slice(start, start + UNIT_BLOCK)
        exact = np.asarray(vectors[block], dtype=np.float64)
        finite = np.isfinite(exact).all(axis=1)
        if not finite.all():
            name = names[start + int(np.argmin(finite))]
            raise InputError(name, "its vector is not finite", "leave it out or embed it again")
        largest = np.abs(exact).max(axis=1, keepdims=True, initial=0)
        if not largest.all():
            name = names[start + int(np.argmin(largest))]
            raise InputError(name, "its vector is zero", "leave it out or embed it again")
        exact = exact / largest  # so that squares neither overflow nor vanish
        unit[block] = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return unit
