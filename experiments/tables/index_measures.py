"""Build time, memory, recall and rate of the index of given vectors, against brute force in the same process."""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.search.nearest import NearestNeighbors

K = 10  # hits
ROUNDS = 3  # of timing, each method in each; the fastest counts
SHORTEST = 0.1  # seconds of a round; faster searches are repeated
TIE = 1e-6  # similarity
PRODUCT = 2**26  # similarities that NumPy holds at a time
COMPARED = 2**27  # similarities that NumPy is timed for at most; it does as many a second for any number of queries
ALONE = 20  # queries that are timed one at a time
SINGLY = ", one at a time"  # in names of columns


def measured_apart(folder: Path) -> dict[str, Any]:
    """Calls `measure_index` in a process of its own. Raises InputError if it dies."""
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_send_measures, args=(sender, folder))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        process.join()
        reason = f"the process that measures ended with exit status {process.exitcode}"
        raise InputError("--sizes", reason, "leave out sizes that the memory does not hold") from error
    finally:
        process.join()


def _send_measures(sender: Connection, folder: Path) -> None:
    sender.send(measure_index(folder))


def measure_index(folder: Path) -> dict[str, Any]:
    """Builds and times the index of `vectors.npy` for `queries.npy`; the process should have done nothing else.

    Rates are those of all queries in a batch, which exact search answers by one product of matrices, and of queries
    that come one at a time, as in Aumüller et al., "ANN-Benchmarks" (2020).
    """
    vectors, queries = (np.load(folder / f"{name}.npy") for name in ("vectors", "queries"))
    ids = [str(number) for number in range(len(vectors))]
    NearestNeighbors.build(vectors[:1], ids[:1]).search(queries[:1], K)  # loads the library
    before, start = peak_memory(), time.perf_counter()
    index = NearestNeighbors.build(vectors, ids)
    index.search(queries[:1], K)  # builds the searcher
    build_seconds, after = time.perf_counter() - start, peak_memory()
    brute_force = dataclasses.replace(index, exact=True)
    some = queries[: max(1, COMPARED // len(vectors))]
    searches: dict[str, Callable] = {
        "": lambda asked: index.search(asked, K)[0],
        "brute force ": lambda asked: brute_force.search(asked, K)[0],
        "NumPy ": lambda asked: search_by_product(vectors, asked, K),
    }
    few = queries[:ALONE]
    rates: dict[str, float] = {}
    found = {}
    for _ in range(ROUNDS):
        for name, search in searches.items():
            asked = some if name == "NumPy " else queries
            found[name], batch = timed(partial(search, asked))
            _, alone = timed(lambda search=search: [search(query[None]) for query in few])
            for way, rate in (("", len(asked) / batch), (SINGLY, len(few) / alone)):
                column = f"{name}queries/s{way}"
                rates[column] = max(rates.get(column, 0.0), rate)
    recall = recall_of_queries(vectors, queries, found[""], found["brute force "])
    row = {
        "backend": index.backend,
        "build seconds": build_seconds,
        "memory MB": None if before is None or after is None else (after - before) / 1e6,
        "recall@10": cluster_bootstrap({"recall": recall[None]}, np.arange(len(recall)))["recall"],
    }
    for way in ("", SINGLY):
        own = {f"{name}queries/s{way}": rates[f"{name}queries/s{way}"] for name in searches}
        mine, *others = own.values()
        row |= {**own, f"ratio{way}": mine / max(others)}
    return row


def timed(search: Callable[[], Any]) -> tuple[Any, float]:
    """What a search returns, and its seconds on average over as many calls as a round takes."""
    start, calls = time.perf_counter(), 0
    while True:
        found, calls = search(), calls + 1
        elapsed = time.perf_counter() - start
        if elapsed >= SHORTEST:
            return found, elapsed / calls


def search_by_product(
    vectors: Float32[np.ndarray, "n dim"], queries: Float32[np.ndarray, "q dim"], k: int
) -> Int[np.ndarray, "q k"]:
    """Rows of the k largest inner products of each query, in any order."""
    block = max(1, PRODUCT // len(vectors))
    products = (queries[start : start + block] @ vectors.T for start in range(0, len(queries), block))
    return np.concatenate([np.argpartition(product, -k, axis=1)[:, -k:] for product in products])


def recall_of_queries(
    vectors: Float32[np.ndarray, "n dim"],
    queries: Float32[np.ndarray, "q dim"],
    found: Int[np.ndarray, "q k"],
    exact: Int[np.ndarray, "q k"],
) -> Float[np.ndarray, "q"]:
    """Share of the found rows that are as near as the farthest of the exact ones, so that ties count as hits."""
    near, least = (np.einsum("qd,qkd->qk", queries, vectors[rows]) for rows in (found, exact))
    return (near >= least.min(axis=1, keepdims=True) - TIE).mean(axis=1)


def peak_memory() -> int | None:
    """Bytes that this process held at most, where the system tells.

    Not from `getrusage`: on Linux a new process inherits the peak of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
