"""Recall, rates and memory of a method, in a process of its own."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from experiments.scale.datasets import Dataset, K, open_dataset
from experiments.scale.methods import METHODS, OwnSearch, Search, whole
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.search.components import Vectors
from wsrl.search.fixed_point import products, single, to_fixed
from wsrl.search.masks import sealed
from wsrl.search.segment import Segment
from wsrl.search.segments import Segments
from wsrl.search.wide_expansion import Means, Rows, WideExpansion

ROUNDS = 3  # of timing; the fastest counts
ALONE = 50  # queries that are timed one at a time
BRUTE_ALONE = 10  # and by brute force
HELD = 250_000  # vectors in single precision: a million would take 4 GB
PRODUCT = 2**27  # similarities that brute force is timed for at most, in a batch
WANTED = 0.99  # recall that a setting is chosen for
TIE = 1e-6  # similarity
ADDED = 1000  # vectors
KEPT = 0.01  # share that a filter keeps
EXPANDED = 2  # queries that are expanded, one at a time
CORES = os.cpu_count() or 1


def measure_brute_force(folder: Path) -> dict[str, Any]:
    """Times NumPy's product with all vectors, held in single precision: milliseconds a query, of wall and of CPU.

    No more than HELD of them are held; of more, the product with these is repeated as often as makes it as long.
    """
    data = open_dataset(folder)
    count = len(data.vectors)
    vectors = whole(data.vectors[:HELD])
    some = data.queries[: max(1, min(len(data.queries), PRODUCT // count))]

    def search(queries: Float32[np.ndarray, "q dim"]) -> Int[np.ndarray, "q k"]:
        product = np.empty((len(queries), count), np.float32)
        for start in range(0, count, HELD):
            own = product[:, start : start + HELD]
            own[:] = queries @ vectors[: own.shape[1]].T
        return np.argpartition(product, -K, axis=1)[:, -K:]

    alone = timed(lambda: [search(query[None]) for query in some[:BRUTE_ALONE]], min(BRUTE_ALONE, len(some)))
    batch = timed(lambda: search(some), len(some))
    kept = single(data.vectors[_kept(count)])
    filtered = timed(lambda: [np.argpartition(kept @ query, -K) for query in data.queries[:ALONE]], ALONE)
    return {"alone": alone, "batch": batch, "filtered": filtered}


def measure_preparation(folder: Path, name: str) -> dict[str, float]:
    """Makes the files of a method, which should be done in a new process."""
    prepare, start, processor = METHODS[name].prepare, time.perf_counter(), time.process_time()
    assert prepare
    prepare(open_dataset(folder))
    return {"build seconds": time.perf_counter() - start, "build CPU seconds": time.process_time() - processor}


def measure_method(folder: Path, name: str) -> dict[str, Any]:
    """Builds a method, chooses its fastest setting of recall WANTED, and times it; the process should be new."""
    data = open_dataset(folder)
    before, start, processor = resident(), time.perf_counter(), time.process_time()
    with_setting, settings = METHODS[name].build(data)
    built, built_processor = time.perf_counter() - start, time.process_time() - processor
    search, recall = _chosen(data, with_setting, settings)
    few = data.queries[:ALONE]
    alone = timed(lambda: [search(query[None], K) for query in few], ALONE)
    batch = timed(lambda: search(data.queries, K), len(data.queries))
    row: dict[str, Any] = {
        "recall@10": asdict(cluster_bootstrap({"recall": recall[None]}, np.arange(len(recall)))["recall"]),
        "alone": alone,
        "batch": batch,
        "memory MB": (resident() - before) / 1e6,
        "mapped MB": resident(part="RssFile") / 1e6,
        "build seconds": built,
        "build CPU seconds": built_processor,
    }
    return row | (_own_measures(data, search.segment) if isinstance(search, OwnSearch) else {})


def _own_measures(data: Dataset, segment: Segment) -> dict[str, Any]:
    """Time to add vectors, which are then found, to search what a filter keeps, and to expand queries."""
    new = to_fixed(data.queries[np.arange(ADDED) % len(data.queries)])
    start = time.perf_counter()
    tail = Segment(new)
    found, _ = tail.search(data.queries[:1], 1)
    added = time.perf_counter() - start
    if found[0, 0] != 0:
        raise InputError("wsrl", "does not find what was added", "mend the search")
    mask = np.zeros(len(data.vectors), bool)
    mask[_kept(len(mask))] = True
    mask = sealed(mask)  # as that of conditions is
    start = time.process_time()
    segment.search(data.queries[:1], K, mask)
    first = (time.process_time() - start) * 1e3
    filtered = timed(lambda: [segment.search(query[None], K, mask) for query in data.queries[:ALONE]], ALONE)
    places = np.arange(len(data.vectors))
    rows = Rows([(data.vectors, places)], len(places))
    expansion = WideExpansion(Segments([(segment, places)]), rows, _NoMeans(data.vectors))
    few = data.queries[:EXPANDED]
    expanded = timed(lambda: [expansion.ranked(query[None], K) for query in few], EXPANDED)
    return {"add seconds": added, "filtered first": first, "filtered": filtered, "expanded": expanded}


class _NoMeans(Means):
    """Of vectors that are taken as they are."""

    def __init__(self, vectors: Vectors):
        self.names, self.group = np.array([""]), np.zeros(len(vectors), np.int64)
        self._means = np.zeros((2, vectors.shape[1]), np.float32)


def _chosen(
    data: Dataset, with_setting: Callable[[Any], Search], settings: Any
) -> tuple[Search, Float[np.ndarray, "q"]]:
    for setting in settings:
        search = with_setting(setting)
        recall = recall_of_queries(data, search(data.queries, K))
        if recall.mean() >= WANTED:
            break
    return search, recall  # pyright: ignore[reportPossiblyUnbound]


def recall_of_queries(data: Dataset, found: Int[np.ndarray, "q k"]) -> Float[np.ndarray, "q"]:
    """Share of the found rows that are as near as the K-th nearest, so that ties count as hits."""
    near = [products(query, data.vectors[rows]) for rows, query in zip(found, data.queries, strict=True)]
    return (np.stack(near) >= data.least[:, None] - TIE).mean(axis=1)


def timed(search: Callable[[], Any], queries: int) -> dict[str, float]:
    """Milliseconds a query, of wall and of CPU (of all threads together), each the least of some rounds."""
    best = {"wall": np.inf, "cpu": np.inf}
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        search()
        best["wall"] = min(best["wall"], (time.perf_counter() - wall) * 1e3 / queries)
        best["cpu"] = min(best["cpu"], (time.process_time() - cpu) * 1e3 / queries)
    return best


def resident(process: int | str = "self", part: str = "VmRSS") -> float:
    """Bytes of memory that a process holds, pages of mapped files included; NaN where the system does not tell.

    Args:
      process: its number.
      part: RssFile for the mapped pages alone.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{part}:")), float("nan"))


def _kept(count: int) -> Int[np.ndarray, "m"]:
    return np.sort(np.random.default_rng(3).permutation(count)[: max(K, round(KEPT * count))])
