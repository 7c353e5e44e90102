"""A graph network with one edge a weight and synchronous rounds of messages (Lim et al. 2024; Kofinas et al. 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jaxtyping import Array, Float, Int

from wsrl.graph.neurons import NeuronGraph

ENDS = 64  # input and output neurons have learned identities, hidden ones have none
TAPS = 256


class SynchronousGNN(nn.Module):
    """Edge MLP, mean over incoming edges, node update; all nodes at once, `rounds` times; mean over the nodes.

    As published, output neurons are told apart by learned identities: the order of classes is seen.
    """

    dim: int
    width: int
    rounds: int

    @nn.compact
    def __call__(self, graph: NeuronGraph) -> Float[Array, "networks dim"]:
        """Embeds a padded batch of neuron graphs (`wsrl.graph.neurons`)."""
        nodes, edges = graph.nodes, graph.edges
        count = len(nodes.bias)
        networks = len(graph.n_node)
        end = (nodes.layer == 0) | (nodes.output == 1)
        kind = jnp.where(nodes.layer == 0, 1, jnp.where(nodes.output == 1, 2, 0))
        identity = nn.Embed(ENDS, self.width)(nodes.unit % ENDS) * end[:, None]
        features = jnp.stack([nodes.bias, nodes.depth], -1)
        state = nn.Dense(self.width)(features) + nn.Embed(3, self.width)(kind) + identity
        position = nn.Embed(TAPS, self.width)(edges.tap % TAPS)
        edge = nn.gelu(nn.Dense(self.width)(edges.weight[:, None]) + position)
        degree = jnp.maximum(jraph.segment_sum(jnp.ones(len(edge)), graph.receivers, count), 1.0)[:, None]
        out_degree = jnp.maximum(jraph.segment_sum(jnp.ones(len(edge)), graph.senders, count), 1.0)[:, None]
        for _ in range(self.rounds):
            message = nn.gelu(nn.Dense(self.width)(state)[graph.senders] + nn.Dense(self.width)(edge))
            reply = nn.gelu(nn.Dense(self.width)(state)[graph.receivers] + nn.Dense(self.width)(edge))
            incoming = jraph.segment_sum(message, graph.receivers, count) / degree
            outgoing = jraph.segment_sum(reply, graph.senders, count) / out_degree
            update = nn.gelu(nn.Dense(self.width)(jnp.concatenate([state, incoming, outgoing], -1)))
            state = nn.LayerNorm()(state + nn.Dense(self.width)(update))
        owner = jnp.repeat(jnp.arange(networks), graph.n_node, total_repeat_length=count)
        size = jnp.maximum(graph.n_node, 1)[:, None]
        pooled = jraph.segment_sum(state, owner, networks) / size
        logits = state * (nodes.output == 1)[:, None]
        outputs = jraph.segment_sum(logits, owner, networks)
        outputs /= jnp.maximum(jraph.segment_sum((nodes.output == 1).astype(jnp.float32), owner, networks), 1.0)[
            :, None
        ]
        read = nn.gelu(nn.Dense(2 * self.width)(jnp.concatenate([pooled, outputs], -1)))
        embedding: Float[Array, "networks dim"] = nn.Dense(self.dim)(read)
        return embedding / jnp.sqrt(jnp.square(embedding).sum(-1, keepdims=True) + 1e-12)


@dataclass(frozen=True)
class NeuronBucket:
    """Networks as neuron graphs in batches of one shape; see `wsrl.encoder.embed.Batches`."""

    members: np.ndarray
    graphs: tuple[NeuronGraph, ...]
    size: int
    classes: int

    def batch(self, places: Sequence[int]) -> NeuronGraph:
        """Batches and pads graphs for the largest of the bucket."""
        nodes = self.size * max(int(g.n_node[0]) for g in self.graphs) + 1
        edges = self.size * max(int(g.n_edge[0]) for g in self.graphs)
        batch = jraph.batch_np(cast(Any, [self.graphs[i] for i in places]))
        return jax.tree.map(np.asarray, jraph.pad_with_graphs(batch, nodes, edges, self.size + 1))


def make_neuron_buckets(
    graphs: Sequence[NeuronGraph], members: Int[np.ndarray, " m"], edges: int
) -> list[NeuronBucket]:
    """Sorts some of the graphs into buckets by the octave of their number of edges; a batch has at most `edges`."""
    octave = np.array([int(graphs[i].n_edge[0]).bit_length() for i in members])
    buckets = []
    for value in np.unique(octave):
        own = members[octave == value]
        chosen = tuple(graphs[i] for i in own)
        size = int(np.clip(edges // max(int(g.n_edge[0]) for g in chosen), 1, len(own)))
        classes = max(int(g.nodes.output.sum()) for g in chosen)
        buckets.append(NeuronBucket(own, chosen, size, classes))
    return buckets
