"""Which architecture to train on an unseen task: regret of what a zoo recommends.

    python -m experiments.tables.architecture_choice --workdir=runs/zoo [--examples=200] [--steps=300] [--seed=0]

For every unseen task of a run of the main job, all architectures of its catalogue are trained on the task, `RUNS` runs
each. The zoo's models of tasks that encoders were trained on are the experience; a method sees them and some labeled
examples, and names one architecture. Half of the runs tell what was best in hindsight, the other half how accurate each
choice is; then the halves change places. Writes `tables/architecture_choice.csv` and `.svg` into the folder; what was
trained is kept in `architecture_choice.json`, from which an interrupted run goes on. Methods:

    probes         effects on tasks near to probe models that are trained on the examples
    data set       effects on tasks near to the data-set encoder's vector of the examples
    all tasks      effects on all tasks alike
    same data set  effects on tasks of the same source of images and kind of labels, as the metadata tells; all tasks
                   where there is none
    largest        most parameters
    random         the mean of all architectures
    hindsight      best in the other half of the runs
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from experiments.job.records import read_records
from experiments.job.workdir import encoder_directories, read_config
from experiments.tables.encoded_gallery import Encoded, ask_by_examples, ask_by_probes, encode_gallery
from experiments.tables.kept import read_kept
from experiments.tables.recommendation import draw_examples
from wsrl.cli.finish import finish
from wsrl.data import ImageSet
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.files import write_atomically
from wsrl.graph.tiles import TILE
from wsrl.recommendation.architecture import DESCRIBED, rank_architectures
from wsrl.recommendation.probes import train_probes
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.load import Networks, load_networks
from wsrl.zoo.models import Classifier
from wsrl.zoo.tasks import Task, load_tasks, transform_images

NAME = "architecture_choice"
RUNS = 4  # of each architecture on each task
TITLE = "Which architecture to train"
NOTE = (
    "{tasks} unseen tasks, {architectures} architectures, {runs} runs of {steps} steps of each on each task. Methods "
    "see {models} models of other tasks and {examples} labeled examples. Regret is the accuracy of the architecture "
    "that is best in other runs on the task, less that of the chosen one. In brackets 95 % bootstrap intervals over "
    "tasks."
)
Key = tuple[str, int, int]


def variants(config: Any) -> dict[Key, Classifier]:
    """The architectures of a run's zoo by family, width and depth, as its manifest describes them."""
    catalogue = CATALOGUES[config.zoo.catalogue]
    names = config.zoo.families.split(",")
    found = {(name, own) for name in names for own in catalogue[name].variants}
    return {(name, max(own.widths), len(own.widths)): own for name, own in sorted(found, key=str)}


def train_on(task: Task, images: ImageSet, model: Classifier, steps: int, seed: int) -> list[float]:
    """Accuracies on held-out images of `RUNS` networks that are trained on a task."""
    labels = np.array(task.label_map)[images.y]
    rows = np.flatnonzero(labels >= 0)
    own = ImageSet(
        task.id,
        transform_images(images.x[rows], task.transform),
        labels[rows],
        int(labels.max()) + 1,
        images.held_out[rows],
    )
    return train_probes(own, seed, [model], RUNS, steps).accuracies.tolist()


def choices(
    encoded: Sequence[Encoded], networks: Networks, task: Task, examples: ImageSet, sizes: Mapping[Key, int], seed: int
) -> dict[str, list[Key]]:
    """What each method recommends, one architecture an encoder."""
    records = networks.records
    metadata = [{key: record.get(key) for key in (*DESCRIBED, "task", "run", "step")} for record in records]
    accuracy = np.array([record.accuracy for record in records])
    kinds = [record.architecture for record in records]

    def best(similarity: Float[np.ndarray, "n"]) -> Key:
        for own in rank_architectures(metadata, kinds, accuracy, similarity, 0.5):
            key = own.architecture, own.width or 0, own.depth or 0
            if key in sizes:
                return key
        raise InputError(task.id, "no architecture of the zoo is known", "name a run that trained its zoo")

    everyone = np.arange(len(records))
    asked = {
        "probes": ask_by_probes(encoded, everyone, examples, seed).similarities,
        "data set": ask_by_examples(encoded, everyone, examples).similarities,
    }
    same = np.array([r.get("dataset") == task.dataset and r.get("labels") == task.labels for r in records], float)
    return {name: [best(own) for own in similarities] for name, similarities in asked.items()} | {
        "all tasks": [best(np.zeros(len(records)))],
        "same data set": [best(same)],
        "largest": [max(sizes, key=lambda key: sizes[key])],
    }


def scores(chosen: Mapping[str, list[Key]], accuracies: Mapping[Key, list[float]]) -> dict[str, dict[str, float]]:
    """Accuracy of each method's choice and its regret, mean over the two halves of the runs."""
    halves = np.stack([np.array(own).reshape(2, -1).mean(1) for own in accuracies.values()])  # [architectures, 2]
    place = {key: i for i, key in enumerate(accuracies)}
    hindsight = float(np.mean([halves[halves[:, 1 - half].argmax(), half] for half in range(2)]))
    found = {name: float(np.mean([halves[place[key]].mean() for key in keys])) for name, keys in chosen.items()}
    found |= {"random": float(halves.mean()), "hindsight": hindsight}
    return {name: {"accuracy": value, "regret": hindsight - value} for name, value in found.items()}


def make_table(args: argparse.Namespace) -> None:
    """Trains, asks, writes and prints the table."""
    config = read_config(args.workdir)
    if config.zoo.dir:
        raise InputError(args.workdir, "its zoo was made elsewhere", "name a run that trained its zoo")
    records, _ = read_records(args.workdir / "zoo", config.seed)
    known = {record.task for record in records if record.split == "train"}
    tested = {record.task for record in records if record.split == args.split} - known
    sets, tasks = load_tasks(config.zoo, config.seed)
    images, tasks = {own.name: own for own in sets}, [task for task in tasks if task.id in tested]
    models = variants(config)
    state = trained(args, tasks, images, models)
    networks = load_networks(args.workdir / "zoo", [record for record in records if record.split == "train"], TILE)
    encoded = encode_gallery(encoder_directories(args.workdir, config.encoder.seeds), networks.graphs)
    parameters: dict[Key, int] = {}
    for record in networks.records:
        key = record.architecture, int(record.get("width")), int(record.get("depth"))
        if key in models:
            parameters[key] = max(parameters.get(key, 0), int(record.get("parameters")))
    found = []
    for number, task in enumerate(tqdm(tasks, desc="queries", unit="task")):
        examples = draw_examples(images[task.dataset], task, args.examples, 0, args.seed)
        chosen = choices(encoded, networks, task, examples, parameters, args.seed + number)
        accuracies = {key: state[task.id]["/".join(map(str, key))] for key in parameters}
        found.append(scores(chosen, accuracies))
    rows = summarize(found, args.seed)
    note = NOTE.format(
        tasks=len(tasks), architectures=len(parameters), runs=RUNS, steps=args.steps,
        models=len(networks.records), examples=args.examples,
    )  # fmt: skip
    name = NAME if args.split == "test" else f"{NAME}-{args.split}"
    write_table(args.workdir, name, TITLE, note, rows, bar_figure(rows, "method", ["regret"], "regret"))
    print_table(rows)


def trained(
    args: argparse.Namespace, tasks: Sequence[Task], images: Mapping[str, ImageSet], models: Mapping[Key, Classifier]
) -> dict[str, dict[str, list[float]]]:
    """Accuracies by task and architecture; those that the file holds of these settings are not trained again."""
    path = args.workdir / f"{NAME}.json"
    settings = {"seed": args.seed, "steps": args.steps, "runs": RUNS}
    state = read_kept(path, settings, "accuracies")
    work = [(task, key) for task in tasks for key in models]
    for task, key in tqdm(work, desc="training", unit="architecture"):
        own = state["accuracies"].setdefault(task.id, {})
        name = "/".join(map(str, key))
        if name not in own:
            own[name] = train_on(task, images[task.dataset], models[key], args.steps, args.seed)
            write_atomically(path, json.dumps(state).encode())
    return state["accuracies"]


def summarize(found: Sequence[Mapping[str, Mapping[str, float]]], seed: int) -> list[Row]:
    """A row for each method: means over tasks with intervals."""
    rows: list[Row] = []
    for method in found[0]:
        stacked = {name: np.array([[own[method][name] for own in found]]) for name in ("accuracy", "regret")}
        rows.append({"method": method, **cluster_bootstrap(stacked, np.arange(len(found)), seed=seed)})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the table and returns the exit status: 1 if the input is bad."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.tables.{NAME}", description=TITLE)
    parser.add_argument("--workdir", metavar="DIR", type=Path, required=True, help="of a run of experiments.main")
    parser.add_argument("--examples", metavar="N", type=int, default=200, help="labeled images a query")
    parser.add_argument("--steps", metavar="N", type=int, default=300, help="of training each network")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="whose tasks are asked for")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of networks, draws and the bootstrap")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)  # before JAX looks for its devices
    sys.exit(main())
