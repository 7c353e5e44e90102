"""Nearest neighbors among the segments of an index: each is searched by itself, and the best of all are taken."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64

from wsrl.search.masks import OfLastMask, sealed
from wsrl.search.segment import Segment, all_cosines

Part = tuple[Segment, Int64[np.ndarray, " rows"]]


class Segments:
    """Vectors of an index.

    Args:
      parts: segments, each with the places of its rows among the models of the index; -1 for those that are gone.
      by_digest: the segments by the digests of their files, where they have some.
    """

    def __init__(self, parts: Sequence[Part], by_digest: Mapping[str, Segment] | None = None):
        self.parts = [part for part in parts if len(part[0])]
        self._there = [None if (places >= 0).all() else places >= 0 for _, places in self.parts]
        self._allowed = OfLastMask(self._by_segment)
        self.by_digest = by_digest or {}

    @property
    def dimensions(self) -> int:
        """Of the vectors; 0 if there are none."""
        return self.parts[0][0].vectors.shape[1] if self.parts else 0

    @property
    def backend(self) -> str:
        """What answers queries: exact, or candidates of a graph or of hashes in the largest segment."""
        largest = max((segment for segment, _ in self.parts), key=len)
        return largest.candidates.name if largest.candidates else "exact"

    @property
    def large(self) -> bool:
        """Whether a segment has so many vectors that they are not compared one and all, where a library can do so."""
        return any(segment.candidates is not None for segment, _ in self.parts)

    def compared(self, k: int) -> int:
        """Returns how many vectors are compared whole for k hits."""
        return sum(segment.compared(k) for segment, _ in self.parts)

    @property
    def unindexed(self) -> int:
        """How many vectors of an index with candidates have none: they are compared one and all."""
        return sum(len(segment) for segment, _ in self.parts if self.large and segment.candidates is None)

    def cosines(self, queries: Float32[np.ndarray, "q dim"], count: int) -> Float32[np.ndarray, "q count"]:
        """Returns the cosines of queries with all models, of which there are `count`."""
        found = np.full((len(queries), count), -np.inf, np.float32)
        for segment, own in self.parts:
            there = own >= 0
            found[:, own[there]] = all_cosines(segment.whole, queries)[:, there]
        return found

    def _by_segment(self, allowed: Bool[np.ndarray, " n"]) -> list[Bool[np.ndarray, " rows"]]:
        """Which rows of each segment may be hits."""
        parts = zip(self.parts, self._there, strict=True)
        return [sealed(allowed[own] if there is None else there & allowed[own]) for (_, own), there in parts]

    def search(
        self,
        queries: Float32[np.ndarray, "q dim"],
        k: int,
        allowed: Bool[np.ndarray, " n"] | None = None,
        exact: bool = False,
    ) -> tuple[Int64[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Finds the nearest models of each query.

        Args:
          queries: of length 1.
          k: hits, at most.
          allowed: models that may be hits, by place; None for all.
          exact: compare with all of them.

        Returns:
          Places and cosines, best first; place -1 of cosine minus infinity where there are fewer.
        """
        places, cosines = [], []
        masks = self._there if allowed is None else self._allowed(allowed)
        for (segment, own), may in zip(self.parts, masks, strict=True):
            rows, cosine = segment.search(queries, k, may, exact)
            places.append(np.where(rows >= 0, own[rows], -1))
            cosines.append(cosine)
        found, cosine = np.hstack(places), np.hstack(cosines)
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(found, best, axis=1), np.take_along_axis(cosine, best, axis=1)
