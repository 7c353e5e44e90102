"""Probe models: small classifiers trained for seconds on a data set, whose embeddings stand for it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
from jaxtyping import Float, Float32

from wsrl.checkpoint import Checkpoint
from wsrl.data import ImageSet
from wsrl.encoder.dense_network import dense_network
from wsrl.encoder.embed import Embedder
from wsrl.encoder.kind import network_kind
from wsrl.graph.collection import checkpoint_graph, make_buckets
from wsrl.graph.tiles import TILE, TileGraph
from wsrl.zoo.bank import EVALUATION_BATCH
from wsrl.zoo.models import MLP, Classifier, CNNFlatten, CNNGap
from wsrl.zoo.stacked import Tree, initialize, train_models

ARCHITECTURES: tuple[Classifier, ...] = (
    MLP("relu", widths=(64, 64)),
    CNNFlatten("relu", widths=(8, 16), conv_strides=(2, 2), hidden=32),
    CNNGap("gelu", widths=(8, 16, 24), conv_strides=(1, 2, 2)),
)
EACH = 4  # probes of an architecture
STEPS = 300
BATCH = 32  # images
BANK = 1024  # images that a program is compiled for, or a multiple
LEARNING_RATE = 4e-3  # of Adam, the highest of the schedule


class Query(NamedTuple):
    """What a data set asks a gallery.

    Attributes:
      vectors: unit vectors; a model of the gallery is as near as its mean similarity to them.
      kinds: of the networks that the vectors are of, see `network_kind`; "data" where they are of none.
      accuracy: share of the held-out images that probes classify correctly, 0 to 1, mean over them; None where no
        model was trained.
    """

    vectors: Float32[np.ndarray, "vectors dim"]
    kinds: list[str]
    accuracy: float | None

    def similarities(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n"]:
        """Mean cosine similarity of unit vectors to those of the query."""
        return vectors @ self.vectors.mean(0)


class Probes(NamedTuple):
    """Trained probe models.

    Attributes:
      graphs: of their networks.
      accuracies: shares of the held-out images that they classify correctly, 0 to 1.
    """

    graphs: list[TileGraph]
    accuracies: Float32[np.ndarray, "probes"]


def train_probes(
    images: ImageSet,
    seed: int = 0,
    architectures: Sequence[Classifier] = ARCHITECTURES,
    each: int = EACH,
    steps: int = STEPS,
) -> Probes:
    """Trains probes on the images that are not held out.

    Args:
      images: of two classes or more.
      seed: of the probes.
      architectures: of the probes; each is one compiled program.
      each: probes of an architecture, which differ in their initial weights and batches and are trained together.
      steps: of training.
    """
    graphs, accuracies = [], []
    for model in architectures:
        model = model.clone(num_classes=images.classes)
        variables, accuracy = _train(model, images, [seed * each + i for i in range(each)], steps)
        graphs += [checkpoint_graph(as_checkpoint(model, own, images.x.shape[1]), TILE) for own in variables]
        accuracies.append(accuracy)
    return Probes(graphs, np.concatenate(accuracies))


def probe_query(probes: Probes, embedder: Embedder, params: Any) -> Query:
    """Embeds probes as the models of a zoo are embedded."""
    vectors = embedder(params, make_buckets(probes.graphs)).embedding
    return Query(
        vectors, [network_kind(dense_network(graph)) for graph in probes.graphs], float(probes.accuracies.mean())
    )


def _train(
    model: Classifier, images: ImageSet, seeds: Sequence[int], steps: int
) -> tuple[list[Tree], Float32[np.ndarray, "probes"]]:
    """Trains one probe a seed, all at once; returns their Flax variables and accuracies."""
    size = images.x.shape[1]
    variables = _stack([initialize(model, size, seed, init_scale=1.0) for seed in seeds])
    zeros = jax.tree.map(np.zeros_like, variables["params"])
    state = {"variables": variables, "first": zeros, "second": zeros, "step": np.zeros(len(seeds), np.int32)}
    rows = np.flatnonzero(~images.held_out)
    drawn = np.stack([np.random.default_rng([seed, 6]).choice(rows, (steps, BATCH)) for seed in seeds])
    batches = drawn.astype(np.int32), images.y[drawn].astype(np.int32)
    bank = np.pad(images.x, [(0, -len(images.x) % BANK), (0, 0), (0, 0)])
    state, accuracy = train_models(model, state, batches, _stack([_recipe(images, s, steps) for s in seeds]), bank)
    trained = jax.device_get(state["variables"])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], trained) for i in range(len(seeds))], np.asarray(accuracy)


def _recipe(images: ImageSet, seed: int, steps: int) -> dict[str, np.ndarray | np.generic]:
    """What `train_models` wants to know of a run: plain Adam, and the held-out images."""
    rows = np.flatnonzero(images.held_out)
    padding = (0, -len(rows) % EVALUATION_BATCH)
    return {
        "seed": np.uint32(seed),
        "adaptive": np.float32(1),
        "decoupled": np.float32(0),
        "learning_rate": np.float32(LEARNING_RATE),
        "weight_decay": np.float32(0),
        "dropout": np.float32(0),
        "steps": np.float32(steps),
        "test_count": np.int32(max(len(rows), 1)),
        "test_images": np.pad(rows, padding).astype(np.int32),
        "test_labels": np.pad(images.y[rows], padding, constant_values=-1).astype(np.int32),
    }


def _stack(trees: Sequence[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def as_checkpoint(model: Classifier, variables: Tree, image_size: int) -> Checkpoint:
    """The checkpoint of a model of the zoo's architectures that was never written to a file."""
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    metadata = {
        "activation": model.activation,
        "strides": list(model.conv_strides),
        "heads": model.heads,
        "input_shape": [image_size, image_size, 1],
    }
    return Checkpoint("probe", {k: v for k, v in flat.items() if isinstance(v, np.ndarray)}, metadata)
