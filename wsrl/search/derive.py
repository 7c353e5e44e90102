"""What is made of the vectors of an index when it is written, so that searches need not: neighbors and graphs."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from wsrl.files import write_atomically
from wsrl.search.commit import sync, write_array
from wsrl.search.graph import Graph
from wsrl.search.manifest import MANIFEST, expansion_file, graph_files
from wsrl.search.query_expansion import QueryExpansion
from wsrl.search.segment import BRUTE_FORCE_BELOW, suits_graph
from wsrl.search.store import Store, measure
from wsrl.search.vectors import numbered_vectors


def commit_derived(directory: Path, store: Store) -> Store:
    """Makes what searches need beside the vectors, unless a commit has, and writes it; while the lock is held.

    Neighbors by function are found if the models are few: where they are many, a search finds those that it needs.
    """
    written = [*_neighbors(directory, store), *_graphs(directory, store)]
    if not written:
        return store
    named = [path.name for path in written if path.name.startswith("neighbors")]
    files = {**store.manifest.files, **{path.name: measure(path) for path in written}}
    manifest = replace(store.manifest, files=files, neighbors=named[0] if named else store.manifest.neighbors)
    sync(directory)
    write_atomically(directory / MANIFEST, manifest.to_bytes())
    sync(directory)
    return Store(directory, store)


def _neighbors(directory: Path, store: Store) -> Sequence[Path]:
    if store.manifest.neighbors or not 0 < len(store.has_function) < BRUTE_FORCE_BELOW:
        return []
    kinds = [store.architectures[place] for place in store.has_function]
    path = directory / f"neighbors-{store.manifest.generation:06d}.npy"
    found = QueryExpansion.build(store.functions, kinds)
    write_array(path, found.near)
    factors = directory / expansion_file(path.name)
    write_array(factors, found.all_factors)
    return [path, factors]


def _graphs(directory: Path, store: Store) -> Sequence[Path]:
    """Graphs of segments that are so large that they pay; of function vectors in an index of many."""
    written: list[Path] = []
    if find_spec("rabitqlib") is None:
        return written
    for kind in ("weights", "function"):
        large = [n for n, rows in store.manifest.segments.items() if rows[kind == "function"] >= BRUTE_FORCE_BELOW]
        missing = [number for number in large if store.manifest.graph_files(kind, number) is None]
        if not missing:
            continue
        numbered = numbered_vectors(store, kind)
        for number in missing:
            if number in numbered and suits_graph(vectors := numbered[number][0]):
                graph, axes = (directory / name for name in graph_files(kind, number))
                Graph.build(vectors).save((graph, axes))
                written += [graph, axes]
    return written
