"""What networks make of given images: the features that their output neurons read, and their logits.

Any network that the encoder sweeps exactly will do; no code of a model is needed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from wsrl.encoder.embed import NetworkMap
from wsrl.encoder.sweep import States, forward_sweep, input_rows, output_logits
from wsrl.encoder.swept import fit_inputs
from wsrl.graph.batching import Batch
from wsrl.graph.collection import make_buckets
from wsrl.graph.tiles import TileGraph

CHUNK = 16  # images swept at a time


class Response(NamedTuple):
    """What a network makes of n images.

    Attributes:
      features: what its output layer reads: `features @ weights + bias` are the logits, for that layer's weights in the
        network's graph. Where the graph is that of a canonical network, a feature is a positive factor, or a sign, off
        what the model's own code computes.
      logits: one a class.
      seconds: its share of those that the sweeps of like networks took, compilation included.
    """

    features: Float32[np.ndarray, "n features"]
    logits: Float32[np.ndarray, "n classes"]
    seconds: float


def network_features(
    graphs: Sequence[TileGraph],
    images: Float32[np.ndarray, "n height width channels"],
    progress: str | None = None,
    slack: float = 2.0,
) -> list[Response]:
    """Computes the features and logits of networks, those of like shapes at once.

    Args:
      graphs: of the networks, all with one tile.
      images: as `wsrl.data.normalize` gives them; networks for images of another shape get them resized.
      progress: label of the progress lines, one for each bucket of like networks, or None for no lines.
      slack: of `wsrl.graph.collection.make_buckets`.
    """
    found: dict[int, Response] = {}
    for place, response in iterate_features(graphs, images, progress, slack):
        found[place] = response
    return [found[place] for place in range(len(graphs))]


def iterate_features(
    graphs: Sequence[TileGraph],
    images: Float32[np.ndarray, "n height width channels"],
    progress: str | None = None,
    slack: float = 2.0,
) -> Iterator[tuple[int, Response]]:
    """Yields places among the graphs and responses, as `network_features`, one bucket of networks after the other.

    So the responses of a whole zoo need not fit into memory.
    """
    padded = np.pad(images, [(0, -len(images) % CHUNK), (0, 0), (0, 0), (0, 0)])
    apply = _network_map(padded.shape)
    for bucket in make_buckets(graphs, slack=slack):
        alone = replace(bucket, members=np.arange(len(bucket.members)))
        started = time.perf_counter()
        features, exists, logits, classes = apply(padded, [alone], progress)
        seconds = (time.perf_counter() - started) / len(bucket.members)
        for row, place in enumerate(bucket.members.tolist()):
            read = np.ascontiguousarray(features[row][exists[row]].T[: len(images)])
            yield place, Response(read, np.ascontiguousarray(logits[row][classes[row] > 0].T[: len(images)]), seconds)


@lru_cache(maxsize=4)
def _network_map(shape: tuple[int, ...]) -> NetworkMap:
    """Programs for images of this shape; those of the last few shapes are kept."""
    del shape  # the programs of one map differ by the networks alone
    return NetworkMap(_respond)


def _respond(images: Float[Array, "n height width channels"], batch: Batch) -> tuple[Array, Array, Array, Array]:
    """Features [networks, slots, n] and which exist, logits [networks, classes, n] and which exist."""
    inputs = fit_inputs(images, batch.plan.input_shape)
    chunks = inputs.reshape(-1, CHUNK, *inputs.shape[1:])
    read_logits, classes = output_logits(batch)
    by_network = _output_slots(batch)

    def respond(chunk: Array) -> tuple[Array, Array]:
        states = forward_sweep(batch, chunk)
        return by_network(_slot_states(batch, chunk, states)), read_logits(states)

    features, logits = (
        jnp.moveaxis(parts, 0, 2).reshape(*parts.shape[1:3], -1) for parts in jax.lax.map(respond, chunks)
    )
    exists = by_network(batch.graph.edges.unit[batch.schedule[-1].edge] >= 0)
    return features, exists, logits, classes


def _slot_states(
    batch: Batch, inputs: Float[Array, "probes height width channels"], states: States
) -> Float[Array, "edges tile probes"]:
    """What feeds the slots of the last level's edges, mean over the places of the outputs where these keep a map."""
    level, plan = batch.schedule[-1], batch.plan
    rows = [input_rows(inputs, plan), *(state.reshape(-1, len(inputs)) for state in states)]
    buffer = jnp.concatenate([*(rows[s] for s in plan.levels[-1].sources), jnp.zeros((1, len(inputs)), inputs.dtype)])
    area = batch.graph.nodes.grid[level.node[level.receiver]].prod(-1)
    return buffer[level.slot_row].sum(2) / jnp.maximum(area, 1)[:, None, None]


def _output_slots(batch: Batch) -> Callable[[Array], Array]:
    """Returns how to sort values [edges, tile, ...] of the last level's slots by network: [networks, slots, ...].

    Every tile of output neurons reads the same slots; those of the first count.
    """
    level, plan = batch.schedule[-1], batch.plan
    networks, most = plan.graphs + 1, plan.levels[-1].edges // plan.graphs
    first = batch.graph.nodes.index[level.node[level.receiver]] == 0
    owner = jnp.where(first, level.graph[level.receiver], networks)  # others are dropped
    before = jnp.cumsum(first) - 1
    start = jax.ops.segment_min(before, owner, networks)
    rank = before - start[jnp.minimum(owner, plan.graphs)]

    def by_network(values: Array) -> Array:
        empty = jnp.zeros((networks, most, *values.shape[1:]), values.dtype)
        placed = empty.at[owner, rank].set(values, mode="drop")
        return placed.reshape(networks, -1, *values.shape[2:])

    return by_network
