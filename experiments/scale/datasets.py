"""Vectors of large zoos, on disk in sixteen bits: families of models, and models of nearly no structure."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int
from tqdm import tqdm

from experiments.scale.families import draw_families, measure_families
from experiments.tables.resampling import measure_spread, resample
from wsrl.errors import InputError
from wsrl.evaluation.ranking import unit_vectors
from wsrl.evaluation.relevance import labels
from wsrl.search.file_rows import FileRows, map_file
from wsrl.search.fixed_point import products, to_fixed
from wsrl.search.segment import intrinsic_dimension, nearest_exactly
from wsrl.search.store import Store

FAMILIES, HARD = "families", "hard"
DIMENSIONS = 1024  # of the vectors; longer ones are projected onto so many random directions
QUERIES = 1000
K = 10  # hits
RESAMPLED = 100_000  # hard vectors that are drawn at once
CONTRAST_SAMPLE = 20_000  # vectors that the mean distance is that to


class Dataset(NamedTuple):
    """Vectors, queries and what is true of them.

    Attributes:
      folder: where they lie.
      vectors: of length 1, mapped; see `wsrl.search.fixed_point`.
      queries: drawn like the vectors.
      least: of each query, the cosine of the K-th nearest.
      about: `dimension`, the local intrinsic dimension, and `contrast`, the relative contrast.
    """

    folder: Path
    vectors: FileRows
    queries: Float32[np.ndarray, "q dim"]
    least: Float32[np.ndarray, "q"]
    about: dict[str, float]


def dataset(folder: Path, kind: str, count: int, index: Path, queries: int | None = None) -> Dataset:
    """Returns a data set, which is made unless it is there.

    Args:
      folder: of all data sets.
      kind: FAMILIES are made of the weights vectors of an index; HARD ones are resampled from its function vectors, or
        from its weights vectors where it has none, with the tasks and lineages that its metadata tells.
      count: vectors.
      index: that they are made of.
      queries: that are used, by default and at most QUERIES; those of a data set that is there stay as they are.

    Raises:
      InputError: the index cannot be used.
    """
    own = folder / f"{kind}-{count}"
    if not (own / "about.json").exists():
        own.mkdir(parents=True, exist_ok=True)
        if not (own / "queries.npy").exists():
            _draw(own, kind, count, index)
        _measure(own, QUERIES if queries is None else queries)
    return open_dataset(own)


def open_dataset(folder: Path) -> Dataset:
    """Opens a data set that is there."""
    vectors = _file_rows(folder)
    queries, least = (np.load(folder / f"{name}.npy") for name in ("queries", "least"))
    return Dataset(folder, vectors, queries[: len(least)], least, json.loads((folder / "about.json").read_text()))


def _file_rows(folder: Path) -> FileRows:
    content = map_file(folder / "vectors.npy")
    assert content is not None
    return FileRows(content)


def _draw(folder: Path, kind: str, count: int, index: Path) -> None:
    """Writes vectors and queries; the queries last, so that an interrupted call is told from one that ended."""
    rng = np.random.default_rng(0)
    places = rng.permutation(count + QUERIES)  # neighbors in a zoo lie anywhere in an index
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.int16, (count, DIMENSIONS))
    queries = np.empty((QUERIES, DIMENSIONS), np.float32)
    draw = _draw_families if kind == FAMILIES else _draw_hard
    first = 0
    with tqdm(total=count + QUERIES, desc=f"{kind} {count:,}", unit="vector", disable=None) as line:
        for block in draw(index, count + QUERIES, rng):
            at = places[first : first + len(block)]
            vectors[at[at < count]], queries[at[at >= count] - count] = to_fixed(block[at < count]), block[at >= count]
            first += len(block)
            line.update(len(block))
    vectors.flush()
    np.save(folder / "queries.npy", queries)


def _draw_families(index: Path, count: int, rng: np.random.Generator) -> Iterator[Float32[np.ndarray, "block dim"]]:
    real = _projected(Store(index).weights)
    return (block for block, _ in draw_families(measure_families(real), count, rng))


def _draw_hard(index: Path, count: int, rng: np.random.Generator) -> Iterator[Float32[np.ndarray, "block dim"]]:
    store = Store(index)
    having = store.has_function if len(store.has_function) else np.arange(len(store.ids))
    vectors = store.functions if len(store.has_function) else store.weights
    metadata = store.catalog.metadata()
    known = [_label(metadata, having, key) for key in ("task", "lineage")]
    spread = measure_spread(_projected(vectors), *known)
    for first in range(0, count, RESAMPLED):
        yield resample(spread, min(RESAMPLED, count - first), rng)


def _label(metadata: list[dict[str, object]], having: Int[np.ndarray, "n"], key: str) -> Int[np.ndarray, "n"]:
    return labels([str(metadata[place].get(key, place)) for place in having.tolist()])


def _projected(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n DIMENSIONS"]:
    if vectors.shape[1] < DIMENSIONS:
        raise InputError("--index", f"its vectors have {vectors.shape[1]} dimensions", f"{DIMENSIONS} are needed")
    if vectors.shape[1] == DIMENSIONS:
        return vectors
    directions = np.linalg.qr(np.random.default_rng(1).normal(size=(vectors.shape[1], DIMENSIONS)))[0]
    return unit_vectors(vectors @ directions)


def _measure(folder: Path, used: int) -> None:
    """Finds the nearest of each query, and measures how hard they are to find.

    Relative contrast is the mean distance divided by that of the nearest (He, Kumar and Chang 2012).
    """
    vectors = _file_rows(folder)
    queries = np.load(folder / "queries.npy")[:used]
    _, cosine = nearest_exactly(vectors, queries, K)
    np.save(folder / "least.npy", cosine[:, -1])
    places = np.sort(np.random.default_rng(2).permutation(len(vectors))[:CONTRAST_SAMPLE])
    mean = np.sqrt(np.maximum(2 - 2 * products(queries, vectors[places]), 0)).mean()
    nearest = np.sqrt(np.maximum(2 - 2 * cosine[:, 0], 0)).mean()
    about = {"dimension": intrinsic_dimension(vectors), "contrast": float(mean / nearest)}
    (folder / "about.json").write_text(json.dumps(about))
