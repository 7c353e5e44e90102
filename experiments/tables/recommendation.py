"""How well labeled examples of unseen tasks find models of these tasks.

    python -m experiments.tables.recommendation --workdir=runs/zoo [--examples=50,200] [--draws=1] [--seed=0]

Every unseen task of a run of the main job asks the models of its zoo that are of the split, with labeled examples
drawn from the task's held-out images, which no model was trained on; right are models of that task. Writes
`tables/recommendation.csv` and `.svg` into the folder. What is measured is kept in `recommendation.json`, from which
an interrupted run goes on. Methods:

    data set         similarity, by neighborhoods, to the vector that the data-set encoder gives the examples
    data set, LogME  its first 20, ranked anew by LogME of their features of the examples
    probes           mean similarity to embeddings of probe models, which are trained on the examples
    probes, LogME    the first 20 of these, ranked anew
    LogME            all models ranked by LogME
    random           a random order
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from experiments.job.records import read_records
from experiments.job.workdir import encoder_directories, read_config
from experiments.tables.encoded_gallery import Encoded, ask_by_examples, ask_by_probes, encode_gallery
from experiments.tables.kept import read_kept
from wsrl.cli.finish import finish
from wsrl.data import ImageSet, normalize
from wsrl.encoder.features import iterate_features
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.ranking import ranking_metrics
from wsrl.files import write_atomically
from wsrl.graph.tiles import TILE
from wsrl.recommendation.answer import NEAR, expected_accuracy
from wsrl.recommendation.logme import log_maximum_evidence
from wsrl.report.table_figures import line_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.zoo.load import Networks, load_networks
from wsrl.zoo.tasks import Task, load_tasks, transform_images

METRICS = {"P@1": "precision_at_1", "P@10": "precision_at_10", "mAP": "map"}
METHODS = ("data set", "data set, LogME", "probes", "probes, LogME", "LogME", "random")
HELD_OUT = 0.2  # share of the examples that probes are not trained on
LEAST = 10  # examples a query
TITLE = "Models for a data set, from labeled examples"
NOTE = (
    "Unseen tasks ask the {split} models of the zoo ({models} models) with labeled examples, drawn {draws} times from "
    "images that no model was trained on; right are models of the task. In brackets 95 % bootstrap "
    "intervals over tasks ({tasks}) and encoders ({encoders}). Seconds are medians over queries, after compilation, on "
    "{cores} cores; those with LogME of {near} add what LogME of these very models takes. "
    "The error of the expected accuracy is its mean distance from the mean accuracy of the models of the task."
)


@dataclass(frozen=True)
class Run:
    """What a run of the main job left.

    Attributes:
      networks: of the split.
      tasks: that no encoder was trained on.
      sets: image sets by name.
      encoders: what they make of the networks.
    """

    networks: Networks
    tasks: list[Task]
    sets: dict[str, ImageSet]
    encoders: list[Encoded]


def open_run(workdir: Path, split: str) -> Run:
    """Reads the zoo's networks of a split and embeds them by every encoder.

    Raises:
      InputError: the folder holds no finished run, or its zoo was not trained by the run.
    """
    config = read_config(workdir)
    if config.zoo.dir:
        raise InputError(workdir, "its zoo was made elsewhere", "name a run that trained its zoo")
    records, _ = read_records(workdir / "zoo", config.seed)
    known = {record.task for record in records if record.split == "train"}
    networks = load_networks(workdir / "zoo", [record for record in records if record.split == split], TILE)
    unseen = {record.task for record in networks.records} - known
    image_sets, tasks = load_tasks(config.zoo, config.seed)
    tasks = [task for task in tasks if task.id in unseen]
    if not tasks:
        raise InputError(workdir, f"no unseen task among the {split} models", "name another run or split")
    encoders = encode_gallery(encoder_directories(workdir, config.encoder.seeds), networks.graphs)
    return Run(networks, tasks, {images.name: images for images in image_sets}, encoders)


def draw_examples(images: ImageSet, task: Task, count: int, draw: int, seed: int) -> ImageSet:
    """Draws at most `count` labeled held-out images of a task; a fifth of them is held out from the probes."""
    labels = np.array(task.label_map)[images.y]
    key = int.from_bytes(hashlib.sha256(task.id.encode()).digest()[:4])
    rng = np.random.default_rng([seed, key, draw])
    rows = rng.permutation(np.flatnonzero(images.held_out & (labels >= 0)))[:count]
    held_out = np.arange(len(rows)) < round(HELD_OUT * len(rows))
    return ImageSet(
        task.id, transform_images(images.x[rows], task.transform), labels[rows], int(labels.max()) + 1, held_out
    )


def measure(run: Run, task: Task, examples: ImageSet, seed: int) -> dict[str, dict]:
    """Scores of each method for one query: `METRICS` [encoders], seconds, and the expected accuracy's error if told."""
    records = run.networks.records
    relevant = np.array([record.task == task.id for record in records])
    accuracy = np.array([record.accuracy for record in records])
    everyone = np.arange(len(records))
    evidence, seconds = logme_of_all(run, examples)
    answers = {
        "data set": ask_by_examples(run.encoders, everyone, examples),
        "probes": ask_by_probes(run.encoders, everyone, examples, seed),
    }
    found: dict[str, dict] = {}
    for name, asked in answers.items():
        errors = []
        for similarity in asked.similarities:
            errors.append(abs(expected_accuracy(similarity, accuracy) - float(accuracy[relevant].mean())))
        found[name] = scores(asked.orders, relevant) | {"seconds": asked.seconds, "error": float(np.mean(errors))}
        near = [by_evidence(order, evidence) for order in asked.orders]
        added = float(np.mean([seconds[order[:NEAR]].sum() for order in asked.orders]))
        found[f"{name}, LogME"] = scores(near, relevant) | {"seconds": asked.seconds + added}
    chance = np.random.default_rng([seed, len(examples.y)]).permutation(len(records))
    return found | {
        "LogME": scores([np.argsort(-evidence, kind="stable")], relevant) | {"seconds": float(seconds.sum())},
        "random": scores([chance], relevant) | {"seconds": 0.0},
    }


def by_evidence(order: Int[np.ndarray, "n"], evidence: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Ranks the first `NEAR` anew."""
    return np.concatenate([order[:NEAR][np.argsort(-evidence[order[:NEAR]], kind="stable")], order[NEAR:]])


def logme_of_all(run: Run, examples: ImageSet) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """LogME of every network on the examples, and the seconds that each takes."""
    evidence, seconds = np.zeros((2, len(run.networks.graphs)))
    for place, response in iterate_features(run.networks.graphs, normalize(examples.x)[..., None]):
        started = time.perf_counter()
        evidence[place] = log_maximum_evidence(response.features, examples.y)
        seconds[place] = response.seconds + time.perf_counter() - started
    return evidence, seconds


def scores(orders: Sequence[Int[np.ndarray, "n"]], relevant: np.ndarray) -> dict[str, list[float]]:
    """Metrics of ranked galleries, one an encoder."""
    stacked = np.stack(orders)
    both = np.broadcast_to(relevant, stacked.shape)
    found = ranking_metrics(stacked, both, np.ones_like(both))
    return {name: found[metric].tolist() for name, metric in METRICS.items()}


def measured(
    run: Run, path: Path, settings: dict, counts: Sequence[int], draws: int, seed: int
) -> Iterator[tuple[int, str, dict[str, dict]]]:
    """Yields (examples, task, scores) of all queries; those that the file holds of these settings are not repeated."""
    state = read_kept(path, settings, "queries")
    queries = [(count, task, draw) for count in counts for task in run.tasks for draw in range(draws)]
    for count, task, draw in tqdm(queries, desc="queries", unit="query", mininterval=1.0):
        key = f"{count}/{task.id}/{draw}"
        if key not in state["queries"]:
            examples = draw_examples(run.sets[task.dataset], task, count, draw, seed)
            state["queries"][key] = measure(run, task, examples, seed * draws + draw)
            write_atomically(path, json.dumps(state).encode())
        yield count, task.id, state["queries"][key]


def summarize(queries: Sequence[tuple[int, str, dict[str, dict]]], seed: int) -> list[Row]:
    """Rows of the table: one for each number of examples and method."""
    rows = []
    for count in sorted({count for count, _, _ in queries}):
        own = [(task, found) for number, task, found in queries if number == count]
        tasks = np.unique([task for task, _ in own], return_inverse=True)[1]
        for method in METHODS:
            found = [scored[method] for _, scored in own]
            stacked = {name: np.array([query[name] for query in found]).T for name in METRICS}
            row: dict[str, Any] = {"examples": count, "method": method}
            row |= cluster_bootstrap(stacked, tasks, seed=seed)
            row["seconds"] = float(np.median([query["seconds"] for query in found]))
            if "error" in found[0]:
                row["error of expected accuracy"] = float(np.mean([query["error"] for query in found]))
            rows.append(row)
    return rows


def make_table(args: argparse.Namespace) -> None:
    """Measures, writes and prints the table."""
    counts = check_arguments(args)
    run = open_run(args.workdir, args.split)
    hashes = [own.hash for own in run.encoders]
    settings = {"seed": args.seed, "draws": args.draws, "split": args.split, "encoders": hashes}
    name = "recommendation" if args.split == "test" else f"recommendation-{args.split}"
    found = list(measured(run, args.workdir / f"{name}.json", settings, counts, args.draws, args.seed))
    rows = summarize(found, args.seed)
    note = NOTE.format(
        split=args.split,
        models=len(run.networks.records),
        draws=args.draws,
        tasks=len(run.tasks),
        encoders=len(run.encoders),
        cores=os.cpu_count(),
        near=NEAR,
    )
    write_table(args.workdir, name, TITLE, note, rows, line_figure(rows, "examples", "mAP", "method", log="x"))
    print_table(rows)


def check_arguments(args: argparse.Namespace) -> list[int]:
    """Returns the numbers of examples.

    Raises:
      InputError: one is no number or too small, as may be the draws or the seed.
    """
    counts = args.examples.split(",")
    if not all(count.isdecimal() and int(count) >= LEAST for count in counts):
        raise InputError("--examples", f"{args.examples!r} are not numbers from {LEAST}", "give them as 50,200")
    for name, least in (("draws", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name}", f"{getattr(args, name)} is too small", f"give {least} or more")
    return [int(count) for count in counts]


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the table and returns the exit status: 1 if the input is bad."""
    parser = argparse.ArgumentParser(prog="python -m experiments.tables.recommendation", description=TITLE)
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="of a run of experiments.main")
    parser.add_argument("--examples", metavar="N,...", default="50,200", help="labeled images a query")
    parser.add_argument("--draws", metavar="N", type=int, default=1, help="queries a task and number of examples")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="whose tasks ask whose models")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of draws, probes and the bootstrap")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)  # before JAX looks for its devices
    sys.exit(main())
