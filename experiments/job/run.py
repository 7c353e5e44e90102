"""The main job: its stages in order; a stage that was interrupted goes on where it stopped."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from experiments.job.baselines import baseline_methods
from experiments.job.data_sets import fit_data_sets, task_data
from experiments.job.evaluation import ENCODER, evaluate
from experiments.job.records import indices_by_split, make_examples, read_records, validation_score
from experiments.job.settings import check_settings
from experiments.job.starts import fit_starts, probe_models
from experiments.job.workdir import encoder_directories, lock_workdir, zoo_directory
from wsrl.annotations import Config
from wsrl.encoder.embed import Embedder
from wsrl.encoder.export import save_encoder
from wsrl.encoder.swept import fit_inputs
from wsrl.errors import InputError
from wsrl.evaluation import Interval, Results, query_examples, write_results
from wsrl.report import write_report
from wsrl.search.nearest import NearestNeighbors
from wsrl.training.fit import Fitted, fit_encoder, init_params, make_encoder
from wsrl.training.hosts import leader_first, leads, wait_for_all
from wsrl.training.initial_probes import natural_inputs
from wsrl.training.response_cache import sweep_zoo
from wsrl.zoo.bank import ZooImages, load_zoo_images
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.manifest import Record
from wsrl.zoo.training import train_zoo


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


def run(config: Config, workdir: str | Path) -> Results | None:
    """Runs the whole job and returns what it writes to `results.json` by their `record`.

    Several processes (see `wsrl.training.hosts`), which see the same folder, train the encoders together and end then
    with nothing to return; one process does the rest.

    Raises:
      InputError: unusable settings, data or zoo, or a folder that holds another run.
    """
    workdir, stages = Path(workdir), Stages()
    check_settings(config)
    with leader_first("workdir"):
        lock_workdir(config, workdir)
    zoo, seeds = zoo_directory(config, workdir), range(config.encoder.seeds)
    directories = encoder_directories(workdir, config.encoder.seeds)
    with stages("zoo"), leader_first("zoo"):
        images = load_zoo_images(config.zoo, config.seed)
        counts = {} if config.zoo.dir else train_zoo(config.zoo, zoo, config.seed, images)
        listed, problems = read_records(zoo, config.seed)
    with stages("sweeps"), leader_first("sweeps"):
        inputs = draw_inputs(config, images)
        embedder = Embedder(make_encoder(config.encoder, inputs[0].shape[1:]))
        start = [init_params(embedder.encoder, own, seed) for own, seed in zip(inputs, seeds, strict=True)]
        learned = config.encoder.input_learning_rate > 0
        swept = sweep_zoo(embedder, start, zoo, listed, config.encoder, directories, keep_graphs=learned)
        records, problems = swept.records, problems + swept.problems
        if counts.get("diverged"):
            problems.append(f"{counts['diverged']} runs diverged in training and were left out")
        split, checkpoints = indices_by_split(records), StoredCheckpoints(zoo, records)
    examples, validate = make_examples(records), validation_score(records, split["validation"])
    fitted, digests = [], []
    for seed, directory in zip(seeds, directories, strict=True):
        started = time.perf_counter()
        with stages("encoders"):
            networks = swept.swept[seed], swept.buckets, examples, split["train"]
            fitted.append(fit_encoder(embedder, start[seed], *networks, validate, config.encoder, directory, seed))
            with leader_first(f"encoder {seed}"):
                digests.append(save_encoder(directory, embedder.encoder, fitted[-1].params))
        encoder_seconds = time.perf_counter() - started  # of the last one, whose programs were compiled before
    if jax.process_count() > 1:
        wait_for_all("encoders")
        if leads():
            print("the encoders are trained; the same command in one process goes on from here")
        return None
    with stages("data-set encoders"):
        data = {} if config.zoo.dir else task_data(images, records, examples, embedder.encoder.input_shape)
        for fit, directory, seed in zip(fitted, directories, seeds, strict=True):
            fit_data_sets(config, embedder.encoder, fit, examples, split, data, directory, seed)
    if config.starts.tasks and not config.zoo.dir:
        with stages("starts"):
            probed = probe_models(config, zoo, images, records, examples.task, split["train"])
            row_of = {record.id: i for i, record in enumerate(records)}
            rows = [row_of[record.id] for record in probed.models.records]
            for fit, directory, seed in zip(fitted, directories, seeds, strict=True):
                fit_starts(probed, embedder.encoder, fit.params, fit.encoding.embedding[rows], data, directory, seed)
    with stages("baselines"):
        seconds = config.gnn.seconds or encoder_seconds + stages.seconds["sweeps"] / len(seeds)
        baselines = baseline_methods(config, records, checkpoints, split, examples, validate, workdir, seconds)
    with stages("evaluation"):
        results = evaluate(config, embedder, fitted, baselines, records, checkpoints, split)
        results.facts["zoo"] = {"models": len(records), "problems": len(problems)}
        results.facts["compilations"] = {"encoder": embedder.compilations}
    with stages("index"):
        index = NearestNeighbors.build(fitted[0].encoding.embedding, [record.id for record in records], digests[0])
        index.save(workdir / "index")
        results.facts["index"] = {"models": len(records), "backend": index.backend}
    with stages("report"):
        results.seconds = stages.seconds
        report(workdir / "report.html", config, results, records, fitted, split, problems)
    results.seconds = stages.seconds
    write_results(workdir / "results.json", results)
    print_summary(results, workdir)
    return results


def draw_inputs(config: Config, images: ZooImages) -> list[Float[np.ndarray, "probes height width channels"]]:
    """For each encoder natural images of the training tasks, or, for a zoo made elsewhere, of the configured sets.

    Raises:
      InputError: no training task is of the sets that they are to be drawn from.
    """
    sets, tasks = images.sets, images.tasks
    if config.zoo.dir:
        sets, tasks = [own for own in sets if own.name in config.zoo.datasets.split(",")], []
    training, drawn_from = [task for task in tasks if task.split == "train"], config.encoder.probe_datasets
    if drawn_from and training:
        training = [task for task in training if task.dataset in drawn_from.split(",")]
        if not training:
            raise InputError("encoder.probe_datasets", "no training task is of these sets", "name some of zoo.datasets")
    size = config.encoder.probe_size or config.zoo.image_size
    drawn = (natural_inputs(sets, training, config.encoder.probes, seed) for seed in range(config.encoder.seeds))
    return [fit_inputs(inputs, (size, size, 1)) for inputs in drawn]


def report(
    path: Path,
    config: Config,
    results: Results,
    records: Sequence[Record],
    fitted: Sequence[Fitted],
    split: dict[str, np.ndarray],
    problems: Sequence[str],
) -> None:
    """Writes the report; its map and examples are of the first encoder."""
    embeddings, trained_on = fitted[0].encoding.embedding, {records[i].task for i in split["train"]}
    unseen = [i for i in split["test"] if records[i].task not in trained_on]
    write_report(
        path,
        results=results,
        records=records,
        embeddings=embeddings,
        examples=query_examples(embeddings[unseen], [records[i] for i in unseen], seed=config.seed),
        curves={f"encoder {seed}": fit.curve for seed, fit in enumerate(fitted)},
        problems=problems,
        config=str(config),
        encoder=ENCODER,
    )


def print_summary(results: Results, workdir: Path) -> None:
    """Prints what a reader wants to know first."""
    print(f"\n{'P@10 on unseen tasks':24s} same architecture   other architectures")
    for method, halves in results.retrieval.items():
        cells = (halves["unseen"][gallery].metrics["precision_at_10"] for gallery in ("same", "cross"))
        print(f"{method:24s} " + "   ".join(_cell(cell) for cell in cells))
    print(f"tau of predicted accuracy {_cell(results.accuracy_tau)}; ", end="")
    print(f"invariance error {results.invariance_error:.1e}; {sum(results.seconds.values()):.0f} s")
    print(f"report: {workdir / 'report.html'}")


def _cell(interval: Interval | None) -> str:
    values = astuple(interval or Interval())
    return "-" if None in values else "{:.3f} [{:.3f}, {:.3f}]".format(*values)
