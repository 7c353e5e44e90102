"""An index of many models as a whole: what it costs to open and to search, with conditions and groups, and to add.

Its models are made up around the vectors of a data set of families. Then ADDED copies and fine-tunes of one base are
committed, which are those that groups by lineage meet.
"""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from experiments.apart import measured_apart
from experiments.scale.datasets import FAMILIES, Dataset, K, dataset, open_dataset
from experiments.scale.made_up import LEAST, embedded, made_up, parameters_of
from experiments.scale.measures import ADDED, resident, timed
from experiments.scale.methods import METHODS, OWN, graph_files, own_choice
from wsrl.embedded import Embedded
from wsrl.errors import InputError
from wsrl.files import write_atomically
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.catalog import Change
from wsrl.search.commit import commit, writing
from wsrl.search.fixed_point import single
from wsrl.search.index import Index
from wsrl.search.manifest import MANIFEST, Manifest, segment_file
from wsrl.search.manifest import graph_files as graph_names
from wsrl.search.store import Store, measure
from wsrl.search.write_database import write_database

ENCODER = "0" * 64
ASKED = 20  # queries, one at a time
KEPT = f"parameters<{LEAST + 10}"  # one of a hundred models
NEAR = 0.02  # length of what tells a fine-tune from its base: a cosine of .9998
NOTE = (
    "An index of families, the models made up around their vectors. Milliseconds are of CPU, of one search by weights "
    "with its hits, the least of three rounds of {asked} queries; the first of a filter is the first of its condition. "
    "Kept: brute force over the vectors that the filter keeps, held in single precision. Lineage: a base with {added} "
    "copies and fine-tunes in the index is asked for with `--group-by lineage`, and without. Commit: of these {added}, "
    "by the clock and of CPU, and what it writes. Memory: growth of the process that searches, mapped pages among it."
)


def measure_whole(workdir: Path, index: Path | None, sizes: Sequence[int]) -> None:
    """Measures indexes and writes the table `scale_index`.

    Args:
      workdir: keeps data and results.
      index: that families are made of.
      sizes: numbers of models.

    Raises:
      InputError: the index cannot be used.
    """
    if index is None:
        raise InputError("--families", "is not given", "name an index that vectors are made of")
    rows: list[Row] = []
    for size in sizes:
        data = dataset(workdir / "data", FAMILIES, size, index)
        folder = workdir / f"whole-{size}.index"
        make_index(folder, data)
        found = {**measured_apart(measure_searches, data.folder, folder), **measured_apart(measure_commit, folder)}
        rows.append({"models": size, **found, **measured_apart(measure_lineage, folder)})
        shutil.rmtree(folder)
    write_table(workdir, "scale_index", "An index of many models", NOTE.format(asked=ASKED, added=ADDED), rows, None)
    print_table(rows)


def make_index(folder: Path, data: Dataset) -> None:
    """Writes an index of the vectors of a data set, which are not copied; with their graph, where they have one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    linked = {data.folder / "vectors.npy": segment_file("weights", 1)}
    prepare = METHODS[OWN[2]].prepare
    if own_choice(data) == OWN[2] and prepare:
        if not all(path.exists() for path in graph_files(data)):
            prepare(data)
        linked |= zip(graph_files(data), graph_names("weights", 1), strict=True)
    for source, name in linked.items():
        os.link(source, folder / name)
    count, database = len(data.vectors), "models-000001.sqlite"
    write_database([], folder / database, Change(models=[made_up(number) for number in range(count)]))
    files = {name: measure(folder / name) for name in (*linked.values(), database)}
    manifest = Manifest(ENCODER, 1, count, 0, (database,), {1: (count, 0, 0)}, files)
    write_atomically(folder / MANIFEST, manifest.to_bytes())


def measure_searches(data_folder: Path, folder: Path) -> dict[str, Any]:
    """Opens an index and searches it; the process should be new."""
    data, before, start = open_dataset(data_folder), resident(), time.process_time()
    index = Index.open(folder)
    opened = time.process_time() - start
    queries = [_query(vector) for vector in data.queries[:ASKED]]
    plain = _milliseconds(index, queries)
    start = time.process_time()
    index.search(queries[0], K, "weights", where=[KEPT])
    first = (time.process_time() - start) * 1e3
    assert index.explanation
    among = index.explanation.among
    filtered = _milliseconds(index, queries, where=[KEPT])
    memory, mapped = resident() - before, resident(part="RssFile")
    places = np.flatnonzero(parameters_of(np.arange(len(index))) < LEAST + 10)
    kept = single(data.vectors[places])
    brute = timed(lambda: [np.argpartition(kept @ query, -K) for query in data.queries[:ASKED]], ASKED)["cpu"]
    return {
        "open CPU seconds": opened,
        "ms": plain,
        "kept": among,
        "filter, first ms": first,
        "filtered ms": filtered,
        "kept ms": brute,
        "memory MB": memory / 1e6,
        "mapped MB": mapped / 1e6,
    }


def measure_commit(folder: Path) -> dict[str, float]:
    """Commits copies and fine-tunes of the first model."""
    store = Store(folder)
    base = store.weights_at(np.array([0]))[0]
    rng, count = np.random.default_rng(0), len(store.ids)
    noise = NEAR * rng.standard_normal((ADDED, len(base)), np.float32) / np.sqrt(len(base)).astype(np.float32)
    noise[: ADDED // 2] = 0
    vectors = base + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    models = [made_up(count + number) for number in range(ADDED)]
    rows = [(model, embedded(model, vector)) for model, vector in zip(models, vectors, strict=True)]
    wall, processor = time.perf_counter(), time.process_time()
    with writing(folder):
        new = commit(folder, store, ENCODER, rows, Change())
    took = time.perf_counter() - wall, time.process_time() - processor
    written = [size for name, (size, _) in new.manifest.files.items() if name not in store.manifest.files]
    return {
        f"commit {ADDED:,}, seconds": took[0],
        "commit CPU seconds": took[1],
        "commit MB": sum(written) / 1e6,
    }


def measure_lineage(folder: Path) -> dict[str, float]:
    """Searches for the base, in groups by lineage and without."""
    index = Index.open(folder)
    query = [_query(index.get(index.ids[0]).weights)]
    plain, grouped = _milliseconds(index, query), _milliseconds(index, query, group_by="lineage")
    return {"base ms": plain, "lineage ms": grouped, "lineage, times base": grouped / plain}


def _milliseconds(index: Index, queries: Sequence[Embedded], **options: Any) -> float:
    def search() -> None:
        for query in queries:
            index.search(query, K, "weights", **options)

    search()
    return timed(search, len(queries))["cpu"]


def _query(vector: Float32[np.ndarray, " dim"]) -> Embedded:
    return embedded(made_up(-1), vector)  # of no model of the index
