"""The stage of the main job that compares encoders with baselines on the test models."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from experiments.job.baselines import Methods
from wsrl.annotations import Config
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.embed import Embedder
from wsrl.evaluation import Results, accuracy_tau, evaluate_methods
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.program.read import read_program
from wsrl.symmetry import random_symmetry
from wsrl.training.fit import Fitted
from wsrl.zoo.manifest import Record

ENCODER = "wsrl"  # how results and report call the encoders


def evaluate(
    config: Config,
    embedder: Embedder,
    fitted: Sequence[Fitted],
    baselines: tuple[Methods, Methods],
    records: Sequence[Record],
    checkpoints: Sequence[Checkpoint],
    split: dict[str, np.ndarray],
) -> Results:
    """Scores of encoders and baselines on the test models.

    Args:
      config: of the job.
      embedder, fitted: the encoders, one a seed, with what they say of all networks.
      baselines: from `baseline_methods`.
      records, checkpoints: of the zoo.
      split: indices of the train, validation and test networks.
    """
    test = split["test"]
    tested = [records[i] for i in test]
    own, shared = baselines
    results = evaluate_methods(
        {ENCODER: [fit.encoding.embedding[test] for fit in fitted]} | own,
        tested,
        train_tasks={records[i].task for i in split["train"]},
        validation_tasks={records[i].task for i in split["validation"]},
        shared_order={ENCODER: shared_order_embeddings(embedder, fitted, records, test)} | shared,
        resamples=config.evaluation.resamples,
        seed=config.seed,
    )
    results.accuracy_tau = accuracy_tau([fit.encoding.accuracy[test] for fit in fitted], tested, seed=config.seed)
    results.invariance_error = invariance_error(embedder, fitted[0], checkpoints, test, config)
    return results


def shared_order_embeddings(
    embedder: Embedder, fitted: Sequence[Fitted], records: Sequence[Record], indices: Int[np.ndarray, "_"]
) -> list[Float[np.ndarray, "test dim"]]:
    """Embeddings of networks whose output neurons are put into the order of their tasks' classes."""
    embeddings = []
    for fit in fitted:
        logits, templates = fit.swept.logits[indices].copy(), fit.swept.templates[indices].copy()
        for row, index in enumerate(indices):
            order = records[index].get("class_order")
            if order:
                for array in (logits, templates):
                    array[row, np.asarray(order)] = array[row, : len(order)]
        swept = fit.swept.at(indices)._replace(logits=logits, templates=templates)
        embeddings.append(embedder.read(fit.params, swept).embedding)
    return embeddings


def invariance_error(
    embedder: Embedder, fit: Fitted, checkpoints: Sequence[Checkpoint], indices: Int[np.ndarray, "_"], config: Config
) -> float:
    """Largest relative change of an embedding when a network is permuted and rescaled at random."""
    rng = np.random.default_rng([config.seed, 3])
    chosen = rng.choice(indices, min(config.evaluation.invariance_models, len(indices)), replace=False)
    graphs = []
    for checkpoint in (checkpoints[index] for index in chosen):
        other = random_symmetry(checkpoint, read_program(checkpoint).wiring, rng)
        graphs.append(checkpoint_graph(other, config.encoder.tile))
    changed = embedder(fit.params, make_buckets(graphs, config.encoder.batch_cost, config.encoder.slack)).embedding
    original = fit.encoding.embedding[chosen]
    return float((np.linalg.norm(changed - original, axis=1) / np.linalg.norm(original, axis=1)).max())
