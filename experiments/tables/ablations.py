"""What each part of the encoder is worth: one change at a time, on the sweeps of a finished run.

python -m experiments.tables.ablations --workdir=runs/pretrain

Every row fits the read-out again, for every seed, on the training networks; scores are those of unseen tasks. The mAP
on validation tasks stands beside them, since it is what choices are made by.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jaxtyping import Float32, Int
from tqdm import tqdm

from experiments.job.records import validation_score
from experiments.tables.finished_run import FinishedRun, load_run
from experiments.tables.resweep import COUNT, NO_MAPS, NOISE, RELU, ROUNDS, resweep
from wsrl.annotations import Config
from wsrl.cli.finish import finish
from wsrl.encoder.embed import Embedder
from wsrl.encoder.readout import entropies
from wsrl.encoder.swept import Swept
from wsrl.evaluation.hubness import hubness
from wsrl.evaluation.relevance import labels
from wsrl.evaluation.retrieval import retrieval_scores
from wsrl.files import write_atomically
from wsrl.report.table_figures import bar_figure
from wsrl.report.tables import Row, print_table, write_table
from wsrl.search.query_expansion import centered
from wsrl.training.discriminant_analysis import product_metric
from wsrl.training.fit import fit_encoder, init_params, make_encoder

RESAMPLES = 1000  # of the bootstrap
NAME = "ablations"
SMALL = 1e-12
NOTE = (
    "Each row changes one thing of the first. Unseen tasks, data sets, widths, and one unseen family of architectures; "
    "brackets: 95 % intervals over lineages and encoder seeds."
)


@dataclass(frozen=True)
class Change:
    """One row.

    Attributes:
      label: of the row.
      settings: of the section `encoder` that differ.
      keep: which training networks are used, by their records; None for all.
      tasks: share of the training tasks that are used.
      centre: embeddings are centered: "all" together, or those of each "architecture", which needs no labels.
      neighbors: search is by neighborhoods of so many; see `wsrl.search.query_expansion`.
      sweeps: a change that the zoo is swept again with, for the first encoder seed only; see `resweep`.
      asking: which unseen networks are queries, by their records; None for all. The gallery holds all.
      first_order: the read-out knows of each input only how evenly a network's answer spreads over the classes.
      relatives: only networks of one lineage are positives, which needs no labels.
    """

    label: str
    settings: dict[str, Any] = field(default_factory=dict)
    keep: Callable[[Any], bool] | None = None
    tasks: float = 1.0
    centre: str = ""
    neighbors: int = 0
    sweeps: str = ""
    asking: Callable[[Any], bool] | None = None
    first_order: bool = False
    relatives: bool = False

    @property
    def of_search(self) -> bool:
        """Whether the encoder stays that of the first row."""
        return bool(self.centre or self.neighbors or (self.asking and not self.keep))


def narrow(record: Any) -> bool:
    """Whether a network's widest layer has 16 neurons at most."""
    return record.get("width") <= 16


def wide(record: Any) -> bool:
    """Whether a network's widest layer has 256 neurons, or more."""
    return record.get("width") >= 256


CHANGES = (
    Change("the encoder that ships"),
    Change("closed form only, no contrastive steps", {"steps": 0}),
    Change("contrastive steps only, from random parameters", {"discriminants": False}),
    Change("the same, margin loss", {"discriminants": False, "loss": "margin"}),
    Change("the same, negatives of the same architecture weigh 10", {"discriminants": False, "hard_negatives": 10.0}),
    Change("the same, no class maps", {"discriminants": False, "class_map_share": 0.0}),
    Change("probabilities alone", {"evidence": 0.0, "template": 0.0, "steps": 0}),
    Change("no templates (forward sweep alone)", {"template": 0.0, "steps": 0}),
    Change("no log probabilities", {"evidence": 0.0, "steps": 0}),
    Change("templates weigh 1", {"template": 1.0, "steps": 0}),
    Change("first-order read-out", first_order=True),
    Change("plain sums of products", {"smoothing": 1e4, "steps": 0}),
    Change("inputs of noise (one encoder seed)", {"steps": 0}, sweeps=NOISE),
    Change("activations taken for ReLU (one encoder seed)", {"steps": 0}, sweeps=RELU),
    Change("32 inputs", {"probes": 32, "steps": 0}),
    Change("128 inputs", {"probes": 128, "steps": 0}),
    Change("rank 32", {"rank": 32, "steps": 0}),
    Change("embedding of 64", {"dim": 64, "steps": 0}),
    Change("embedding of 128", {"dim": 128, "steps": 0}),
    Change("embedding of 512", {"dim": 512, "steps": 0}),
    Change("embedding of 2048", {"dim": 2048, "steps": 0}),
    Change("shrinkage .3", {"shrinkage": 0.3, "steps": 0}),
    Change("shrinkage 1000 (hardly whitened)", {"shrinkage": 1000.0, "steps": 0}),
    Change("a tenth of the tasks", {"steps": 0}, tasks=0.1),
    Change("a third of the tasks", {"steps": 0}, tasks=1 / 3),
    Change("trained at widths up to 16", {"steps": 0}, keep=narrow),
    Change("the same, networks of width 256 ask", {"steps": 0}, keep=narrow, asking=wide),
    Change("trained at all widths, networks of width 256 ask", asking=wide),
    Change("embeddings centered, against hubs", centre="all"),
    Change("embeddings centered within each architecture of the gallery", centre="architecture"),
    Change("searched by neighborhoods of 5", neighbors=5),
    Change("searched by neighborhoods of 10", neighbors=10),
    Change("searched by neighborhoods of 20 (as wsrl searches)", neighbors=20),
    Change("searched by neighborhoods of 40", neighbors=40),
    Change("only relatives are positives", {"steps": 0}, relatives=True),
    Change("one state a neuron in place of a map (one encoder seed)", {"steps": 0}, sweeps=NO_MAPS),
    Change(f"{COUNT} synchronous rounds in place of a sweep (one encoder seed)", {"steps": 0}, sweeps=ROUNDS),
)


def embeddings(run: FinishedRun, change: Change, seed: int) -> np.ndarray:
    """Embeddings [n, dim] of all networks by an encoder fitted with the change; kept in the run's folder."""
    change = CHANGES[0] if change.of_search else change
    path = run.workdir / NAME / f"{CHANGES.index(change)}_{seed}.safetensors"
    if path.exists():
        return safetensors.numpy.load_file(path)["embeddings"]
    config: Config = run.config.encoder.copy_and_resolve_references()
    config.update(change.settings)
    trained, _ = run.encoders[seed]
    inputs = np.asarray(run.encoders[seed][1]["inputs"])[: config.probes]
    config.gradient_probes = min(config.gradient_probes, config.probes)
    encoder = make_encoder(config, trained.input_shape)
    swept = resweep(run, seed, change.sweeps) if change.sweeps else run.swept[seed]
    swept = swept._replace(logits=swept.logits[:, :, : config.probes])
    training = run.split["train"]
    if change.keep:
        training = np.array([i for i in training if change.keep(run.records[i])])
    names = np.unique(run.examples.task[training])
    some = np.random.default_rng(seed).permutation(names)[: max(2, round(change.tasks * len(names)))]
    training = training[np.isin(run.examples.task[training], some)]
    if change.first_order:
        found = first_order(swept, run.examples.task, training, config)
        write_atomically(path, safetensors.numpy.save({"embeddings": found}))
        return found
    examples = run.examples._replace(task=run.examples.lineage) if change.relatives else run.examples
    fitted = fit_encoder(
        Embedder(encoder),
        init_params(encoder, inputs, seed),
        swept,
        [],
        examples,
        training,
        validation_score(run.records, run.split["validation"]),
        config,
        path.with_suffix(""),
        seed,
    )
    write_atomically(path, safetensors.numpy.save({"embeddings": fitted.encoding.embedding}))
    return fitted.encoding.embedding


def first_order(
    swept: Swept, task: Int[np.ndarray, " n"], training: Int[np.ndarray, " m"], config: Config
) -> Float32[np.ndarray, "n dim"]:
    """Embeddings by the metric of the encoder on first-order statistics, which say nothing of which inputs go together.

    Responses summed over the classes, as the second-order read-out sums their products, are the same for all networks;
    the least that tells networks apart is a non-linear function of them, here the entropy of each prediction.
    """
    entropy = np.asarray(jax.jit(entropies)(swept.logits, swept.mask), np.float64)
    own = np.unique(task[training], return_inverse=True)[1]
    centre, metric = product_metric(entropy[training], own, min(config.dim, entropy.shape[1]), config.shrinkage)
    found = (entropy - centre) @ metric
    return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), SMALL)).astype(np.float32)


def table(run: FinishedRun) -> list[Row]:
    """The rows of all changes."""
    unseen, validation = run.unseen, run.split["validation"]
    tested = [run.records[i] for i in unseen]
    rows: list[Row] = []
    for change in tqdm(CHANGES, desc=NAME, unit="row"):
        seeds = 1 if change.sweeps else len(run.swept)
        found = [embeddings(run, change, seed) for seed in range(seeds)]
        if change.centre:
            found = [_centered(run, own, (unseen, validation), change.centre) for own in found]
        queried = [own[unseen] for own in found]
        validate = validation_score(run.records, validation, change.neighbors)
        asking = np.array([change.asking(record) for record in tested]) if change.asking else None
        scores = retrieval_scores(queried, tested, RESAMPLES, run.config.seed, change.neighbors, asking)
        same, cross = scores["same"].metrics, scores["cross"].metrics
        rows.append(
            {
                "change": change.label,
                "validation mAP": round(float(np.mean([validate(own) for own in found])), 4),
                "P@1 same": same["precision_at_1"],
                "mAP same": same["map"],
                "P@1 cross": cross["precision_at_1"],
                "mAP cross": cross["map"],
                "hubness": hubness(queried).value,
            }
        )
    return rows


def _centered(run: FinishedRun, embedding: np.ndarray, parts: Sequence[np.ndarray], centre: str) -> np.ndarray:
    """Embeddings, those of each part centered together or by architecture."""
    moved = embedding.copy()
    for places in parts:
        group = labels([run.records[i].architecture for i in places]) if centre == "architecture" else None
        moved[places] = centered(embedding[places], group)
    return moved


def make_table(workdir: Path) -> None:
    """Writes and prints the table of a finished run."""
    rows = table(load_run(workdir))
    figure = bar_figure(rows, label="change", values=["mAP same", "mAP cross"], axis="mAP on unseen tasks")
    write_table(workdir, NAME, "What each part of the encoder is worth", NOTE, rows, figure)
    print_table(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the table; bad input ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished run of experiments.main")
    args = parser.parse_args(argv)
    return finish(lambda: make_table(args.workdir))


if __name__ == "__main__":
    sys.exit(main())
