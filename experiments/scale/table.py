"""The table of `python -m experiments.scale table`: each row is measured once and kept, so that a call resumes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.apart import DiedError, measured_apart
from experiments.scale.datasets import Dataset, dataset
from experiments.scale.measures import (
    ALONE,
    CORES,
    HELD,
    ROUNDS,
    measure_brute_force,
    measure_method,
    measure_preparation,
)
from experiments.scale.methods import METHODS, OWN, own_choice
from wsrl.errors import InputError
from wsrl.evaluation.interval import Interval
from wsrl.files import write_atomically
from wsrl.report.table_figures import line_figure
from wsrl.report.tables import Row, print_table, write_table

NOTE = (
    "Unit vectors of 1,024 dimensions in sixteen bits. Families: real weights vectors and more of their distribution "
    "as parents, children at measured distances, sizes of families by a power law. Hard: resampled with the measured "
    "spread. Dimension: local intrinsic dimension (Levina and Bickel 2004); contrast: mean distance over that of the "
    "nearest. Recall against exact search, in brackets its 95 % bootstrap interval over queries; of each method the "
    "fastest setting of recall .99, or the best. Milliseconds are of CPU, the least of {rounds} rounds, so that other "
    "work of the machine does not count: one at a time ({alone} queries), and all in a batch. Times brute force: "
    "against NumPy's product in single precision, whose time one at a time counts as if all {cores} cores shared it. "
    "Of more than {held:,} vectors brute force holds so many and repeats their product. Memory: growth of the process "
    "until after the searches, from before the build, or before a graph that another process made is read; mapped: "
    "pages of files among it, which the system takes back where memory is short. "
    "Filtered: one at a time, where a filter keeps 1 %, by the first search of a filter and by further ones; beside it "
    "brute force over these alone, held in memory. Expanded: query and hits by neighbors that are found when needed."
)


def measured_rows(
    workdir: Path,
    kinds: dict[str, Path],
    sizes: Sequence[int],
    methods: Sequence[str],
    largest_peer: int,
    queries: int | None = None,
) -> list[Row]:
    """Measures what is not measured yet, and returns all rows.

    Args:
      workdir: keeps data sets and rows.
      kinds: of data sets, and the index that each is made of.
      sizes: numbers of vectors.
      methods: names of METHODS.
      largest_peer: number of vectors up to which other libraries are measured.
      queries: of each data set; None for all.
    """
    rows: list[Row] = []
    cases = [(kind, size) for size in sizes for kind in kinds]
    for kind, size in tqdm(cases, desc="data sets", unit="data set", disable=None):
        data = dataset(workdir / "data", kind, size, kinds[kind], queries)
        brute = _kept(workdir, data, "brute force", measure_brute_force)
        named = [name for name in methods if name in OWN or size <= largest_peer]
        for name in tqdm(named, desc=f"{kind} {size:,}", unit="method", disable=None, leave=False):
            about: Row = {"vectors": size, "data": kind, "queries": len(data.queries), **data.about, "method": name}
            if METHODS[name].installed:
                own = own_choice(data) if name == OWN[0] else name
                if METHODS[own].prepare:
                    built = _kept(workdir, data, f"{own} build", measure_preparation, own)
                    found = {**_kept(workdir, data, own, measure_method, own), **built}
                else:
                    found = _kept(workdir, data, own, measure_method, own)
                rows.append({**about, **_cells(found, brute)})
            else:
                rows.append({**about, "state": "not installed"})
    return rows


def _cells(found: dict[str, Any], brute: dict[str, Any]) -> Row:
    cells = {
        "recall@10": Interval(**found["recall@10"]),
        "ms alone": found["alone"]["cpu"],
        "alone, times brute force": brute["alone"]["cpu"] / CORES / found["alone"]["cpu"],
        "ms in a batch": found["batch"]["cpu"],
        "batch, times brute force": brute["batch"]["cpu"] / found["batch"]["cpu"],
        "memory MB": found["memory MB"],
        "mapped MB": found.get("mapped MB"),
        "build CPU seconds": found["build CPU seconds"],
    }
    if "filtered" in found:
        cells |= {
            "add 1,000, seconds": found["add seconds"],
            "filter, first ms": found.get("filtered first"),
            "filtered ms": found["filtered"]["cpu"],
            "filtered brute force ms": brute["filtered"]["cpu"],
            "expanded ms": found["expanded"]["cpu"] if "expanded" in found else None,
        }
    return cells


def _kept(workdir: Path, data: Dataset, name: str, job: Any, *args: object) -> dict[str, Any]:
    """What was measured before, or is measured now."""
    path = workdir / "measured" / f"{data.folder.name}-{name.replace(' ', '-')}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = measured_apart(job, data.folder, *args)
        except DiedError as error:
            raise InputError("--sizes", str(error), "leave out sizes that the memory does not hold") from error
        write_atomically(path, json.dumps(found).encode())
    return json.loads(path.read_bytes())


def write_scale(workdir: Path, rows: Sequence[Row]) -> None:
    """Writes and prints the table."""
    rates = [
        {"vectors": row["vectors"], "method": f"{row['data']}: {row['method']}", "ms": row["ms alone"]}
        for row in rows
        if "ms alone" in row
    ]
    figure = line_figure(rates, "vectors", "ms", by="method", log="xy")
    note = NOTE.format(rounds=ROUNDS, alone=ALONE, cores=CORES, held=HELD)
    write_table(workdir, "scale", "Nearest-neighbor search by number of models", note, rows, figure)
    print_table(rows)
