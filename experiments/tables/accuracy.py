"""How well accuracies are told from weights, and how well they could be.

    python -m experiments.tables.accuracy --workdir=runs/zoo [--without-baselines]

Kendall's tau between predicted and measured accuracy of the test models of a finished run of the main job, for the
tasks that its encoders were trained on and for the unseen ones. Writes `tables/accuracy.csv` and `.svg` into the
folder. Rows:

    wsrl                         the encoders' predicted accuracy, half-way to that of a model's neighbors among the
                                 test models
    wsrl, models alone           the encoders' predicted accuracy
    weight statistics            boosted trees on statistics of each layer's weights (Unterthiner et al. 2020)
    mean of the task             what nobody knows of an unseen task: the mean accuracy of its models
    other held-out images        accuracies measured on half of a task's held-out images, told from the other half
    the accuracy itself          what as many images drawn anew would measure, told from the measured accuracy: no
                                 prediction can do better, since no weights tell which images happen to be held out

The last four read all training checkpoints or run all test models; `--without-baselines` leaves them out, which takes
a minute, and writes `tables/accuracy_wsrl.csv`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.ensemble import HistGradientBoostingRegressor
from tqdm import tqdm

from experiments.job.baselines import Weights
from experiments.job.trainable import load_trainable
from experiments.tables.finished_run import FinishedRun, load_run
from wsrl.baselines import statistics_features
from wsrl.cli.finish import finish
from wsrl.encoder.embed import Embedder
from wsrl.encoder.swept import Encoding
from wsrl.errors import InputError
from wsrl.evaluation.accuracy import accuracy_tau
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.query_expansion import QueryExpansion
from wsrl.zoo.bank import image_bank, output_units
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.predictions import predict
from wsrl.zoo.tasks import load_tasks

NAME = "accuracy"
TITLE = "Accuracy told from weights"
BLOCK = 512  # models in memory at a time
NOTE = (
    "Kendall's tau-b with the measured accuracy of {seen} test models of tasks that were trained on and {unseen} of "
    "unseen ones; brackets: 95 % intervals over lineages and, for wsrl, encoder seeds."
)
IMAGES_NOTE = (
    " The last three rows know the task's held-out images, {fewest} to {most} each, and tell how far a prediction "
    "could come."
)


def encodings(run: FinishedRun, places: Int[np.ndarray, " n"]) -> list[Encoding]:
    """What each encoder of a run says of some networks."""
    embedder = Embedder(run.encoders[0][0])
    return [embedder.read(params, swept.at(places)) for (_, params), swept in zip(run.encoders, run.swept, strict=True)]


def boosted_statistics(run: FinishedRun, places: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Accuracies that boosted trees, fitted to the training networks, tell from statistics of weights."""
    features = statistics_features(Weights(StoredCheckpoints(run.zoo, run.records)), run.split["train"])
    trees = HistGradientBoostingRegressor(random_state=run.config.seed)
    trees.fit(features[run.split["train"]], run.examples.accuracy[run.split["train"]])
    return np.asarray(trees.predict(features[places]))


def answers(run: FinishedRun, places: Int[np.ndarray, " n"]) -> list[Bool[np.ndarray, "_"]]:
    """Which held-out images of its task each network answers rightly.

    Raises:
      InputError: the zoo's data cannot be read, or its architectures are not those of the configuration.
    """
    sets, tasks = load_tasks(run.config.zoo, run.config.seed)
    bank = image_bank(sets, tasks, run.config.zoo.test_images)
    images, right = jnp.asarray(bank.images), []
    for start in tqdm(range(0, len(places), BLOCK), desc="held-out images", unit="block"):
        records = [run.records[i] for i in places[start : start + BLOCK]]
        models = load_trainable(run.zoo, records, run.config.zoo)
        rows = [bank.test[record.task] for record in records]
        units = predict(models.architectures, models.variables, [own for own, _ in rows], images)
        orders = [record.get("class_order") for record in records]
        right += [
            own == output_units(order)[labels] for own, order, (_, labels) in zip(units, orders, rows, strict=True)
        ]
        jax.clear_caches()
    return right


def halves(
    right: Sequence[Bool[np.ndarray, "_"]], rng: np.random.Generator
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Accuracies on a random half of each network's images and on the other half."""
    parts = [np.array_split(rng.permutation(own), 2) for own in right]
    first, second = np.array([[half.mean() for half in own] for own in parts]).T
    return first, second


def drawn_anew(
    right: Sequence[Bool[np.ndarray, "_"]], rng: np.random.Generator
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Measured accuracies, and what as many images drawn anew would measure if those were true."""
    accuracy = np.array([own.mean() for own in right])
    count = np.array([len(own) for own in right])
    return accuracy, rng.binomial(count, accuracy) / count


Told = dict[str, tuple[list[np.ndarray], np.ndarray]]  # predictions, one an encoder, and what was measured


def told_by_encoders(run: FinishedRun) -> Told:
    """What is told of the test networks by embedding them."""
    test = run.split["test"]
    encoded, accuracy = encodings(run, test), run.examples.accuracy[test]
    kinds = [run.records[i].architecture for i in test]
    return {
        "wsrl": ([QueryExpansion.build(own.embedding, kinds).smoothed(own.accuracy) for own in encoded], accuracy),
        "wsrl, models alone": ([own.accuracy for own in encoded], accuracy),
    }


def told_by_baselines(run: FinishedRun) -> tuple[Told, list[int]]:
    """What is told of them otherwise, and the numbers of their held-out images."""
    test = run.split["test"]
    accuracy, task = run.examples.accuracy[test], run.examples.task[test]
    means = {number: accuracy[task == number].mean() for number in np.unique(task)}
    told: Told = {
        "weight statistics": ([boosted_statistics(run, test)], accuracy),
        "mean of the task": ([np.array([means[number] for number in task])], accuracy),
    }
    right = answers(run, test)
    rng = np.random.default_rng([run.config.seed, 12])
    for name, measure in (("other held-out images", halves), ("the accuracy itself", drawn_anew)):
        known, measured = measure(right, rng)
        told[name] = [known], measured
    return told, [len(own) for own in right]


def rows_of(run: FinishedRun, told: Told) -> list[Row]:
    """A row of the table for all that is told."""
    unseen = np.isin(run.split["test"], run.unseen)
    rows: list[Row] = []
    for name, (predicted, measured) in told.items():
        row: dict[str, Any] = {"told from": name}
        for column, chosen in (("seen tasks", ~unseen), ("unseen tasks", unseen)):
            at = run.split["test"][chosen]
            own = [
                replace(run.records[i], accuracy=float(value)) for i, value in zip(at, measured[chosen], strict=True)
            ]
            row[column] = accuracy_tau([values[chosen] for values in predicted], own, seed=run.config.seed)
        rows.append(row)
    return rows


def make_table(args: argparse.Namespace) -> None:
    """Measures, writes and prints the table."""
    run = load_run(args.workdir)
    if run.config.zoo.dir:
        raise InputError(args.workdir, "its zoo was made elsewhere", "name a run that trained its zoo")
    told, name = told_by_encoders(run), f"{NAME}_wsrl"
    note = NOTE.format(seen=len(run.split["test"]) - len(run.unseen), unseen=len(run.unseen))
    if not args.without_baselines:
        others, images = told_by_baselines(run)
        told, name = told | others, NAME
        note += IMAGES_NOTE.format(fewest=min(images), most=max(images))
    rows = rows_of(run, told)
    figure = bar_figure(rows, label="told from", values=["seen tasks", "unseen tasks"], axis="Kendall's tau")
    write_table(args.workdir, name, TITLE, note, rows, figure)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the table and returns the exit status: 1 if the input is bad."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables.accuracy", description=TITLE)
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="of a run of experiments.main")
    parser.add_argument("--without-baselines", action="store_true", help="the rows of wsrl alone")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())
