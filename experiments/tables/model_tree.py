"""Whether search inside a model tree finds children of the same task, beside other ways to compare children.

    python -m experiments.tables.model_tree --workdir=runs/tree [--split=test] [--seeds=3] [--steps=300]

The tree is one that `experiments.trees.build` made. Each child of a test task searches all other children of test
tasks, whose sets no trained method has seen; with `--split=train` those of the training tasks, on which choices are
made. Rows of wsrl show what it does, and the same without neighbors, without what strangers score, without heads, and
heads alone; one more row scores the plain differences as wsrl does. A linear read-out tells which classes the children
of random subsets of one set were trained on, in the manner of ProbeX (Horwitz et al. 2024). Writes
`tables/model_tree.csv` and `tables/model_tree_classes.csv`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from experiments.trees.class_readout import class_precision
from experiments.trees.measured import MeasuredTree, measure_tree
from experiments.trees.rank_tokens import fit_rank_transformer, tokens
from wsrl.baselines.chance import chance_features
from wsrl.baselines.raw_weights import raw_weight_features
from wsrl.baselines.statistics import statistics_features
from wsrl.cli.finish import finish
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.interval import Interval
from wsrl.evaluation.ranking import cosine_similarity, rank_gallery, ranking_metrics
from wsrl.relative.fit_weights import fit_weights
from wsrl.relative.metric import Metric, kind_weights
from wsrl.relative.neighbors import NEIGHBORS, Gallery
from wsrl.relative.vector import Block
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table

NAME, TITLE = "model_tree", "Inside a model tree"
CLASSES_NAME, CLASSES_TITLE = "model_tree_classes", "Which classes a child was trained on"
NOTE = (
    "{children} children of {tasks} tasks on {sets} sets that no method was trained on, from a base of {parameters:,} "
    "parameters; {training} children of {training_tasks} other tasks to train on. Each child searches all others. "
    "Brackets: 95 % intervals over children and seeds of trained methods."
)
CLASSES_NOTE = (
    "{children} children, each trained on {own} of {classes} classes of one set. A ridge regression on half of "
    "them tells of the others which classes they know: mean over the classes of the average precision. Brackets: 95 % "
    "intervals over draws of the halves."
)
SKETCH = 2**14  # numbers that differences are projected to at random; cosines are off by about a hundredth
METRICS = {"P@1": "precision_at_1", "mAP": "map"}
Similarities = Float[np.ndarray, "n n"]


def scores(similarity: Similarities, task: Int[np.ndarray, " n"], seed: int) -> dict[str, Float[np.ndarray, " n"]]:
    """Scores of each child as a query against all others."""
    eligible = ~np.eye(len(task), dtype=bool)
    return ranking_metrics(rank_gallery(similarity, seed), task[:, None] == task, eligible)


def methods(tree: MeasuredTree, split: str, seeds: int, steps: int) -> dict[str, list[Similarities]]:
    """Returns the scores of a split's children by each method, for each of its seeds."""
    asked, training = tree.places(split), tree.places("train")
    vectors, blocks = tree.vectors[asked], tree.blocks

    def cosine(features: Float[np.ndarray, "n dim"]) -> Similarities:
        return cosine_similarity(features[asked], features[asked])

    usual, trained = kind_weights(blocks), fit_weights(tree.vectors[training], tree.task[training], blocks)
    heads = np.array([block.kind == "head" for block in blocks])
    plain = raw_weight_features(tree.dense, SKETCH)
    found = {
        "wsrl, trained": [searched(vectors, blocks, trained)],
        "wsrl, trained, without neighbors": [searched(vectors, blocks, trained, 0)],
        "wsrl": [searched(vectors, blocks, usual)],
        "wsrl, without neighbors": [searched(vectors, blocks, usual, 0)],
        "wsrl, without neighbors, cosines": [Metric(vectors, blocks, usual, 0).similarities(vectors, vectors)],
        "wsrl, without heads": [searched(vectors, blocks, np.where(heads, 0, usual))],
        "wsrl, heads alone": [searched(vectors, blocks, heads.astype(np.float32))],
        "differences, scored alike": [searched(plain[asked], [Block("product", "", slice(0, plain.shape[1]))], None)],
        "cosine of differences": [cosine(plain)],
        "statistics of differences": [cosine(statistics_features(tree.dense, training, slots=len(tree.modules)))],
    }
    given = tokens(tree.dense, tree.modules)
    found["token transformer on canonical ranks"] = [
        cosine(fit_rank_transformer(given, tree.task, training, steps, seed)) for seed in range(seeds)
    ]
    found["chance"] = [cosine(chance_features(len(tree.task), seed)) for seed in range(seeds)]
    return found


def searched(
    vectors: Float[np.ndarray, "n dim"],
    blocks: Sequence[Block],
    weights: Float[np.ndarray, " blocks"] | None,
    neighbors: int = NEIGHBORS,
) -> Similarities:
    """Returns the scores of all children when each is asked for, which is left out of all neighborhoods meanwhile."""
    gallery = Gallery(vectors, Metric(vectors, blocks, weights), neighbors)
    return np.stack([gallery.scores(vector, place) for place, vector in enumerate(vectors)])


def retrieval_rows(tree: MeasuredTree, split: str, seeds: int, steps: int, resamples: int) -> list[Row]:
    """The rows of the table of retrieval."""
    task, rows = tree.task[tree.places(split)], []
    for method, by_seed in methods(tree, split, seeds, steps).items():
        own = [scores(similarity, task, seed) for seed, similarity in enumerate(by_seed)]
        answered = np.isfinite(own[0]["map"])
        stacked = {name: np.stack([run[key][answered] for run in own]) for name, key in METRICS.items()}
        rows.append({"method": method, **cluster_bootstrap(stacked, np.arange(answered.sum()), resamples)})
    return rows


def class_rows(tree: MeasuredTree, draws: int) -> list[Row]:
    """The rows of the table of classes; none if the tree has no children of random classes."""
    subset = tree.places("subset")
    if len(subset) < 4:
        return []
    known = np.zeros((len(subset), max(max(own) for own in tree.sources) + 1), bool)
    for row, place in zip(known, subset, strict=True):
        row[list(tree.sources[place])] = True
    known = known[:, known.any(0)]
    heads = [block for block in tree.blocks if block.kind == "head"]
    bodies = np.concatenate([tree.vectors[subset][:, b.entries] for b in tree.blocks if b not in heads], 1)
    chance = [chance_features(len(subset), seed) for seed in range(draws)]
    dense = [tree.dense[place] for place in subset]
    features: dict[str, Sequence[np.ndarray]] = {
        "wsrl": [Metric(tree.vectors[subset], tree.blocks).describe(tree.vectors[subset]).features] * draws,
        "wsrl, without heads": [bodies] * draws,
        "statistics of differences": [statistics_features(dense, np.arange(len(dense)), len(tree.modules))] * draws,
        "chance": chance,
    }
    rows: list[Row] = []
    for method, own in features.items():
        found = np.array([class_precision(each, known, draw) for draw, each in enumerate(own)])
        low, high = np.quantile(found, [0.025, 0.975])
        rows.append({"method": method, "mAP": Interval(float(found.mean()), float(low), float(high))})
    return rows


def make_tables(args: argparse.Namespace) -> None:
    """Writes and prints both tables.

    Raises:
      InputError: a number makes no sense, or there is no tree with children of both splits.
    """
    for name in ("seeds", "steps", "resamples"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}", f"{getattr(args, name)} is too small", "set it to 1 or more")
    tree = measure_tree(args.workdir)
    test, training, subset = (tree.places(split) for split in (args.split, "train", "subset"))
    if len(test) < 2 or len(training) < 2:
        raise InputError(args.workdir, "holds too few children", "build a larger tree")
    note = NOTE.format(
        children=len(test),
        tasks=len(set(tree.task[test])),
        sets=len({tree.datasets[place] for place in test}),
        parameters=tree.parameters,
        training=len(training),
        training_tasks=len(set(tree.task[training])),
    )
    rows = retrieval_rows(tree, args.split, args.seeds, args.steps, args.resamples)
    figure = bar_figure(rows, "method", list(METRICS), "models of the same task")
    write_table(args.workdir, NAME, TITLE, note, rows, figure)
    print_table(rows)
    print(note)
    if rows := class_rows(tree, args.draws):
        classes = len({c for place in subset for c in tree.sources[place]})
        own = len(tree.sources[subset[0]])
        note = CLASSES_NOTE.format(children=len(subset), own=own, classes=classes)
        figure = bar_figure(rows, "method", ["mAP"], "mean average precision over classes")
        write_table(args.workdir, CLASSES_NAME, CLASSES_TITLE, note, rows, figure)
        print_table(rows)
        print(note)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder that `experiments.trees.build` filled")
    parser.add_argument("--split", choices=("test", "train"), default="test", help="tasks whose children are asked for")
    parser.add_argument("--seeds", type=int, default=3, help="of the token transformer and of chance")
    parser.add_argument("--steps", type=int, default=300, help="of the token transformer")
    parser.add_argument("--draws", type=int, default=20, help="of the halves of the children of random classes")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    args = parser.parse_args(argv)
    return finish(lambda: make_tables(args))


if __name__ == "__main__":
    sys.exit(main())
