"""What the encoder is compared with, each with every network's own class order and with the order shared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from wsrl.baselines import chance_features, metadata_features, raw_weight_features, statistics_features
from wsrl.baselines.gnn import SynchronousGNN, make_neuron_buckets
from wsrl.canonical import canonicalize
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.embed import NetworkMap
from wsrl.encoder.sampling import Examples, Sampler
from wsrl.encoder.train import init_state, make_train_step, train
from wsrl.graph.neurons import neuron_graph
from wsrl.network import read_network
from wsrl.symmetry import reorder_outputs
from wsrl.wiring import infer_wiring
from wsrl.zoo.load import Networks

Methods = dict[str, list[np.ndarray]]


def baseline_methods(
    config: ml_collections.ConfigDict,
    networks: Networks,
    split: dict[str, np.ndarray],
    examples: Examples,
    validate: Callable[[np.ndarray], float],
    workdir: Path,
    seconds: float,
) -> tuple[Methods, Methods]:
    """Embeddings [test, dim] of each baseline, by name, and the same with the class order shared.

    Args:
      config: of the job.
      networks: the zoo.
      split: places of the train, validation and test networks.
      examples: what training may know of the networks.
      validate: score of embeddings of all networks.
      workdir: receives the GNNs' files.
      seconds: of training of each GNN.
    """
    both = []
    for form in ("own", "shared"):
        checkpoints = networks.checkpoints
        if form == "shared":
            orders = [record.get("class_order") for record in networks.records]
            checkpoints = [in_shared_order(c, o) for c, o in zip(checkpoints, orders, strict=True)]
        weights = [checkpoint.tensors for checkpoint in checkpoints]
        features = {
            "random": chance_features(len(weights), config.seed),
            "metadata": metadata_features(networks.records),
            "weight statistics": statistics_features(weights, split["train"]),
            "raw weights": raw_weight_features(weights),
            "synchronous GNN": train_gnn(
                config, checkpoints, split["train"], examples, validate, workdir / f"gnn_{form}", seconds
            ),
        }
        both.append({name: [values[split["test"]]] for name, values in features.items()})
    return both[0], both[1]


def in_shared_order(checkpoint: Checkpoint, order: list[int] | None) -> Checkpoint:
    """Puts the output neurons into the order of the task's classes, where it is known."""
    return reorder_outputs(checkpoint, infer_wiring(checkpoint), np.argsort(order)) if order else checkpoint


def train_gnn(
    config: ml_collections.ConfigDict,
    checkpoints: list[Checkpoint],
    training: np.ndarray,
    examples: Examples,
    validate: Callable[[np.ndarray], float],
    directory: Path,
    seconds: float,
) -> np.ndarray:
    """Trains the synchronous GNN for a time, with the encoder's loss and early stopping; embeds all networks."""
    graphs = [neuron_graph(canonicalize(read_network(c, infer_wiring(c)))) for c in checkpoints]
    devices = jax.local_device_count()
    buckets = make_neuron_buckets(graphs, config.gnn.edges)
    served = make_neuron_buckets([graphs[i] for i in training], config.gnn.edges)
    for bucket in served:
        bucket.members[:] = training[bucket.members]
    model = SynchronousGNN(config.encoder.dim, config.gnn.width, config.gnn.rounds)
    params = jax.jit(model.init)(jax.random.key(config.seed), buckets[0].batch([0]))["params"]

    def apply(params: Any, graph: Any, _: Any = None) -> Any:
        return model.apply({"params": params}, graph)

    embed = NetworkMap(apply)
    sampler = Sampler(served, examples, config.gnn.tasks_per_batch, 0.0, 0.0, devices, config.seed)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.gnn.learning_rate))
    settings = ml_collections.ConfigDict({**config.encoder.to_dict(), **config.gnn.to_dict()})
    best, _ = train(
        init_state(params, optimizer),
        make_train_step(apply, optimizer, settings),
        sampler.sample,
        lambda current: validate(embed(current, buckets).embedding),
        settings,
        directory,
        directory.name,
        seconds,
    )
    return embed(best, buckets).embedding
