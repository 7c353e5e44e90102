"""Whether changed copies of networks are found as what they are.

    python -m experiments.tables.robustness --workdir=runs/pretrain [--models=200] [--seed=0]

The gallery holds the final checkpoints of the test networks of a finished run. Some of them are changed in several ways
and embedded from their weights, like any checkpoint. Writes `tables/robustness.csv` and `.svg` into the folder.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
from jaxtyping import Float, Int
from numpy.typing import DTypeLike
from tqdm import tqdm

from experiments.job.trainable import final_checkpoints
from experiments.tables.finished_run import FinishedRun, load_run
from wsrl.checkpoint import Checkpoint
from wsrl.cli.finish import finish
from wsrl.encoder.embed import Embedder
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.ranking import cosine_similarity, rank_gallery, ranking_metrics
from wsrl.evaluation.relevance import Relevance
from wsrl.graph.collection import Planner, checkpoint_graph
from wsrl.program.read import read_program
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.symmetry import random_symmetry
from wsrl.zoo.bank import draw_batches, image_bank, run_arrays
from wsrl.zoo.copies import add_noise, prune, quantize
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.manifest import Record
from wsrl.zoo.models import Classifier
from wsrl.zoo.recipes import draw_runs
from wsrl.zoo.stacked import train_models
from wsrl.zoo.storage import read_variables
from wsrl.zoo.tasks import load_tasks

Embeddings = Float[np.ndarray, "n dim"]
Change = Callable[[Checkpoint, np.random.Generator], Checkpoint]

NAME = "robustness"
TITLE = "Changed copies of networks"
SCORES = {"P@1": "precision_at_1", "mAP": "map"}
STEPS, RATE = 10, 1e-3  # of fine-tuning by Adam
TUNED = "ten steps of fine-tuning"
DIGITS = 4  # that scores are compared to
NOTE = (
    "{queries} networks, drawn from a gallery of {gallery} final checkpoints of test networks, fine-tuned children "
    "among them, are changed and embedded from their weights. Original first: share whose nearest network of the "
    "gallery is the original. P@1 and mAP: of networks of the same task, original and lineage left out, before and "
    "after the change; the same if they agree to {digits} digits. Largest change: of an embedding, relative. {tuned}"
    "Brackets: 95 % intervals over lineages and encoder seeds."
)


def _weights(change: Callable[..., Any]) -> Change:
    """A change of `wsrl.zoo.copies`."""

    def changed(checkpoint: Checkpoint, rng: np.random.Generator) -> Checkpoint:
        tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
        return dataclasses.replace(checkpoint, tensors=change(tensors, int(rng.integers(2**31))))

    return changed


def _rounded(dtype: DTypeLike) -> Change:
    """Tensors are rounded to a floating-point type and back."""

    def changed(checkpoint: Checkpoint, rng: np.random.Generator) -> Checkpoint:
        tensors = {name: np.asarray(t).astype(dtype).astype(np.float32) for name, t in checkpoint.tensors.items()}
        return dataclasses.replace(checkpoint, tensors=tensors)

    return changed


CHANGES: dict[str, Change] = {
    "random symmetry": lambda checkpoint, rng: random_symmetry(checkpoint, read_program(checkpoint).wiring, rng),
    "float16": _rounded(np.float16),
    "bfloat16": _rounded(ml_dtypes.bfloat16),
    "int8": _weights(quantize),
    "noise of 1 %": _weights(add_noise),
    "half of the weights pruned": _weights(prune),
}
TARGETS = {"int8": 0.99, "half of the weights pruned": 0.95, "noise of 1 %": 0.99, TUNED: 0.95}  # original first


def gallery_places(records: Sequence[Record], places: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """Of the records at `places` the last one of each run; copies, which would be found for the originals, are out."""
    final = {record.id for record in final_checkpoints([records[place] for place in places])}
    return np.array([place for place in places if records[place].id in final], np.int64)


def changed_copies(run: FinishedRun, places: Sequence[int], name: str, seed: int) -> Iterator[Checkpoint]:
    """Yields the checkpoints at `places` after a change of CHANGES."""
    rng = np.random.default_rng([seed, 11, list(CHANGES).index(name)])
    stored = StoredCheckpoints(run.zoo, run.records)
    for place in places:
        yield CHANGES[name](stored[place], rng)


def fine_tuned(run: FinishedRun, places: Sequence[int], seed: int) -> list[Checkpoint]:
    """Returns the checkpoints at `places` after STEPS more steps on their own tasks' training images.

    Raises:
      InputError: the zoo's networks are not those that the run's configuration describes, or its data are missing.
    """
    settings = run.config.zoo
    image_sets, tasks = load_tasks(settings, run.config.seed)
    recipes = {recipe.id: recipe for recipe in draw_runs(settings, tasks, run.config.seed)}
    records = [run.records[place] for place in places]
    try:
        own = [recipes[record.get("run")] for record in records]
    except KeyError as error:
        raise InputError(run.zoo, f"no recipe of the run {error}", "train the zoo again") from error
    rates = {"optimizer": "adam", "learning_rate": RATE, "weight_decay": 0.0, "dropout": 0.0, "label_noise": 0.0}
    seeds = np.random.default_rng([seed, 12]).integers(2**31, size=len(own)).tolist()
    own = [dataclasses.replace(recipe, seed=drawn, **rates) for recipe, drawn in zip(own, seeds, strict=True)]
    used = {recipe.task for recipe in own}
    bank = image_bank(image_sets, [task for task in tasks if task.id in used], settings.test_images)
    device_bank = jax.device_put(bank.images)
    groups: dict[Classifier, list[int]] = {}
    for i, recipe in enumerate(own):
        groups.setdefault(recipe.model, []).append(i)
    tensors: dict[int, Any] = {}
    for model, members in groups.items():
        state, batches, arrays = [], [], []
        for i in members:
            variables = read_variables(run.zoo, records[i])
            zeros = jax.tree.map(np.zeros_like, variables["params"])
            state.append({"variables": variables, "first": zeros, "second": zeros, "step": np.int32(0)})
            batches.append(draw_batches(own[i], bank, STEPS, settings.batch_size))
            arrays.append(run_arrays(own[i], bank, STEPS))
        stacked = [jax.tree.map(lambda *leaves: np.stack(leaves), *trees) for trees in (state, batches, arrays)]
        found = jax.device_get(train_models(model, *stacked, device_bank)[0]["variables"])
        for row, i in enumerate(members):
            variables = jax.tree.map(lambda leaf, row=row: leaf[row], found)
            tensors[i] = flax.traverse_util.flatten_dict(variables, sep="/")
    stored = StoredCheckpoints(run.zoo, run.records)
    return [dataclasses.replace(stored[place], tensors=tensors[i]) for i, place in enumerate(places)]


def score(
    name: str,
    relevance: Relevance,
    gallery: Sequence[Embeddings],
    drawn: Int[np.ndarray, " q"],
    changed: Sequence[Embeddings],
    resamples: int,
    seed: int,
) -> Row:
    """The row of a change.

    Args:
      name: of the change.
      relevance: of the gallery.
      gallery: its embeddings, for each encoder seed.
      drawn: rows of the gallery that were changed.
      changed: embeddings after the change, for each encoder seed.
      resamples, seed: of the bootstrap; the seed also breaks ties.
    """
    relevant, eligible = relevance.relevant(drawn), relevance.eligible(drawn)["any"]
    answerable = (relevant & eligible).any(1)
    first, cosine, largest = [], [], 0.0
    scores: dict[str, list[np.ndarray]] = {f"{metric} {when}": [] for metric in SCORES for when in ("before", "after")}
    for own, copies in zip(gallery, changed, strict=True):
        originals = own[drawn]
        similarity = cosine_similarity(copies, own)
        order = rank_gallery(similarity, seed)
        first.append((order[:, 0] == drawn).astype(np.float64))
        cosine.append(similarity[np.arange(len(drawn)), drawn])
        change = np.linalg.norm(copies - originals, axis=1) / np.linalg.norm(originals, axis=1)
        largest = max(largest, float(change.max()))
        before = rank_gallery(cosine_similarity(originals, own), seed)
        for when, ranked in (("before", before), ("after", order)):
            found = ranking_metrics(ranked, relevant, eligible)
            for metric, key in SCORES.items():
                scores[f"{metric} {when}"].append(found[key][answerable])
    lineage = relevance.lineage[drawn]
    found = cluster_bootstrap({"original first": np.stack(first), "cosine": np.stack(cosine)}, lineage, resamples, seed)
    row: dict[str, Any] = {"change": name, "queries": len(drawn), "original first": found["original first"]}
    row |= {"target": TARGETS.get(name), "cosine": found["cosine"], "largest change": largest}
    if answerable.any():
        of_task = {column: np.stack(values) for column, values in scores.items()}
        found = cluster_bootstrap(of_task, lineage[answerable], resamples, seed)
        means = {column: round(float(values.mean()), DIGITS) for column, values in of_task.items()}
        same = all(means[f"{m} before"] == means[f"{m} after"] for m in SCORES)
        row |= {**found, "same": "yes" if same else "no"}
    return row


def table(run: FinishedRun, models: int, resamples: int, seed: int) -> tuple[list[Row], str]:
    """The rows of all changes, and the table's note."""
    places = gallery_places(run.records, run.split["test"])
    drawn = np.sort(np.random.default_rng([seed, 10]).permutation(len(places))[:models])
    chosen = places[drawn].tolist()
    embedder, planner = Embedder(run.encoders[0][0]), Planner(run.config.encoder.batch_cost, run.config.encoder.slack)
    params = [own for _, own in run.encoders]
    relevance = Relevance.of([run.records[place] for place in places])
    gallery = [embedder.read(own, swept.at(places)).embedding for own, swept in zip(params, run.swept, strict=True)]
    copies: dict[str, Iterable[Checkpoint]] = {name: changed_copies(run, chosen, name, seed) for name in CHANGES}
    if not run.config.zoo.dir:  # a zoo made elsewhere comes without recipes and data
        copies[TUNED] = fine_tuned(run, chosen, seed)
    rows = []
    with tqdm(total=len(copies) * len(chosen) * (1 + len(params)), desc=NAME, unit="model") as progress:
        for name, checkpoints in copies.items():
            graphs = []
            for checkpoint in checkpoints:
                graphs.append(checkpoint_graph(checkpoint, run.config.encoder.tile))
                progress.update()
            buckets, changed = planner.buckets(graphs), []
            for own in params:
                changed.append(embedder(own, buckets).embedding)
                progress.update(len(chosen))
            rows.append(score(name, relevance, gallery, drawn, changed, resamples, seed))
    tuned = f"Fine-tuning: {STEPS} steps of Adam from {RATE:g} down, on the task's training images. "
    told = tuned if TUNED in copies else ""
    return rows, NOTE.format(queries=len(chosen), gallery=len(places), digits=DIGITS, tuned=told)


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the table.

    Raises:
      InputError: no number that makes sense, or no finished run.
    """
    for name in ("models", "resamples"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}", f"{getattr(args, name)} is too small", "set it to 1 or more")
    rows, note = table(load_run(args.workdir), args.models, args.resamples, args.seed)
    figure = bar_figure(rows, "change", ["original first", "cosine"], "share of queries; cosine to the original")
    write_table(args.workdir, NAME, TITLE, note, rows, figure)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    parser.add_argument("--models", type=int, default=200, help="that are changed, at most")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of all draws and of the bootstrap")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())
