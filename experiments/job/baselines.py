"""What the encoder is compared with, each with every network's own class order and with the order shared."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from wsrl.annotations import Config
from wsrl.baselines import chance_features, metadata_features, raw_weight_features, statistics_features
from wsrl.baselines.gnn import SynchronousGNN, make_neuron_buckets
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.embed import NetworkMap
from wsrl.graph.neurons import NeuronGraph, neuron_graph
from wsrl.program.network import canonical_network
from wsrl.program.read import read_program
from wsrl.symmetry import reorder_outputs
from wsrl.training.loop import init_state, make_train_step, train
from wsrl.training.sampling import Examples, Sampler
from wsrl.zoo.manifest import Record

Methods = dict[str, list[np.ndarray]]


def baseline_methods(
    config: Config,
    records: Sequence[Record],
    checkpoints: Sequence[Checkpoint],
    split: dict[str, np.ndarray],
    examples: Examples,
    validate: Callable[[np.ndarray], float],
    workdir: Path,
    seconds: float,
) -> tuple[Methods, Methods]:
    """Embeddings [test, dim] of each baseline, by name, and the same with the class order shared.

    Args:
      config: of the job.
      records, checkpoints: of the zoo.
      split: places of the train, validation and test networks.
      examples: what training may know of the networks.
      validate: score of embeddings of all networks.
      workdir: receives the GNNs' files.
      seconds: of training of each GNN.
    """
    orders = [record.get("class_order") for record in records]
    gnn, both = GNN(config), []
    for form in ("own", "shared"):
        served = checkpoints if form == "own" else Reordered(checkpoints, orders)
        weights = Weights(served)
        features = {
            "random": chance_features(len(weights), config.seed),
            "metadata": metadata_features(records),
            "weight statistics": statistics_features(weights, split["train"]),
            "raw weights": raw_weight_features(weights),
        }
        if config.gnn.steps:
            directory = workdir / f"gnn_{form}"
            features["synchronous GNN"] = gnn.fit(served, split, examples, validate, directory, seconds)
        both.append({name: [values[split["test"]]] for name, values in features.items()})
    return both[0], both[1]


class Reordered(Sequence[Checkpoint]):
    """Checkpoints with the output neurons in the order of the task's classes, where it is known."""

    def __init__(self, checkpoints: Sequence[Checkpoint], orders: Sequence[list[int] | None]):
        self.checkpoints = checkpoints
        self.orders = orders

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __getitem__(self, place: int) -> Checkpoint:  # pyright: ignore[reportIncompatibleMethodOverride]
        checkpoint, order = self.checkpoints[place], self.orders[place]
        return reorder_outputs(checkpoint, read_program(checkpoint).wiring, np.argsort(order)) if order else checkpoint


class Weights(Sequence[dict[str, np.ndarray]]):
    """The tensors of checkpoints, read when they are asked for."""

    def __init__(self, checkpoints: Sequence[Checkpoint]):
        self.checkpoints = checkpoints

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __getitem__(self, place: int) -> dict[str, np.ndarray]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {name: np.asarray(tensor) for name, tensor in self.checkpoints[place].tensors.items()}


class GNN:
    """The synchronous GNN with its compiled programs, which both forms of the zoo share."""

    def __init__(self, config: Config):
        self.settings: Config = ml_collections.ConfigDict({**config.encoder.to_dict(), **config.gnn.to_dict()})
        self.seed = config.seed
        self.model = SynchronousGNN(config.encoder.dim, config.gnn.width, config.gnn.rounds)
        self.network_map = NetworkMap(self._apply)
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(config.gnn.learning_rate))
        self.step = make_train_step(self._apply, self.optimizer, self.settings)

    def _apply(self, params: Any, graph: Any, _: Any = None) -> jax.Array:
        return self.model.apply({"params": params}, graph)  # pyright: ignore[reportReturnType]

    def fit(
        self,
        checkpoints: Sequence[Checkpoint],
        split: dict[str, np.ndarray],
        examples: Examples,
        validate: Callable[[np.ndarray], float],
        directory: Path,
        seconds: float,
    ) -> np.ndarray:
        """Trains for a time, with the encoder's loss and early stopping.

        Returns:
          [networks, dim], the embeddings of the test networks in their places and zeros elsewhere.
        """
        graphs = [neuron_graph(canonical_network(c, read_program(c))) for c in checkpoints]
        served = make_neuron_buckets(graphs, split["train"], self.settings.edges)
        params = jax.jit(self.model.init)(jax.random.key(self.seed), served[0].batch([0]))["params"]
        sampler = Sampler(
            served, examples, self.settings.tasks_per_batch, 0.0, 0.0, jax.local_device_count(), self.seed
        )
        best, _ = train(
            init_state(params, self.optimizer),
            self.step,
            sampler.sample,
            lambda current: validate(self._embed(current, graphs, split["validation"])),
            self.settings,
            directory,
            directory.name,
            seconds,
        )
        return self._embed(best, graphs, split["test"])

    def _embed(self, params: Any, graphs: list[NeuronGraph], places: np.ndarray) -> np.ndarray:
        """Embeds the networks at some places; the rows of the others are zero."""
        chosen = [graphs[i] for i in places]
        buckets = make_neuron_buckets(chosen, np.arange(len(chosen)), self.settings.edges)
        found = self.network_map(params, buckets)
        embeddings = np.zeros((len(graphs), found.shape[1]), np.float32)
        embeddings[places] = found
        return embeddings
