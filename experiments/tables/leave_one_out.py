"""What the encoder knows of families and data sets that it has never seen: each is left out of its training in turn.

    python -m experiments.tables.leave_one_out --workdir=runs/pretrain [--seed=0]

Writes `tables/left_out_families.csv` and `tables/left_out_datasets.csv`, with plots, into the folder of a finished run.
Without a family or a data set, the read-out is fitted again, in closed form. Its scores stand beside those of the same
fit on all training networks and of the run's own encoder, for the same queries in the same galleries.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from experiments.tables.finished_run import FinishedRun, load_run
from wsrl.cli.finish import finish
from wsrl.encoder.embed import Embedder
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.training.discriminant_analysis import fit_readout

FAMILIES, DATASETS = "left_out_families", "left_out_datasets"  # tables
FEWEST = 2  # training tasks
SCORES = {"P@1": "precision_at_1", "P@10": "precision_at_10", "mAP": "map"}
WITHOUT, ALL, ENCODER = FITS = "left out", "all", "encoder"
COLUMNS = (
    "Left out: the read-out fitted so, in closed form; all: fitted so on all training networks; encoder: that of the "
    "run, which contrastive steps may have changed. Brackets: 95 % intervals over lineages and encoder seeds."
)
TABLES = {
    FAMILIES: (
        "Leave one architecture family out",
        "The read-out is fitted without the networks of a family; queries are its networks on unseen tasks, the "
        "gallery holds all networks of unseen tasks, of the same family or of the others. " + COLUMNS,
    ),
    DATASETS: (
        "Leave one data set out",
        "The read-out is fitted without the networks of tasks on a data set, of mixtures and teachers that contain it, "
        "and of their lineages; queries are the networks of these tasks, the gallery holds them and all networks of "
        "unseen tasks. The encoder's inputs stay: some are unlabeled images of the data set. " + COLUMNS,
    ),
}

Embeddings = dict[str, Float[np.ndarray, "n dim"]]  # by each of FITS


@dataclass(frozen=True)
class Fold:
    """What is left out, and what that is measured on.

    Attributes:
      name: of the family or data set.
      dropped: places of the training networks that the read-out is fitted without.
      gallery: places of the networks that are searched.
      queries: which of them are queries.
    """

    name: str
    dropped: Int[np.ndarray, " m"]
    gallery: Int[np.ndarray, " n"]
    queries: Bool[np.ndarray, " n"]


def family_folds(run: FinishedRun) -> list[Fold]:
    """A fold for each family that there are unseen tasks' networks of."""
    family, training, gallery = np.array([r.architecture for r in run.records]), run.split["train"], run.unseen
    return [
        Fold(name, training[family[training] == name], gallery, family[gallery] == name)
        for name in dict.fromkeys(family[gallery].tolist())
    ]


def dataset_folds(run: FinishedRun) -> list[Fold]:
    """A fold for each data set that training tasks use."""
    training, lineage = run.split["train"], run.examples.lineage
    seen = {run.records[i].task for i in training}
    parts = [components(record.dataset) if record.task in seen else () for record in run.records]
    folds = []
    for name in sorted({part for own in parts for part in own}):
        uses = np.array([name in own for own in parts])
        related = np.isin(lineage, lineage[uses])
        gallery = np.concatenate([np.flatnonzero(uses), run.unseen])
        folds.append(Fold(name, training[related[training]], gallery, uses[gallery]))
    return folds


def components(dataset: str) -> tuple[str, ...]:
    """The data sets that the images of one come from: mixtures taken apart, teachers left out."""
    return tuple(re.sub(r"^(teacher/\d+/)+", "", part) for part in dataset.split("+"))


def embed_folds(
    run: FinishedRun, embedder: Embedder, seed: int, folds: Sequence[Fold], progress: tqdm
) -> list[Embeddings]:
    """For each fold the embeddings of its gallery by every fit, with the inputs of one encoder seed."""
    (encoder, params), swept, training = run.encoders[seed], run.swept[seed], run.split["train"]

    def fitted(places: np.ndarray) -> Any:
        return fit_readout(encoder, params, swept, run.examples, places, run.config.encoder.shrinkage)

    whole = {ALL: embedder.read(fitted(training), swept).embedding, ENCODER: embedder.read(params, swept).embedding}
    found = []
    for fold in folds:
        searched = swept.at(fold.gallery)
        without = embedder.read(fitted(np.setdiff1d(training, fold.dropped)), searched).embedding
        found.append({WITHOUT: without} | {fit: embedding[fold.gallery] for fit, embedding in whole.items()})
        progress.update()
    return found


def score_fold(run: FinishedRun, fold: Fold, by_seed: Sequence[Embeddings], resamples: int, seed: int) -> list[Row]:
    """A row for the galleries of the same architecture and of others, where queries have answers there."""
    relevance = Relevance.of([run.records[i] for i in fold.gallery])
    scores = {fit: [query_scores(own[fit], relevance, seed) for own in by_seed] for fit in FITS}
    rows: list[Row] = []
    for gallery in ("same", "cross"):
        answerable = fold.queries & np.isfinite(scores[WITHOUT][0][gallery]["map"])
        if not answerable.any():
            continue
        stacked = {
            f"{label} {fit}": np.stack([own[gallery][metric][answerable] for own in scores[fit]])
            for label, metric in SCORES.items()
            for fit in FITS
        }
        intervals = cluster_bootstrap(stacked, relevance.lineage[answerable], resamples, seed)
        told = {"without": fold.name, "networks less": len(fold.dropped), "gallery": gallery}
        rows.append({**told, "queries": int(answerable.sum()), **intervals})
    return rows


def usable(run: FinishedRun, folds: Sequence[Fold]) -> list[Fold]:
    """The folds that leave enough training tasks."""
    training, task = run.split["train"], run.examples.task
    return [fold for fold in folds if len(np.unique(task[np.setdiff1d(training, fold.dropped)])) >= FEWEST]


def make_tables(workdir: Path, resamples: int, seed: int) -> None:
    """Writes and prints the tables of a finished run.

    Raises:
      InputError: it is not finished, or its zoo has nothing that could be left out.
    """
    run = load_run(workdir)
    folds = {FAMILIES: usable(run, family_folds(run)), DATASETS: usable(run, dataset_folds(run))}
    if not any(folds.values()):
        raise InputError(workdir, "one family of networks, on one data set", "train on more of them")
    everything = [fold for own in folds.values() for fold in own]
    embedder = Embedder(run.encoders[0][0])  # encoders of all seeds have one shape
    with tqdm(total=len(everything) * len(run.swept), desc="leave one out", unit="fold") as progress:
        by_seed = [embed_folds(run, embedder, seed, everything, progress) for seed in range(len(run.swept))]
    found = iter(zip(*by_seed, strict=True))
    for name, own in folds.items():
        rows = [row for fold in own for row in score_fold(run, fold, next(found), resamples, seed)]
        if not rows:
            print(f"{name}: no table, nothing could be left out", file=sys.stderr)
            continue
        title, note = TABLES[name]
        labeled = [{**row, "fold": f"{row['without']}, {row['gallery']}"} for row in rows]
        figure = bar_figure(labeled, "fold", [f"mAP {fit}" for fit in FITS], "mAP")
        write_table(workdir, name, title, note, rows, figure)
        print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and of the breaking of ties")
    args = parser.parse_args(argv)
    return finish(lambda: make_tables(args.workdir, args.resamples, args.seed))


if __name__ == "__main__":
    sys.exit(main())
