"""What is compared: the search of wsrl, and libraries of nearest-neighbor search where they are installed.

A graph of wsrl is made once and kept beside its data; the process that searches reads it, as that of an index does.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from experiments.scale.datasets import Dataset
from wsrl.search.components import Vectors
from wsrl.search.fixed_point import single
from wsrl.search.graph import Graph
from wsrl.search.hashed import Hashed
from wsrl.search.segment import BRUTE_FORCE_BELOW, GRAPH_DIMENSION, Segment, build_candidates

Search = Callable[[Float32[np.ndarray, "q dim"], int], Int[np.ndarray, "q k"]]
Built = tuple[Callable[[Any], Search], Sequence[Any]]  # a search by a setting, and settings, the fastest first
BLOCK = 65_536  # vectors
THREADS = os.cpu_count() or 1
EFFORT = (64, 128, 256, 512, 1024)  # length of the list of candidates of a graph


class Method(NamedTuple):
    """A way to search.

    Attributes:
      module: that it needs.
      build: makes it of a data set.
      prepare: makes files before, beside the data, that `build` reads.
    """

    module: str
    build: Callable[[Dataset], Built]
    prepare: Callable[[Dataset], None] | None = None

    @property
    def installed(self) -> bool:
        """Whether its module is there."""
        return find_spec(self.module) is not None


class OwnSearch(NamedTuple):
    """The search of wsrl."""

    segment: Segment

    def __call__(self, queries: Float32[np.ndarray, "q dim"], k: int) -> Int[np.ndarray, "q k"]:
        """Returns rows of the nearest, best first."""
        return self.segment.search(queries, k)[0]


def _own(make: Callable[[Dataset], Callable[[Any], Any]]) -> Callable[[Dataset], Built]:
    def build(data: Dataset) -> Built:
        search = OwnSearch(Segment(data.vectors, make(data)))
        _ = search.segment.candidates  # made now
        return lambda _: search, (None,)

    return build


def graph_files(data: Dataset) -> tuple[Path, Path]:
    """The files of the graph of a data set."""
    return data.folder / "vectors.graph", data.folder / "vectors.axes.npy"


def _make_graph(data: Dataset) -> None:
    Graph.build(data.vectors).save(graph_files(data))


def _graph_reader(data: Dataset) -> Callable[[Any], Graph]:
    return lambda vectors: Graph.load(graph_files(data), vectors)


def own_choice(data: Dataset) -> str:
    """The name of the method that an index takes for such vectors."""
    every, hashes, graph = OWN
    large, low = len(data.vectors) >= BRUTE_FORCE_BELOW, data.about["dimension"] <= GRAPH_DIMENSION
    if large and METHODS[graph].installed and (low or not METHODS[hashes].installed):
        return graph
    return hashes if large and METHODS[hashes].installed else every


def _faiss_hnsw(data: Dataset) -> Built:
    import faiss

    index = faiss.IndexHNSWFlat(data.vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(whole(data.vectors))

    def search(effort: int) -> Search:
        index.hnsw.efSearch = effort
        return lambda queries, k: index.search(queries, k)[1]

    return search, EFFORT


def _faiss_ivf(data: Dataset) -> Built:
    import faiss

    lists = round(4 * len(data.vectors) ** 0.5)
    index = faiss.index_factory(data.vectors.shape[1], f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    own = whole(data.vectors)
    index.train(own[:: max(1, len(own) // (40 * lists))])
    index.add(own)

    def search(share: float) -> Search:
        index.nprobe = max(1, round(share * lists))
        return lambda queries, k: index.search(queries, k)[1]

    return search, (0.01, 0.03, 0.1, 0.3, 0.6)


def _usearch(data: Dataset) -> Built:
    from usearch.index import Index

    index = Index(ndim=data.vectors.shape[1], metric="ip", dtype="i8", connectivity=16, expansion_add=100)
    index.add(np.arange(len(data.vectors)), whole(data.vectors), threads=THREADS)

    def search(effort: int) -> Search:
        index.expansion_search = effort
        return lambda queries, k: np.asarray(index.search(queries, k).keys).reshape(len(queries), k).astype(np.int64)

    return search, EFFORT


def _ngt(data: Dataset) -> Built:
    import ngtpy

    folder = tempfile.mkdtemp(prefix="scale-ngt-")
    ngtpy.create(folder.encode(), data.vectors.shape[1], distance_type="Normalized Cosine")
    index = ngtpy.Index(folder.encode())
    index.batch_insert(whole(data.vectors), THREADS)

    def search(epsilon: float) -> Search:
        def found(queries: Float32[np.ndarray, "q dim"], k: int) -> Int[np.ndarray, "q k"]:
            rows = np.zeros((len(queries), k), np.int64)
            for place, query in enumerate(queries):
                own = [row for row, _ in index.search(query, k, epsilon)]
                rows[place, : len(own)] = own
            return rows

        return found

    return search, (0.05, 0.1, 0.2, 0.4)


def _rabitqlib(data: Dataset) -> Built:
    import rabitqlib

    graph = rabitqlib.SymqgIndex(data.vectors.shape[1], 32, "l2")
    graph.build(whole(data.vectors), 100, THREADS)

    def search(effort: int) -> Search:
        return lambda queries, k: np.asarray(
            graph.search_batch(queries, k, effort, min(THREADS, len(queries)))[0], np.int64
        ).reshape(len(queries), k)

    return search, EFFORT


def whole(vectors: Vectors) -> Float32[np.ndarray, "n dim"]:
    """Returns vectors in single precision, converted a block at a time."""
    found = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), BLOCK):
        found[start : start + BLOCK] = single(vectors[start : start + BLOCK])
    return found


METHODS = {
    "wsrl": Method("wsrl", _own(lambda _: build_candidates)),
    "wsrl hashes": Method("scann", _own(lambda _: Hashed)),
    "wsrl graph": Method("rabitqlib", _own(_graph_reader), _make_graph),
    "faiss HNSW": Method("faiss", _faiss_hnsw),
    "faiss IVF": Method("faiss", _faiss_ivf),
    "usearch": Method("usearch", _usearch),
    "ngt": Method("ngtpy", _ngt),
    "rabitqlib": Method("rabitqlib", _rabitqlib),
}
OWN = ("wsrl", "wsrl hashes", "wsrl graph")
