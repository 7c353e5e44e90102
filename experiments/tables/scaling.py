"""How well a zoo answers as it grows; how fast, tells `python -m experiments.scale`.

    python -m experiments.tables.scaling --workdir=runs/zoo [--embeddings=FILE.npz]

Vectors are those of the run's index, with tasks, lineages and splits from the zoo's manifest, or those of an .npz file:
`embeddings` [n, dim], `task`, and where there are such `lineage` and `split` [n]. Writes `tables/scaling_quality.*`;
without --workdir it only prints them.
"""

import argparse
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.job.records import read_records
from experiments.job.workdir import read_config, zoo_directory
from wsrl.cli.finish import finish
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.ranking import LIMIT, cosine_similarity, rank_gallery, ranking_metrics
from wsrl.evaluation.relevance import labels
from wsrl.report.table_figures import line_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.nearest import NearestNeighbors

FEWEST_QUERIES = 100
DRAWS = 5  # galleries of each size
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


def write_quality(workdir: Path, models: Models, rows: Sequence[Row], queries: int) -> None:
    """Writes the table with its plot."""
    scores = [
        {"models": row["models"], "score": name, "value": row.get(name)}
        for name in ("P@1", "P@10", "mAP", "best possible P@10")
        for row in rows
    ]
    figure = line_figure(scores, "models", "value", by="score", log="x", axis="score")
    asked = min(queries, int(models.unseen.sum()))
    told = f"{asked:,} test models of tasks without a model in another split"
    note = QUALITY_NOTE.format(draws=DRAWS, queries=told)
    write_table(workdir, "scaling_quality", "Quality by size of the zoo", note, rows, figure)


def make_table(args: argparse.Namespace) -> None:
    """Writes the table into the workdir, if there is one, and prints it.

    Raises:
      InputError: arguments or files that cannot be used.
    """
    if args.queries < FEWEST_QUERIES or args.seed < 0:
        raise InputError("--queries, --seed", f"{args.queries}, {args.seed}", f"ask {FEWEST_QUERIES} or more; 0 on")
    if args.embeddings is None and args.workdir is None:
        raise InputError("command line", "neither --workdir nor --embeddings", "name a finished run, or a file")
    models = read_npz(args.embeddings) if args.embeddings else read_workdir(args.workdir)
    if not models.labeled or not models.unseen.any():
        reason = "no model of the test split is of a task of its own"
        raise InputError(args.embeddings or args.workdir, reason, "give the task and the split of each")
    rows = quality_rows(models, args.queries, args.seed)
    if args.workdir:
        write_quality(args.workdir, models, rows, args.queries)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints and writes the tables and returns the exit status: 1 if the input is bad."""
    prog = "python -m experiments.tables.scaling"
    parser = argparse.ArgumentParser(prog=prog, description="Measures answers by size of the zoo.")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="a finished run; receives the tables")
    parser.add_argument("--embeddings", type=Path, metavar="FILE", help="an .npz file instead of the run's index")
    parser.add_argument("--queries", type=int, default=1000, metavar="N", help="by default 1000")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())
