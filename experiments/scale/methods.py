"""What is compared: the search of wsrl, and libraries of nearest-neighbor search where they are installed."""

import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from wsrl.search.fixed_point import single
from wsrl.search.graph import Graph
from wsrl.search.hashed import Hashed
from wsrl.search.segment import Segment, build_candidates

Search = Callable[[Float32[np.ndarray, "q dim"], int], Int[np.ndarray, "q k"]]
Built = tuple[Callable[[Any], Search], Sequence[Any]]  # a search by a setting, and settings, the fastest first
BLOCK = 65_536  # vectors
THREADS = os.cpu_count() or 1
EFFORT = (64, 128, 256, 512, 1024)  # length of the list of candidates of a graph


class Method(NamedTuple):
    """A way to search.

    Attributes:
      module: that it needs.
      build: makes it of vectors in sixteen bits.
    """

    module: str
    build: Callable[[np.ndarray], Built]

    @property
    def installed(self) -> bool:
        """Whether its module is there."""
        return find_spec(self.module) is not None


def _own(make: Callable[[Any], Any]) -> Callable[[np.ndarray], Built]:
    def build(vectors: np.ndarray) -> Built:
        segment = Segment(vectors, make)
        _ = segment.candidates  # made now
        return lambda _: lambda queries, k: segment.search(queries, k)[0], (None,)

    return build


def _faiss_hnsw(vectors: np.ndarray) -> Built:
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(whole(vectors))

    def search(effort: int) -> Search:
        index.hnsw.efSearch = effort
        return lambda queries, k: index.search(queries, k)[1]

    return search, EFFORT


def _faiss_ivf(vectors: np.ndarray) -> Built:
    import faiss

    lists = round(4 * len(vectors) ** 0.5)
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    own = whole(vectors)
    index.train(own[:: max(1, len(own) // (40 * lists))])
    index.add(own)

    def search(share: float) -> Search:
        index.nprobe = max(1, round(share * lists))
        return lambda queries, k: index.search(queries, k)[1]

    return search, (0.01, 0.03, 0.1, 0.3, 0.6)


def _usearch(vectors: np.ndarray) -> Built:
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="i8", connectivity=16, expansion_add=100)
    index.add(np.arange(len(vectors)), whole(vectors), threads=THREADS)

    def search(effort: int) -> Search:
        index.expansion_search = effort
        return lambda queries, k: np.asarray(index.search(queries, k).keys).reshape(len(queries), k).astype(np.int64)

    return search, EFFORT


def _ngt(vectors: np.ndarray) -> Built:
    import ngtpy

    folder = tempfile.mkdtemp(prefix="scale-ngt-")
    ngtpy.create(folder.encode(), vectors.shape[1], distance_type="Normalized Cosine")
    index = ngtpy.Index(folder.encode())
    index.batch_insert(whole(vectors), THREADS)

    def search(epsilon: float) -> Search:
        def found(queries: Float32[np.ndarray, "q dim"], k: int) -> Int[np.ndarray, "q k"]:
            rows = np.zeros((len(queries), k), np.int64)
            for place, query in enumerate(queries):
                own = [row for row, _ in index.search(query, k, epsilon)]
                rows[place, : len(own)] = own
            return rows

        return found

    return search, (0.05, 0.1, 0.2, 0.4)


def _rabitqlib(vectors: np.ndarray) -> Built:
    import rabitqlib

    graph = rabitqlib.SymqgIndex(vectors.shape[1], 32, "l2")
    graph.build(whole(vectors), 100, THREADS)

    def search(effort: int) -> Search:
        return lambda queries, k: np.asarray(
            graph.search_batch(queries, k, effort, min(THREADS, len(queries)))[0], np.int64
        ).reshape(len(queries), k)

    return search, EFFORT


def whole(vectors: np.ndarray) -> Float32[np.ndarray, "n dim"]:
    """Returns vectors in single precision, converted a block at a time."""
    found = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), BLOCK):
        found[start : start + BLOCK] = single(vectors[start : start + BLOCK])
    return found


METHODS = {
    "wsrl": Method("wsrl", _own(build_candidates)),
    "wsrl hashes": Method("scann", _own(Hashed)),
    "wsrl graph": Method("rabitqlib", _own(Graph.build)),
    "faiss HNSW": Method("faiss", _faiss_hnsw),
    "faiss IVF": Method("faiss", _faiss_ivf),
    "usearch": Method("usearch", _usearch),
    "ngt": Method("ngtpy", _ngt),
    "rabitqlib": Method("rabitqlib", _rabitqlib),
}
OWN = ("wsrl", "wsrl hashes", "wsrl graph")
