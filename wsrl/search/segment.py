"""Nearest neighbors by cosine similarity in one set of vectors that does not change.

Few vectors are compared one and all. Of many, a graph (`wsrl.search.graph`) or hashes (`wsrl.search.hashed`) propose
candidates, and these are compared as they are stored: similarities are those of the stored vectors in any case.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64

from wsrl.search.components import Vectors
from wsrl.search.file_rows import FileRows
from wsrl.search.fixed_point import DTYPE, STEPS, products, single
from wsrl.search.graph import Graph
from wsrl.search.hashed import Hashed, scann
from wsrl.search.local_dimension import NEIGHBORS, local_dimension, sampled_rows
from wsrl.search.masks import OfLastMask

BRUTE_FORCE_BELOW = 20_000  # vectors; exact search is fast enough
CANDIDATES_A_HIT = 4  # compared by the whole vectors where many hits are asked for,
CANDIDATES_BEYOND = 500  # with no more than so many besides
GRAPH_DIMENSION = 30.0  # intrinsic dimension up to which a graph is faster than hashes
PRODUCT = 2**26  # similarities that are held at a time
CONVERTED = 1024  # rows that are converted to single precision at a time
COMPARED = 64  # candidates a product: so few that BLAS does not split it among threads of its own
SLACK = 1e-4  # that a squared distance of components in eight bits may be off by
FILTERED_SHARE = 0.05  # of the vectors; fewer that may be hits are all compared


@runtime_checkable
class Candidates(Protocol):
    """What proposes candidates."""

    name: str

    @property
    def least(self) -> int:
        """How many hold the nearest few."""
        ...

    def find(
        self, queries: Float32[np.ndarray, "q dim"], count: int
    ) -> tuple[Int64[np.ndarray, "q count"], Float32[np.ndarray, "q count"]]:
        """Finds rows that may be nearest to each query.

        Returns:
          Rows, -1 where there are fewer; and, ascending, what their squared distances are not below.
        """
        ...


def build_candidates(vectors: Vectors) -> Candidates | None:
    """Makes what proposes candidates among many vectors; None where all are to be compared."""
    if len(vectors) < BRUTE_FORCE_BELOW:
        return None
    if suits_graph(vectors):
        return Graph.build(vectors)
    return Hashed(vectors) if scann() else None


def suits_graph(vectors: Vectors) -> bool:
    """Whether a graph can be made of vectors, and is faster than hashes."""
    there = find_spec("rabitqlib") is not None
    return there and (scann() is None or intrinsic_dimension(vectors) <= GRAPH_DIMENSION)


def intrinsic_dimension(vectors: Vectors) -> float:
    """Estimates the local intrinsic dimension of unit vectors by the distances of the neighbors of some of them."""
    k = min(NEIGHBORS + 1, len(vectors))
    _, cosine = nearest_exactly(vectors, single(vectors[sampled_rows(len(vectors))]), k)
    return local_dimension(2 - 2 * cosine[:, 1:].astype(float))


class Segment:
    """Vectors of length 1, and what proposes candidates among them.

    Args:
      vectors: may be mapped from a file.
      candidates: called when a search needs them first; see `build_candidates`.
    """

    def __init__(
        self,
        vectors: Vectors,
        candidates: Callable[[Vectors], Candidates | None] = build_candidates,
    ):
        self.vectors, self._make = vectors, candidates
        self._places = OfLastMask(np.flatnonzero)
        self._kept: tuple[Int64[np.ndarray, " m"], Float32[np.ndarray, "m dim"]] | None = None  # by the last filter

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def candidates(self) -> Candidates | None:
        """What proposes candidates; None where all vectors are compared."""
        return self._make(self.vectors)

    @cached_property
    def whole(self) -> Vectors:
        """The vectors; in single precision where they are few, so that they need no conversion for each query."""
        return single(self.vectors[:]) if len(self) < BRUTE_FORCE_BELOW else self.vectors

    def compared(self, k: int) -> int:
        """Returns how many vectors are compared whole for k hits, at most."""
        if self.candidates is None:
            return len(self)
        return min(len(self), max(self.candidates.least, min(CANDIDATES_A_HIT * k, k + CANDIDATES_BEYOND)))

    def search(
        self,
        queries: Float32[np.ndarray, "q dim"],
        k: int,
        allowed: Bool[np.ndarray, " n"] | None = None,
        exact: bool = False,
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Finds the nearest vectors of each query.

        Args:
          queries: of length 1.
          k: hits; at most as many as there are vectors.
          allowed: which may be hits; None for all.
          exact: compare with all of them.

        Returns:
          Rows and cosines, best first; row -1 of cosine minus infinity where fewer are allowed.
        """
        k = min(k, len(self))
        kept = None if allowed is None else self._places(allowed)
        if kept is not None and len(kept) <= max(k, FILTERED_SHARE * len(self)):
            return self._search_among(queries, k, kept)
        if exact or self.candidates is None or not len(queries):
            return nearest_exactly(self.whole, queries, k, allowed)
        share = 1.0 if kept is None else len(kept) / len(self)
        count = min(len(self), round(self.compared(k) / share))
        rows, least = self.candidates.find(queries, count)
        there = rows >= 0 if allowed is None else (rows >= 0) & allowed[rows]
        rows, cosine = self._compare(queries, rows, there, least, k)
        short = np.isinf(cosine).any(1)
        if short.any():
            rows[short], cosine[short] = nearest_exactly(self.whole, queries[short], k, allowed)
        return rows, cosine

    def _search_among(
        self, queries: Float32[np.ndarray, "q dim"], k: int, places: Int64[np.ndarray, " m"]
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        rows = np.full((len(queries), k), -1)
        cosine = np.full((len(queries), k), -np.inf, np.float32)
        if len(places):
            found, own = nearest_exactly(self._some(places), queries, min(k, len(places)))
            rows[:, : found.shape[1]], cosine[:, : found.shape[1]] = places[found], own
        return rows, cosine

    def _some(self, places: Int64[np.ndarray, " m"]) -> Vectors:
        """Some vectors; if they are few, they are kept in single precision for the next search of the same filter."""
        if len(places) > BRUTE_FORCE_BELOW:
            return _Some(self.whole, places)
        kept = self._kept
        if kept is None or not (kept[0] is places or np.array_equal(kept[0], places)):
            self._kept = kept = (places, _single_rows(self.whole, places))
        return kept[1]

    def _compare(
        self,
        queries: Float32[np.ndarray, "q dim"],
        candidates: Int64[np.ndarray, "q c"],
        there: Bool[np.ndarray, "q c"],
        least: Float32[np.ndarray, "q c"],
        k: int,
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """The k nearest of each query's candidates that are there; minus infinity where there are fewer.

        Candidates are left when none of the rest can be among the k: components are no farther apart than vectors.
        """
        cosine = np.full(candidates.shape, -np.inf, np.float32)

        def compare(place: int) -> None:
            own, floor, query = candidates[place, there[place]], least[place, there[place]], queries[place]
            near = np.full(len(own), -np.inf, np.float32)
            for start in range(0, len(own), COMPARED):
                if start >= k and floor[start] > 2 - 2 * np.partition(near[:start], -k)[-k] + SLACK:
                    break
                block = slice(start, start + COMPARED)
                near[block] = np.clip(products(query, self.vectors[own[block]]), -1, 1)
            cosine[place, there[place]] = near

        if len(queries) == 1 or getattr(self.vectors, "by_row", False):  # threads would wait for one another
            for place in range(len(queries)):
                compare(place)
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy does not hold the interpreter meanwhile
                list(pool.map(compare, range(len(queries))))
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(candidates, best, axis=1), np.take_along_axis(cosine, best, axis=1)


def _single_rows(vectors: Vectors, places: Int64[np.ndarray, " m"]) -> Float32[np.ndarray, "m dim"]:
    """Some vectors in single precision, converted a block at a time, so that little memory is passed over twice."""
    found = np.empty((len(places), *vectors.shape[1:]), np.float32)
    for start in range(0, len(places), COMPARED):
        found[start : start + COMPARED] = vectors[places[start : start + COMPARED]]
        if vectors.dtype == DTYPE:
            found[start : start + COMPARED] *= np.float32(1 / STEPS)
    return found


class _Some:
    """Some rows of an array, read where a slice asks for them."""

    def __init__(self, vectors: Vectors, places: Int64[np.ndarray, " m"]):
        self._vectors, self._places = vectors, places
        self.dtype, self.shape = vectors.dtype, (len(places), *vectors.shape[1:])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._vectors[self._places[rows]]


def nearest_exactly(
    vectors: Vectors,
    queries: Float32[np.ndarray, "q dim"],
    k: int,
    allowed: Bool[np.ndarray, " n"] | None = None,
) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Compares queries with all vectors.

    Args:
      vectors: of length 1.
      queries: of length 1.
      k: hits, at most as many as there are vectors.
      allowed: which may be hits; None for all.

    Returns:
      Rows and cosines, best first; row -1 of cosine minus infinity where fewer are allowed.
    """
    rows = np.empty((len(queries), k), np.int64)
    cosine = np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), max(1, PRODUCT // len(vectors))):
        block = slice(start, start + max(1, PRODUCT // len(vectors)))
        product = all_cosines(vectors, queries[block])
        if allowed is not None:
            product[:, ~allowed] = -np.inf
        nearest = np.argpartition(product, -k, axis=1)[:, -k:]
        found = np.take_along_axis(product, nearest, axis=1)
        best = np.lexsort((nearest, -found))
        found = np.take_along_axis(found, best, axis=1)
        rows[block] = np.where(np.isinf(found), -1, np.take_along_axis(nearest, best, axis=1))
        cosine[block] = np.where(np.isinf(found), found, np.clip(found, -1, 1))
    return rows, cosine


def all_cosines(vectors: Vectors, queries: Float32[np.ndarray, "q dim"]) -> Float32[np.ndarray, "q n"]:
    """Returns the inner products of queries with all vectors, which are converted a block at a time."""
    if vectors.dtype == np.float32 and isinstance(vectors, np.ndarray):
        return queries @ vectors.T
    product = np.empty((len(queries), len(vectors)), np.float32)
    rows = CONVERTED if isinstance(vectors, np.ndarray | FileRows) else COMPARED
    whole = np.empty((min(rows, len(vectors)), vectors.shape[1]), np.float32)  # for all blocks: new memory is slow
    for start in range(0, len(vectors), rows):
        block = vectors[start : start + rows]
        np.copyto(whole[: len(block)], block)
        product[:, start : start + rows] = queries @ whole[: len(block)].T
    return product / np.float32(STEPS) if vectors.dtype == DTYPE else product
