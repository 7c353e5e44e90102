"""The vectors of an index as searches see them: weights vectors, and function vectors less their means."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from jaxtyping import Int64

from wsrl.search.graph import Graph
from wsrl.search.hashed import Hashed, scann
from wsrl.search.manifest import segment_file
from wsrl.search.segment import BRUTE_FORCE_BELOW, Candidates, Segment, Vectors
from wsrl.search.segments import Segments
from wsrl.search.store import Store
from wsrl.search.wide_expansion import Centered, Means, Rows, WideExpansion

Numbered = Mapping[int, tuple[Vectors, Int64[np.ndarray, " rows"]]]


def numbered_vectors(store: Store, kind: str) -> Numbered:
    """Returns vectors and places of each segment: those of `weights` as they are, those of `function` centered."""
    stored = {number: (vectors, places) for number, vectors, places in store.segments(kind)}
    return stored if kind == "weights" else _centered(stored, _means(store, stored))


def weights_segments(store: Store, before: Segments | None = None) -> Segments:
    """Returns what finds the nearest weights vectors.

    Args:
      store: a state of an index.
      before: of an earlier state of the same index, from which segments are taken over: they do not change.
    """
    return _segments(store, "weights", numbered_vectors(store, "weights"), before)


def wide_expansion(store: Store) -> WideExpansion:
    """Returns what ranks by function where models are many."""
    stored = {number: (vectors, places) for number, vectors, places in store.segments("function")}
    rows = Rows(list(stored.values()), len(store.has_function))
    means = _means(store, stored)
    return WideExpansion(_segments(store, "function", _centered(stored, means)), rows, means)


def _means(store: Store, stored: Numbered) -> Means:
    names = [store.architectures[place] for place in store.has_function.tolist()]
    return Means(names, Rows(list(stored.values()), len(names)))


def _centered(stored: Numbered, means: Means) -> Numbered:
    return {number: (Centered(vectors, places, means), places) for number, (vectors, places) in stored.items()}


def _segments(store: Store, kind: str, numbered: Numbered, before: Segments | None = None) -> Segments:
    known = before.by_digest if before else {}
    parts, by_digest = [], {}
    for number, (vectors, places) in numbered.items():
        digest = store.manifest.files[segment_file(kind, number)][1]
        segment = known.get(digest) or Segment(vectors, partial(_candidates, store, kind, number))
        by_digest[digest] = segment
        parts.append((segment, places))
    return Segments(parts, by_digest)


def _candidates(store: Store, kind: str, number: int, vectors: Vectors) -> Candidates | None:
    """The graph that the index holds, else hashes, which take seconds to make; None where all are to be compared."""
    if len(vectors) < BRUTE_FORCE_BELOW:
        return None
    if paths := store.graph_paths(kind, number):
        return Graph.load(paths, vectors)
    return Hashed(vectors) if scann() else None
