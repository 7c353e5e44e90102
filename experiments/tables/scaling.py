"""How the index fares as a zoo grows: build time, memory, recall and rate, and how well a larger zoo answers.

    python -m experiments.tables.scaling --workdir=runs/zoo [--embeddings=FILE.npz] [--sizes=100,1000,10000]

Vectors are those of the run's index, with tasks, lineages and splits from the zoo's manifest, or those of an .npz file:
`embeddings` [n, dim], and where there are such `task`, `lineage` and `split` [n]. As far as there are enough, a size is
a sample of them and the queries are others of them; beyond that all are resampled (see `resampling.py`), and the table
says so. Writes `tables/scaling.*` and `tables/scaling_quality.*`; without --workdir it only prints them.
"""

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from tqdm import tqdm

from experiments.command import finish
from experiments.job.records import read_records
from experiments.job.workdir import read_config, zoo_directory
from experiments.tables.index_measures import ALONE, ROUNDS, SINGLY, K, measured_apart
from experiments.tables.resampling import measure_spread, resample
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.ranking import LIMIT, cosine_similarity, rank_gallery, ranking_metrics
from wsrl.evaluation.relevance import labels
from wsrl.report.table_figures import line_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.nearest import NearestNeighbors

SIZES = "100,1000,10000,100000,1000000"
FEWEST_QUERIES = 100
DRAWS = 5  # galleries of each size
SCALING_NOTE = (
    "Unit vectors of {dim} dimensions. Real: a sample of {real:,} embedded models, queries are others of them. "
    "Resampled: new tasks, lineages and models, drawn with the covariance of models around their lineage, of lineages "
    "around their task and of tasks around the centre, on the sphere; queries are drawn alike. Memory: growth of the "
    "peak of a process of its own while the index is built. Recall at 10 against exact search, in brackets its 95 % "
    "bootstrap interval over queries. Rates: {queries:,} queries in a batch (fewer where fewer are left), the best of "
    "{rounds} rounds. Brute force is the index's own exact search; the ratio is to the faster of it and of NumPy's "
    "product with argpartition (of a large zoo for some of the queries), timed in the same rounds. One at a time: "
    "{alone} queries, each a search of its own, as in ANN-Benchmarks (Aumüller et al. 2020)."
)
QUALITY_NOTE = (
    "Galleries are random samples of the real models, {draws} of each size; queries are {queries}, their own lineage "
    "left out of the gallery. Queries whose task has no model there are not scored; `answerable` is the share of the "
    "others. Brackets: 95 % bootstrap intervals over lineages."
)


@dataclass(frozen=True)
class Models:
    """Embedded models.

    Attributes:
      embeddings: finite, none zero.
      task, lineage: labels.
      unseen: of the test split, and of a task without a model in another split.
      labeled: whether the tasks are known; else every model is a task of its own.
    """

    embeddings: Float[np.ndarray, "n dim"]
    task: Int[np.ndarray, "n"]
    lineage: Int[np.ndarray, "n"]
    unseen: Bool[np.ndarray, "n"]
    labeled: bool

    @classmethod
    def of(
        cls,
        embeddings: Float[np.ndarray, "n dim"],
        task: Sequence[str] | None,
        lineage: Sequence[str] | None,
        split: Sequence[str] | None,
    ) -> "Models":
        """Models with the labels that are known."""
        own = np.arange(len(embeddings))
        tasks = own if task is None else labels(task)
        tested = np.ones(len(own), bool) if split is None else np.asarray(split) == "test"
        return cls(
            embeddings,
            tasks,
            own if lineage is None else labels(lineage),
            tested & ~np.isin(tasks, tasks[~tested]),
            task is not None,
        )


def read_npz(path: Path) -> Models:
    """Models of an .npz file. Raises InputError where it cannot be used."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("embeddings", "task", "lineage", "split") if name in file}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(path, f"cannot be read ({error})", "name an .npz file with `embeddings`") from error
    vectors = arrays.pop("embeddings", None)
    if vectors is None or vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise InputError(path, "no `embeddings` [n, dim] of floating point", "write them with `wsrl embed`")
    for name, array in arrays.items():
        if array.shape != vectors.shape[:1]:
            raise InputError(path, f"{name} of shape {array.shape} for {len(vectors)} embeddings", "give one a row")
    checked = NearestNeighbors.build(vectors, [f"row {row}" for row in range(len(vectors))]).vectors
    known = {name: array.astype(str).tolist() for name, array in arrays.items()}
    return Models.of(checked, *(known.get(name) for name in ("task", "lineage", "split")))


def read_workdir(workdir: Path) -> Models:
    """Models of a finished run of the main job. Raises InputError where it is none."""
    index = NearestNeighbors.load(workdir / "index")
    config = read_config(workdir)
    zoo = zoo_directory(config, workdir)
    records, _ = read_records(zoo, config.seed)
    by_id = {record.id: record for record in records}
    missing = [name for name in index.ids if name not in by_id]
    if missing:
        raise InputError(zoo, f"no usable model {missing[0]!r}, which the index holds", "name the zoo's own run")
    held = [by_id[name] for name in index.ids]
    return Models.of(
        index.vectors,
        [record.task for record in held],
        [record.get("lineage") for record in held],
        [record.split or "" for record in held],
    )


def vectors_of_size(
    models: Models, size: int, queries: int, seed: int
) -> tuple[str, Float32[np.ndarray, "size dim"], Float32[np.ndarray, "q dim"]]:
    """Source ("real" or "resampled"), vectors of an index and queries."""
    rng = np.random.default_rng([seed, size])
    if len(models.embeddings) >= size + FEWEST_QUERIES:
        drawn = models.embeddings[rng.permutation(len(models.embeddings))[: size + queries]].astype(np.float32)
        source = "real"
    else:
        spread = measure_spread(models.embeddings, models.task, models.lineage)
        drawn = resample(spread, size + queries, rng)
        source = "resampled"
    return source, drawn[:size], drawn[size:].copy()  # or the queries would hold all of it in memory


def scaling_rows(models: Models, sizes: Sequence[int], queries: int, seed: int) -> list[Row]:
    """Rows of the scaling table."""
    rows = []
    for size in tqdm(sizes, desc="index", unit="size", disable=None):
        source, vectors, asked = vectors_of_size(models, size, queries, seed)
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "vectors.npy", vectors)
            np.save(Path(folder) / "queries.npy", asked)
            del vectors
            rows.append({"vectors": size, "source": source, **measured_apart(Path(folder))})
    return rows


def quality_rows(models: Models, queries: int, seed: int) -> list[Row]:
    """Rows of the quality table: galleries of half the models, of a quarter and so on, and all."""
    rng = np.random.default_rng([seed, 1])
    count = len(models.embeddings)
    asked = np.sort(rng.permutation(np.flatnonzero(models.unseen))[:queries])
    similarity = cosine_similarity(models.embeddings[asked], models.embeddings)
    relevant = models.task[asked, None] == models.task
    eligible = models.lineage[asked, None] != models.lineage
    rows = []
    for halvings in reversed(range(max(1, int(np.log2(count / FEWEST_QUERIES)) + 1))):
        scores = []
        for draw in range(DRAWS if halvings else 1):
            gallery = rng.permutation(count)[: count >> halvings]
            order = rank_gallery(similarity[:, gallery], seed + draw)
            scores.append(ranking_metrics(order, relevant[:, gallery], eligible[:, gallery]))
        stacked = {name: np.concatenate([score[name] for score in scores]) for name in scores[0]}
        known = np.isfinite(stacked["precision_at_10"])
        lineage = np.tile(models.lineage[asked], len(scores))[known]
        shown = {"P@1": "precision_at_1", "P@10": "precision_at_10", "mAP": "map"}
        intervals = {}
        if known.any():
            intervals = cluster_bootstrap({name: stacked[key][None, known] for name, key in shown.items()}, lineage)
        best = float(stacked[LIMIT][known].mean()) if known.any() else None
        rows.append(
            {"models": count >> halvings, **intervals, "best possible P@10": best, "answerable": float(known.mean())}
        )
    return rows


def write_tables(workdir: Path, models: Models, scaling: Sequence[Row], quality: Sequence[Row], queries: int) -> None:
    """Writes both tables with their plots."""
    methods = {"index": "queries/s", "brute force": "brute force queries/s", "NumPy": "NumPy queries/s"}
    rates = [
        {"vectors": row["vectors"], "method": f"{method}{way}", "queries/s": row[f"{column}{way}"]}
        for method, column in methods.items()
        for way in ("", SINGLY)
        for row in scaling
    ]
    figure = line_figure(rates, "vectors", "queries/s", by="method", log="xy")
    count, dim = models.embeddings.shape
    note = SCALING_NOTE.format(dim=dim, real=count, queries=queries, rounds=ROUNDS, alone=ALONE)
    write_table(workdir, "scaling", "The index by size of the zoo", note, scaling, figure)
    if quality:
        scores = [
            {"models": row["models"], "score": name, "value": row.get(name)}
            for name in ("P@1", "P@10", "mAP", "best possible P@10")
            for row in quality
        ]
        figure = line_figure(scores, "models", "value", by="score", log="x", axis="score")
        asked = min(queries, int(models.unseen.sum()))
        told = f"{asked:,} test models of tasks without a model in another split"
        note = QUALITY_NOTE.format(draws=DRAWS, queries=told)
        write_table(workdir, "scaling_quality", "Quality by size of the zoo", note, quality, figure)


def make_tables(args: argparse.Namespace) -> None:
    """Writes the tables into the workdir, if there is one, and prints them.

    Raises:
      InputError: arguments or files that cannot be used.
    """
    sizes = chosen_sizes(args.sizes)
    if args.queries < FEWEST_QUERIES or args.seed < 0:
        raise InputError("--queries, --seed", f"{args.queries}, {args.seed}", f"ask {FEWEST_QUERIES} or more; 0 on")
    if args.embeddings is None and args.workdir is None:
        raise InputError("command line", "neither --workdir nor --embeddings", "name a finished run, or a file")
    models = read_npz(args.embeddings) if args.embeddings else read_workdir(args.workdir)
    quality = quality_rows(models, args.queries, args.seed) if models.labeled and models.unseen.any() else []
    scaling = scaling_rows(models, sizes, args.queries, args.seed)
    if args.workdir:
        write_tables(args.workdir, models, scaling, quality, args.queries)
    for rows in (scaling, quality):
        print_table(rows)
        print()


def main(argv: Sequence[str] | None = None) -> int:
    """Prints and writes the tables and returns the exit status: 1 if the input is bad."""
    prog = "python -m experiments.tables.scaling"
    parser = argparse.ArgumentParser(prog=prog, description="Measures the index by size.")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="a finished run; receives the tables")
    parser.add_argument("--embeddings", type=Path, metavar="FILE", help="an .npz file instead of the run's index")
    parser.add_argument("--sizes", default=SIZES, metavar="N,...", help=f"numbers of vectors, by default {SIZES}")
    parser.add_argument("--queries", type=int, default=1000, metavar="N", help="by default 1000")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    return finish(lambda: make_tables(args))


def chosen_sizes(text: str) -> list[int]:
    """Sizes, ascending. Raises InputError where one is no number or too small."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and int(part) >= K for part in parts):
        raise InputError("--sizes", f"{text!r}", f"give numbers of {K} or more with commas between them")
    return sorted({int(part) for part in parts})


if __name__ == "__main__":
    sys.exit(main())
