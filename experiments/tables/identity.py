"""Whether the weights vector finds a network's copies in other forms, and the parent of a fine-tuned network.

    python -m experiments.tables.identity --workdir=runs/zoo [--models=200] [--seed=0]

The gallery holds the networks of a finished run that have no parent. Some of them are changed in several ways and
search for their original; networks that were fine-tuned from one of them search for that one. Raw weights compare entry
by entry, statistics tensor by tensor, as the baselines of the main job do. Writes `tables/identity.csv` and `.svg`.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from experiments.job.records import read_records
from experiments.job.trainable import final_checkpoints
from experiments.job.workdir import read_config, zoo_directory
from wsrl.baselines.raw_weights import raw_weight_features
from wsrl.baselines.statistics import statistics_features
from wsrl.checkpoint import Checkpoint
from wsrl.cli.finish import finish
from wsrl.errors import InputError
from wsrl.evaluation.bootstrap import cluster_bootstrap
from wsrl.evaluation.ranking import cosine_similarity, rank_gallery
from wsrl.program.read import read_program
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.signature.weights_vector import sign
from wsrl.symmetry import random_symmetry
from wsrl.wiring.infer_wiring import infer_wiring
from wsrl.zoo.copies import add_noise, prune, quantize
from wsrl.zoo.load import StoredCheckpoints
from wsrl.zoo.manifest import Record

NAME = "identity"
TITLE = "The same weights in another form, and parents"
BLOCK = 32  # entries that share a scale in four bits
METHODS = ("weights vector", "raw weights", "weight statistics")
NOTE = (
    "Gallery: {gallery} networks without a parent, of all architectures and tasks of the run. Share of the queries "
    "whose nearest network is the original, or the parent. Brackets: 95 % intervals over lineages."
)

Tensors = dict[str, np.ndarray]


def four_bits(tensors: Tensors) -> Tensors:
    """Rounds matrices to 15 levels with a scale for each block of 32 entries, as GGUF's Q4_0 does, and back."""

    def rounded(tensor: np.ndarray) -> np.ndarray:
        flat = np.pad(tensor.ravel(), (0, -tensor.size % BLOCK)).reshape(-1, BLOCK)
        scale = np.abs(flat).max(1, keepdims=True) / 7
        levels = np.rint(np.divide(flat, scale, out=np.zeros_like(flat), where=scale > 0))
        return (levels * scale).ravel()[: tensor.size].reshape(tensor.shape).astype(np.float32)

    return {name: rounded(tensor) if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}


def as_pytorch(tensors: Tensors) -> Tensors:
    """Names and orients tensors of Flax as PyTorch does: kernels [in, out] and [h, w, in, out] get outputs first."""
    orders = {2: (1, 0), 4: (3, 2, 0, 1)}
    named = {}
    for name, tensor in tensors.items():
        if name.endswith("kernel") and tensor.ndim in orders:
            tensor = tensor.transpose(orders[tensor.ndim])
        named[name.replace("/", ".").replace("kernel", "weight")] = tensor
    return named


def _of_tensors(change: Callable[[Tensors], Tensors]) -> Callable[[Checkpoint, np.random.Generator], Checkpoint]:
    def changed(checkpoint: Checkpoint, rng: np.random.Generator) -> Checkpoint:
        tensors = {name: np.asarray(tensor) for name, tensor in checkpoint.tensors.items()}
        return dataclasses.replace(checkpoint, tensors=change(tensors))

    return changed


def permuted(checkpoint: Checkpoint, rng: np.random.Generator) -> Checkpoint:
    """Permutes and rescales hidden units at random."""
    return random_symmetry(checkpoint, read_program(checkpoint).wiring, rng)


CHANGES: dict[str, Callable[[Checkpoint, np.random.Generator], Checkpoint]] = {
    "hidden units permuted and rescaled": permuted,
    "names and layout of PyTorch": _of_tensors(as_pytorch),
    "float16": _of_tensors(lambda tensors: {n: t.astype(np.float16).astype(np.float32) for n, t in tensors.items()}),
    "int8": _of_tensors(quantize),
    "four bits": _of_tensors(four_bits),
    "noise of 1 %": _of_tensors(add_noise),
    "half of the weights pruned": _of_tensors(prune),
}


def features(checkpoints: Sequence[Checkpoint], fitted: int) -> dict[str, Float[np.ndarray, "n dim"]]:
    """Returns the vectors of all methods; statistics are standardized on the first `fitted` networks."""
    vectors = []
    for checkpoint in tqdm(checkpoints, desc=NAME, unit="model"):
        vectors.append(sign(checkpoint, infer_wiring(checkpoint)).vector)
    tensors = [{name: np.asarray(t) for name, t in own.tensors.items()} for own in checkpoints]
    return {
        "weights vector": np.stack(vectors),
        "raw weights": raw_weight_features(tensors),
        "weight statistics": statistics_features(tensors, np.arange(fitted)),
    }


def parents_in(records: Sequence[Record], gallery: Sequence[Record]) -> list[tuple[Record, int]]:
    """Returns the last checkpoint of each run that was trained on from a network of the gallery, with its place."""
    place = {record.id: i for i, record in enumerate(gallery)}
    children = [record for record in records if record.parent in place and not record.get("copy")]
    return [(record, place[str(record.parent)]) for record in final_checkpoints(children)]


def table(workdir: Path, models: int, resamples: int, seed: int) -> tuple[list[Row], str]:
    """The rows of all changes, and the table's note."""
    config = read_config(workdir)
    zoo = zoo_directory(config, workdir)
    records, _ = read_records(zoo, config.seed)
    gallery = [record for record in final_checkpoints(records) if record.parent is None]
    if len(gallery) < 2:
        raise InputError(zoo, "holds fewer than two networks without a parent", "name a larger run")
    children = parents_in(records, gallery)
    rng = np.random.default_rng([seed, 21])
    drawn = np.sort(rng.permutation(len(gallery))[:models])
    originals = list(StoredCheckpoints(zoo, gallery))
    queries: dict[str, tuple[list[Checkpoint], Int[np.ndarray, " q"]]] = {
        name: ([change(originals[i], rng) for i in drawn], drawn) for name, change in CHANGES.items()
    }
    if children:
        tuned = list(StoredCheckpoints(zoo, [record for record, _ in children]))
        own = np.array([place for _, place in children])
        queries["fine-tuned: parent first"] = tuned, own
        queries["fine-tuned, then permuted: parent first"] = [permuted(checkpoint, rng) for checkpoint in tuned], own
    everything = originals + [checkpoint for checkpoints, _ in queries.values() for checkpoint in checkpoints]
    vectors = features(everything, len(originals))
    rows, start = [], len(originals)
    for name, (checkpoints, target) in queries.items():
        stop = start + len(checkpoints)
        first = {}
        for method in METHODS:
            own, asked = vectors[method][: len(originals)], vectors[method][start:stop]
            order = rank_gallery(cosine_similarity(asked, own), seed)
            first[method] = (order[:, 0] == target).astype(np.float64)[None]
        lineage = np.unique([str(gallery[i].get("lineage")) for i in target], return_inverse=True)[1]
        rows.append({"query": name, "queries": len(target), **cluster_bootstrap(first, lineage, resamples, seed)})
        start = stop
    return rows, NOTE.format(gallery=len(gallery))


def make_table(args: argparse.Namespace) -> None:
    """Writes and prints the table.

    Raises:
      InputError: no number that makes sense, or no run with a zoo.
    """
    for name in ("models", "resamples"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}", f"{getattr(args, name)} is too small", "set it to 1 or more")
    rows, note = table(args.workdir, args.models, args.resamples, args.seed)
    figure = bar_figure(rows, "query", list(METHODS), "share whose first hit is the original or the parent")
    write_table(args.workdir, NAME, TITLE, note, rows, figure)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of experiments.main")
    parser.add_argument("--models", type=int, default=200, help="that are changed, at most")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of all draws and of the bootstrap")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args))


if __name__ == "__main__":
    sys.exit(main())
