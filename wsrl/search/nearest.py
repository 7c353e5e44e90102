"""Nearest neighbors by cosine similarity among the embeddings of a zoo.

ScaNN (Guo et al. 2020) does the search. Some of its habits would go unnoticed, so `NearestNeighbors` guards against
them: it accepts NaN vectors, pickles its ids on disk and stores absolute paths; a tree over few vectors fails
or gives too few hits, and k beyond the number of reordered candidates pads the hits with NaN. Here the file
holds vectors and ids alone, and the searcher is built again when it is first used.
"""

import functools
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Float, Int

from wsrl.errors import InputError
from wsrl.files import write_atomically

FILE = "index.safetensors"
FORMAT = "wsrl-index-1"
BRUTE_FORCE_BELOW = 20_000  # vectors; exact search is fast enough
TREE_FROM = 3_000_000  # vectors; below, hashed scores of all vectors are affordable

# Long vectors are searched by their principal components first, and what is found is compared by the whole vectors.
# Of a million embeddings resampled with the spread of 20,000 trained models (1,024 dimensions), the first 8,000 of a
# hash of 128 blocks hold .991 of the 10 nearest if it has 2 of 256 components a block, .994 if 3 of 384, .988 if 4 of
# 512; by these components, in 8 bits, the first 800 hold .957, .991 and .988. ScaNN's anisotropic loss, meant for
# neighbors that lie nearer, takes .01 off. A tree is faster, but few of the nearest lie in its nearest leaves.
COMPONENTS = 384  # that are hashed, at most
BLOCK_DIMENSIONS = 3  # that are hashed together
CANDIDATES = 100  # compared by the whole vectors, at least
CANDIDATES_A_ROOT = 0.8  # or more among many vectors, times the square root of their number,
CANDIDATES_A_HIT = 4  # or where many hits are asked for
HASHED_A_CANDIDATE = 12  # hits of the hash that are compared by all components, in 8 bits
LEAVES = 2.0  # of the tree, times the square root of the number of vectors
SEARCHED_LEAVES = 0.5  # of them
LEAF_SAMPLE = 125  # vectors a leaf to train the tree
HASH_SAMPLE = 20_000  # vectors to train the hash
AXES_SAMPLE = 20_000  # vectors that the components are those of
COMPARED_BLOCK = 128  # candidates a product: so few that BLAS does not split it among threads of its own
EXACT_BLOCK = 1024  # queries compared with all vectors at once
UNIT_BLOCK = 16_384  # vectors scaled in float64 at once


@functools.cache
def scann() -> Any | None:
    """Returns the module of ScaNN's searchers, loaded when it is first needed; None where there is no wheel."""
    try:
        from scann import scann_ops_pybind
    except ImportError:  # NumPy stands in
        return None
    return scann_ops_pybind


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
        """What answers queries: numpy, scann brute force, scann hashing or scann tree and hashing."""
        if not scann():
            return "numpy"
        if self.exact or len(self.ids) < BRUTE_FORCE_BELOW:
            return "scann brute force"
        return "scann hashing" if len(self.ids) < TREE_FROM else "scann tree and hashing"

    def compared(self, k: int) -> int:
        """How many vectors are compared whole for k hits; the others are left aside by their hashes."""
        count = len(self.ids)
        return count if "hashing" not in self.backend else min(count, max(self._candidates, CANDIDATES_A_HIT * k))

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
        k = min(k, len(self.ids))
        if self._searcher is None or not len(queries):
            return self._search_exactly(queries, k)
        if self.backend == "scann brute force":
            rows, similarity = self._searcher.search_batched_parallel(queries, final_num_neighbors=k)
            return rows.astype(np.int64), np.clip(similarity, -1, 1)
        candidates = min(len(self.ids), max(self._candidates, CANDIDATES_A_HIT * k))
        hashed = queries if self._axes is None else queries @ self._axes
        rows, found = self._searcher.search_batched_parallel(
            hashed, final_num_neighbors=candidates, pre_reorder_num_neighbors=HASHED_A_CANDIDATE * candidates
        )
        there = ~np.isnan(found)
        rows, similarity = self._compare(queries, np.where(there, rows, 0).astype(np.int64), there, k)
        short = np.isinf(similarity).any(axis=1)  # the searched leaves held fewer than k vectors
        if short.any():
            rows[short], similarity[short] = self._search_exactly(queries[short], k)
        return rows, similarity

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

    @functools.cached_property
    def _searcher(self) -> Any | None:
        library: Any = scann()
        if not library:
            return None
        count = len(self.ids)
        if self.backend == "scann brute force":
            exact: Any = library.builder(self.vectors, min(10, count), "dot_product")
            return exact.score_brute_force().build()
        hashed = self.vectors if self._axes is None else self.vectors @ self._axes
        builder: Any = library.builder(hashed, self._candidates, "dot_product")
        if self.backend == "scann tree and hashing":
            leaves = round(LEAVES * count**0.5)
            searched = round(SEARCHED_LEAVES * leaves)
            builder = builder.tree(leaves, searched, training_sample_size=min(count, LEAF_SAMPLE * leaves))
        hashing = builder.score_ah(BLOCK_DIMENSIONS, training_sample_size=min(count, HASH_SAMPLE))
        return hashing.reorder(HASHED_A_CANDIDATE * self._candidates, quantize=True).build()

    @property
    def _candidates(self) -> int:
        return max(CANDIDATES, round(CANDIDATES_A_ROOT * len(self.ids) ** 0.5))

    @functools.cached_property
    def _axes(self) -> Float[np.ndarray, "dim components"] | None:
        """Axes of the principal components of a sample about the origin, which keep inner products; None for all."""
        if self.vectors.shape[1] <= COMPONENTS:
            return None
        places = np.random.default_rng(0).permutation(len(self.vectors))[:AXES_SAMPLE]
        sample = self.vectors[np.sort(places)]
        return np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :COMPONENTS].astype(np.float32)

    def _compare(
        self,
        queries: Float[np.ndarray, "q dim"],
        candidates: Int[np.ndarray, "q c"],
        there: Bool[np.ndarray, "q c"],
        k: int,
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        """The k nearest of each query's candidates that are there; minus infinity where there are fewer."""
        blocks = range(0, candidates.shape[1], COMPARED_BLOCK)

        def compare(own: Int[np.ndarray, " c"], query: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " c"]:
            return np.concatenate([self.vectors[own[start : start + COMPARED_BLOCK]] @ query for start in blocks])

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy does not hold the interpreter meanwhile
            products = list(pool.map(compare, candidates, queries))
        product = np.where(there, np.clip(products, -1, 1), -np.inf)
        best = np.argsort(-product, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(product, best, axis=1)

    def _search_exactly(
        self, queries: Float[np.ndarray, "q dim"], k: int
    ) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
        rows = np.empty((len(queries), k), np.int64)
        similarity = np.empty((len(queries), k), np.float32)
        for start in range(0, len(queries), EXACT_BLOCK):
            block = slice(start, start + EXACT_BLOCK)
            product = queries[block] @ self.vectors.T
            nearest = np.argpartition(product, -k, axis=1)[:, -k:]
            found = np.take_along_axis(product, nearest, axis=1)
            best = np.lexsort((nearest, -found))
            rows[block] = np.take_along_axis(nearest, best, axis=1)
            similarity[block] = np.clip(np.take_along_axis(found, best, axis=1), -1, 1)
        return rows, similarity


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
