"""The stages of the main job, in order; a stage that was interrupted goes on where it stopped."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.baselines import baseline_methods
from experiments.data_sets import fit_data_sets, task_data
from experiments.starts import fit_starts, probe_models
from wsrl.annotations import Config
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import save_encoder
from wsrl.encoder.fit import Fitted, fit_encoder, init_params, make_encoder
from wsrl.encoder.inputs import natural_inputs
from wsrl.encoder.losses import LOSSES
from wsrl.encoder.sampling import Examples
from wsrl.encoder.swept_zoo import sweep_zoo
from wsrl.errors import InputError
from wsrl.evaluation import accuracy_tau, evaluate_methods, query_examples, write_results
from wsrl.evaluation.relevance import Relevance
from wsrl.evaluation.retrieval import query_scores
from wsrl.files import write_atomically
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.report import write_report
from wsrl.search.nearest import NearestNeighbors
from wsrl.symmetry import random_symmetry
from wsrl.wiring.infer import infer_wiring
from wsrl.zoo.families import CATALOGUES
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.manifest import Record, assign_splits, read_manifest
from wsrl.zoo.storage import STORAGES
from wsrl.zoo.tasks import load_tasks
from wsrl.zoo.training import train_zoo

ENCODER = "wsrl"
LEAST = {  # values of settings
    1: {
        "zoo": ("image_size", "chunk_size", "batch_size", "steps", "checkpoints"),
        "encoder": (
            *("seeds", "tile", "window", "probes", "gradient_probes", "chunk", "dim", "rank"),
            *("batch_size", "tasks_per_batch", "steps", "validate_every"),
        ),
        "dataset_encoder": (
            *("validate_every", "batch_size", "tasks_per_batch", "data_sets", "fewest_examples", "most_examples"),
        ),
        "gnn": ("width", "rounds", "edges", "tasks_per_batch", "validate_every"),
        "starts": ("models",),
        "evaluation": ("resamples", "invariance_models"),
    },
    0.001: {"encoder": ("smoothing", "hard_negatives")},
    0: {
        "zoo": ("num_children", "num_distilled", "num_copies"),
        "encoder": ("blur", "evidence", "template"),
        "dataset_encoder": ("steps",),
        "starts": ("tasks",),
        "gnn": ("steps",),
    },
}


class Stages:
    """Wall-clock seconds of each stage; times of one name add up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run(config: Config, workdir: str | Path) -> dict[str, Any]:
    """Runs the whole job and returns what it writes to `results.json`.

    Raises:
      InputError: unusable settings, data or zoo, or a folder that holds another run.
    """
    workdir, stages = Path(workdir), Stages()
    check_settings(config)
    claim_workdir(config, workdir)
    with stages("zoo"):
        zoo = Path(config.zoo.dir) if config.zoo.dir else workdir / "zoo"
        trained = {} if config.zoo.dir else train_zoo(config.zoo, zoo, config.seed)
        records, problems = read_manifest(zoo)
        if any(record.split is None for record in records):
            records = assign_splits(records, config.seed)
    with stages("sweeps"):
        seeds = range(config.encoder.seeds)
        directories = encoder_directories(workdir, config.encoder.seeds)
        inputs = draw_inputs(config)
        embedder = Embedder(make_encoder(config.encoder, inputs[0].shape[1:]))
        start = [init_params(embedder.encoder, own, seed) for own, seed in zip(inputs, seeds, strict=True)]
        learned = config.encoder.input_learning_rate > 0
        found = sweep_zoo(embedder, start, zoo, records, config.encoder, directories, keep_graphs=learned)
        records, problems = found.records, problems + found.problems
        if trained.get("diverged"):
            problems.append(f"{trained['diverged']} runs diverged in training and were left out")
        split = places_by_split(records)
        checkpoints = StoredCheckpoints(zoo, records)
    examples = make_examples(records)
    train_tasks = {records[i].task for i in split["train"]}
    fitted, digests = [], []
    validate = validation_score(records, split["validation"])
    for seed, directory in zip(seeds, directories, strict=True):
        started = time.perf_counter()
        with stages("encoders"):
            fitted.append(
                fit_encoder(
                    embedder,
                    start[seed],
                    found.swept[seed],
                    found.buckets,
                    examples,
                    split["train"],
                    validate,
                    config.encoder,
                    directory,
                    seed,
                )
            )
            digests.append(save_encoder(directory, embedder.encoder, fitted[-1].params))
        encoder_seconds = time.perf_counter() - started  # of the last one, whose programs were compiled before
    with stages("data-set encoders"):
        data = task_data(config, records, examples)
        for fit, directory, seed in zip(fitted, directories, seeds, strict=True):
            fit_data_sets(config, embedder.encoder, fit, examples, split, data, directory, seed)
    if config.starts.tasks and not config.zoo.dir:
        with stages("starts"):
            probed = probe_models(config, zoo, records, examples.task, split["train"])
            place = {record.id: i for i, record in enumerate(records)}
            rows = [place[record.id] for record in probed.models.records]
            for fit, directory, seed in zip(fitted, directories, seeds, strict=True):
                own = fit.encoding.embedding[rows]
                fit_starts(probed, embedder.encoder, fit.params, own, data, directory, seed)
    with stages("baselines"):
        seconds = config.gnn.seconds or encoder_seconds + stages.seconds["sweeps"] / len(seeds)
        zoo_of = records, checkpoints
        methods, shared = baseline_methods(config, *zoo_of, split, examples, validate, workdir, seconds)
    with stages("evaluation"):
        test = split["test"]
        tested = [records[i] for i in test]
        methods = {ENCODER: [f.encoding.embedding[test] for f in fitted]} | methods
        shared = {ENCODER: shared_order_embeddings(embedder, fitted, records, test)} | shared
        results = evaluate_methods(
            methods,
            tested,
            train_tasks=train_tasks,
            validation_tasks={records[i].task for i in split["validation"]},
            shared_order=shared,
            resamples=config.evaluation.resamples,
            seed=config.seed,
        )
        results["accuracy_tau"] = accuracy_tau([f.encoding.accuracy[test] for f in fitted], tested, seed=config.seed)
        error = invariance_error(embedder, fitted[0], checkpoints, test, config)
        results["invariance_error"] = error
        results["zoo"] = {"models": len(records), "problems": len(problems)}
        results["compilations"] = {"encoder": embedder.compilations}
    with stages("index"):
        ids = [record.id for record in records]
        index = NearestNeighbors.build(fitted[0].encoding.embedding, ids, digests[0])
        index.save(workdir / "index")
        results["index"] = {"models": len(ids), "backend": index.backend}
    with stages("report"):
        results["seconds"] = stages.seconds
        unseen = [i for i, r in enumerate(tested) if r.task not in train_tasks]
        write_report(
            workdir / "report.html",
            results=results,
            records=records,
            embeddings=fitted[0].encoding.embedding,
            examples=query_examples(methods[ENCODER][0][unseen], [tested[i] for i in unseen], seed=config.seed),
            curves={f"encoder {seed}": f.curve for seed, f in enumerate(fitted)},
            problems=problems,
            config=str(config),
            encoder=ENCODER,
        )
    results["seconds"] = stages.seconds
    write_results(workdir / "results.json", results)
    print_summary(results, workdir)
    return results


def encoder_directories(workdir: Path, count: int) -> list[Path]:
    """Folders of the first encoders of a run, one a seed."""
    return [workdir / f"encoder_{seed}" for seed in range(count)]


def check_settings(config: Config) -> None:
    """Refuses settings that no stage could work with, before anything is trained."""
    for least, sections in LEAST.items():
        for section, fields in sections.items():
            for field in fields:
                value = config[section][field]
                if value < least:
                    raise InputError(f"{section}.{field}", f"{value} is too small", f"set it to {least} or more")
    if config.seed < 0:
        raise InputError("seed", f"{config.seed} is negative", "set it to 0 or more")
    for name, choices in (("catalogue", CATALOGUES), ("storage", STORAGES)):
        if config.zoo[name] not in choices:
            raise InputError(f"zoo.{name}", f"no {name} {config.zoo[name]!r}", f"choose from {', '.join(choices)}")
    encoder = config.encoder
    for field in ("shrinkage", "accuracy_shrinkage", "temperature", "margin"):
        if not encoder[field] > 0:
            raise InputError(f"encoder.{field}", f"{encoder[field]} is not positive", "set it above 0")
    if encoder.loss not in LOSSES:
        raise InputError("encoder.loss", f"no loss {encoder.loss!r}", f"choose from {', '.join(LOSSES)}")
    if encoder.warmup_steps >= encoder.steps:
        raise InputError("encoder.warmup_steps", "not less than encoder.steps", "change either")
    if encoder.probes % encoder.chunk:
        raise InputError("encoder.probes", "not a multiple of encoder.chunk", "change either")
    if encoder.gradient_probes > encoder.probes:
        raise InputError("encoder.gradient_probes", f"more than the {encoder.probes} of encoder.probes", "lower it")
    if config.dataset_encoder.fewest_examples > config.dataset_encoder.most_examples:
        raise InputError("dataset_encoder.fewest_examples", "more than most_examples", "change either")
    if not all(config.zoo.datasets.split(",")):
        raise InputError("zoo.datasets", "holds an empty name", "give names with commas between them")


def claim_workdir(config: Config, workdir: Path) -> None:
    """Writes the configuration into the folder, or refuses a folder that holds a run of another one."""
    path = workdir / "config.json"
    current = json.loads(json.dumps({k: v for k, v in config.to_dict().items() if k != "evaluation"}))
    if path.exists():
        try:
            held = json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(path, f"not readable ({error})", "name another --workdir") from error
        if held != current:
            raise InputError(path, "the folder holds a run of another configuration", "name another --workdir")
    else:
        write_atomically(path, json.dumps(current, indent=1).encode())


def places_by_split(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Places of the records of each split; raises InputError where one has none."""
    split = {name: np.flatnonzero([r.split == name for r in records]) for name in ("train", "validation", "test")}
    for name, places in split.items():
        if not len(places):
            raise InputError("the zoo", f"no usable model in the {name} split", "add models or leave the splits out")
    return split


def make_examples(records: Sequence[Record]) -> Examples:
    """What training may know of the records."""
    relevance = Relevance.of(records)
    accuracy = np.array([record.accuracy for record in records], np.float32)
    orders = [record.get("class_order") for record in records]
    return Examples(relevance.task, relevance.lineage, relevance.architecture, accuracy, orders)


def validation_score(records: Sequence[Record], places: np.ndarray, neighbours: int = 0):
    """Returns the score that chooses among steps: mAP on validation tasks, within and across architectures.

    Search is as `query_scores` tells.
    """
    relevance = Relevance.of([records[i] for i in places])

    def score(embeddings: np.ndarray) -> float:
        scores = query_scores(embeddings[places], relevance, neighbours=neighbours)
        found = [scores[gallery]["map"][np.isfinite(scores[gallery]["map"])] for gallery in ("same", "cross")]
        return float(np.mean([values.mean() for values in found if len(values)] or [0.0]))

    return score


def draw_inputs(config: Config) -> list[np.ndarray]:
    """For each encoder natural images of the training tasks, or, for a zoo made elsewhere, of the configured sets."""
    sets, tasks = load_tasks(config.zoo, config.seed)
    if config.zoo.dir:
        sets, tasks = [images for images in sets if images.name in config.zoo.datasets.split(",")], []
    training = [task for task in tasks if task.split == "train"]
    return [natural_inputs(sets, training, config.encoder.probes, seed) for seed in range(config.encoder.seeds)]


def shared_order_embeddings(
    embedder: Embedder, fitted: Sequence[Fitted], records: Sequence[Record], places: np.ndarray
) -> list[np.ndarray]:
    """Embeddings of networks whose output neurons are put into the order of their tasks' classes."""
    embeddings = []
    for fit in fitted:
        logits, templates = fit.swept.logits[places].copy(), fit.swept.templates[places].copy()
        for row, place in enumerate(places):
            order = records[place].get("class_order")
            if order:
                for array in (logits, templates):
                    array[row, np.asarray(order)] = array[row, : len(order)]
        swept = fit.swept.at(places)._replace(logits=logits, templates=templates)
        embeddings.append(embedder.read(fit.params, swept).embedding)
    return embeddings


def invariance_error(
    embedder: Embedder, fit: Fitted, checkpoints: Sequence[Checkpoint], places: np.ndarray, config: Config
) -> float:
    """Largest relative change of an embedding when a network is permuted and rescaled at random."""
    rng = np.random.default_rng([config.seed, 3])
    chosen = rng.choice(places, min(config.evaluation.invariance_models, len(places)), replace=False)
    graphs = []
    for checkpoint in (checkpoints[place] for place in chosen):
        other = random_symmetry(checkpoint, infer_wiring(checkpoint), rng)
        graphs.append(checkpoint_graph(other, config.encoder.tile))
    changed = embedder(fit.params, make_buckets(graphs, config.encoder.batch_cost, config.encoder.slack)).embedding
    original = fit.encoding.embedding[chosen]
    return float((np.linalg.norm(changed - original, axis=1) / np.linalg.norm(original, axis=1)).max())


def print_summary(results: dict[str, Any], workdir: Path) -> None:
    """Prints what a reader wants to know first."""
    unseen = results["retrieval"]
    print(f"\n{'P@10 on unseen tasks':24s} same architecture   other architectures")
    for method, halves in unseen.items():
        cells = (halves["unseen"][gallery]["precision_at_10"] for gallery in ("same", "cross"))
        print(f"{method:24s} " + "   ".join(_cell(cell) for cell in cells))
    print(f"tau of predicted accuracy {_cell(results['accuracy_tau'])}; ", end="")
    print(f"invariance error {results['invariance_error']:.1e}; {sum(results['seconds'].values()):.0f} s")
    print(f"report: {workdir / 'report.html'}")


def _cell(interval: dict[str, float | None]) -> str:
    values = [interval[key] for key in ("value", "low", "high")]
    return "-" if None in values else "{:.3f} [{:.3f}, {:.3f}]".format(*values)
