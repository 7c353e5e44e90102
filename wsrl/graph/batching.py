"""Batches of tile graphs with a schedule: which tiles are computed at which level, from which.

All arrays of a batch have shapes that depend on its `Plan` alone, so networks of one plan share a compiled program.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.struct
import jax
import jraph
import numpy as np

from wsrl.graph.tiles import OPS

NORM, ATTENTION = OPS.index("norm"), OPS.index("attention")


@dataclass(frozen=True)
class LevelPlan:
    """Shapes of one level.

    Attributes:
      nodes, edges: tiles of neurons and of weights, padding included.
      attention: attention tiles among the nodes.
      positions: longest map of a neuron.
      norm: whether there are layer norms.
      sources: levels that the edges come from; 0 is the inputs.
    """

    nodes: int
    edges: int
    attention: int
    positions: int
    norm: bool
    sources: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Shapes of a batch.

    Attributes:
      graphs: networks, padding included.
      tile: neurons a tile.
      input_shape: [height, width, channels] that all its networks are fed.
      position_embedding: (height, width) of the map of one-hot positions, or None.
      outputs: tiles of the widest output layer.
      levels: the levels after the inputs.
    """

    graphs: int
    tile: int
    outputs: int
    input_shape: tuple[int, int, int]
    position_embedding: tuple[int, int] | None
    levels: tuple[LevelPlan, ...]


@flax.struct.dataclass
class LevelSchedule:
    """Indices of one level, int32; padding points to padding nodes and edges.

    Attributes:
      node: [nodes] in the graph.
      graph: [nodes] network of each node.
      layer: [nodes] an id shared by the tiles of one layer.
      edge: [edges] in the graph.
      receiver: [edges] among this level's nodes.
      base: [edges] first row of the sender's tile among the rows of the level's sources.
      source_grid: [edges, 2] map of the sender's neurons.
      source_positions: [edges] rows between two neurons of the sender.
      attention_node: [attention] among this level's nodes.
      attention_source: [attention, 3] query, key and value tiles among the nodes of the source level.
      attention_head: [attention] an id shared by the tiles of one head.
    """

    node: jax.Array
    graph: jax.Array
    layer: jax.Array
    edge: jax.Array
    receiver: jax.Array
    base: jax.Array
    source_grid: jax.Array
    source_positions: jax.Array
    attention_node: jax.Array
    attention_source: jax.Array
    attention_head: jax.Array


@flax.struct.dataclass
class Batch:
    """Networks of one plan, as one padded graph.

    Attributes:
      graph: GraphsTuple of all networks and one padding graph.
      schedule: one entry a level.
      plan: static.
    """

    graph: jraph.GraphsTuple
    schedule: tuple[LevelSchedule, ...]
    plan: Plan = flax.struct.field(pytree_node=False)


@dataclass(frozen=True)
class Profile:
    """What one network needs of each level after the inputs.

    Attributes:
      nodes, edges, attention: tiles, [levels] int.
      positions: longest map of a neuron, [levels] int.
      norm: whether there is a layer norm, [levels] bool.
      sources: of each level, the levels that its edges come from; 0 is the inputs.
      outputs: tiles of the output layer.
      input_shape, position_embedding: as in `Plan`.
    """

    nodes: np.ndarray
    edges: np.ndarray
    attention: np.ndarray
    positions: np.ndarray
    norm: np.ndarray
    sources: tuple[frozenset[int], ...]
    outputs: int
    input_shape: tuple[int, int, int]
    position_embedding: tuple[int, int] | None

    @property
    def key(self) -> tuple:
        """Equal for networks of equal shapes."""
        arrays = (self.nodes, self.edges, self.attention, self.positions, self.norm)
        rest = (self.sources, self.outputs, self.input_shape, self.position_embedding)
        return (*(tuple(a.tolist()) for a in arrays), *rest)

    def compatible(self, other: "Profile") -> bool:
        """Whether the two are fed the same inputs."""
        return (self.input_shape, self.position_embedding) == (other.input_shape, other.position_embedding)


def node_levels(graph: jraph.GraphsTuple, last: int) -> np.ndarray:
    """Level of every node; output nodes are moved to level `last`, so that networks of other depths fit together."""
    return np.where(graph.nodes["output"] == 1, last, graph.nodes["level"])


def profile(graph: jraph.GraphsTuple) -> Profile:
    """Counts the tiles of one network's graph, level by level."""
    nodes, edges = graph.nodes, graph.edges
    level = nodes["level"]
    last = int(level.max())
    to, source = level[graph.receivers], level[graph.senders]
    positions = np.zeros(last + 1, np.int64)
    np.maximum.at(positions, level, nodes["grid"].prod(-1))
    inputs = nodes["op"] == OPS.index("input")
    embedding = nodes["op"] == OPS.index("position")
    height, width = (int(n) for n in nodes["grid"][inputs][0])

    def count(levels: np.ndarray) -> np.ndarray:
        return np.bincount(levels, minlength=last + 1)[1:]

    return Profile(
        nodes=count(level),
        edges=count(to[edges["part"] < 0]),
        attention=count(level[nodes["op"] == ATTENTION]),
        positions=positions[1:],
        norm=count(level[nodes["op"] == NORM]) > 0,
        sources=tuple(frozenset(source[to == i].tolist()) for i in range(1, last + 1)),
        outputs=int(nodes["output"].sum()),
        input_shape=(height, width, int(nodes["mask"][inputs].sum())),
        position_embedding=tuple(int(n) for n in nodes["grid"][embedding][0]) if embedding.any() else None,
    )


def merge(a: Profile, b: Profile) -> Profile:
    """Least profile that holds either of two compatible networks; the output is the last level of both."""
    levels = max(len(a.nodes), len(b.nodes))

    def fit(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:-1], np.zeros(levels - len(values), values.dtype), values[-1:]])

    def sources(p: Profile) -> list[frozenset[int]]:
        return [*p.sources[:-1], *[frozenset[int]()] * (levels - len(p.sources)), p.sources[-1]]

    arrays = {
        key: np.maximum(fit(getattr(a, key)), fit(getattr(b, key)))
        for key in ("nodes", "edges", "attention", "positions", "norm")
    }
    joint = tuple(x | y for x, y in zip(sources(a), sources(b), strict=True))
    return Profile(**arrays, sources=joint, outputs=max(a.outputs, b.outputs), **_inputs(a))


def _inputs(p: Profile) -> dict:
    return {"input_shape": p.input_shape, "position_embedding": p.position_embedding}


def make_plan(profile: Profile, graphs: int, tile: int) -> Plan:
    """Returns a plan for `graphs` networks, each of which the profile holds."""
    levels = tuple(
        LevelPlan(
            nodes=graphs * int(profile.nodes[i]) + 1,  # and one of padding
            edges=graphs * int(profile.edges[i]),
            attention=graphs * int(profile.attention[i]),
            positions=max(int(profile.positions[i]), 1),
            norm=bool(profile.norm[i]),
            sources=tuple(sorted(profile.sources[i])),
        )
        for i in range(len(profile.nodes))
    )
    return Plan(graphs, tile, profile.outputs, levels=levels, **_inputs(profile))


def make_batch(graphs: Sequence[jraph.GraphsTuple], plan: Plan) -> Batch:
    """Batches and pads networks and schedules their tiles.

    Raises:
      ValueError: they do not fit into the plan.
    """
    if len(graphs) > plan.graphs:
        raise ValueError(f"{len(graphs)} networks do not fit into a plan for {plan.graphs}")
    last, tile = len(plan.levels), plan.tile
    graph = jraph.batch_np(graphs)
    inputs = _tiles(plan.input_shape[2], tile) + _tiles(_position_count(plan), tile)
    total_nodes = plan.graphs * inputs + sum(p.nodes for p in plan.levels) + 1
    total_edges = sum(p.edges + 3 * p.attention for p in plan.levels) + 1
    owner = np.repeat(np.arange(len(graphs)), graph.n_node)
    level = node_levels(graph, last)
    to = level[graph.receivers]
    local = np.zeros(len(level), np.int32)  # place of each node within its level
    layer_key = owner.astype(np.int64) * (int(graph.nodes["layer"].max()) + 1) + graph.nodes["layer"]
    for i in range(1, last + 1):
        at = np.flatnonzero(level == i)
        local[at] = np.arange(len(at))

    pad_node, pad_edge = len(level), len(to)  # the first of the padding graph
    base, positions, grid = _input_rows(graph, plan, level)
    schedule = []
    for i, spec in enumerate(plan.levels, start=1):
        node = np.flatnonzero(level == i)
        edge = np.flatnonzero((to == i) & (graph.edges["part"] < 0))
        attention = node[graph.nodes["op"][node] == ATTENTION]
        if len(node) >= spec.nodes or len(edge) > spec.edges or len(attention) > spec.attention:
            raise ValueError(f"level {i} does not fit into the plan")
        start, offset = {}, 0
        for s in spec.sources:
            start[s] = offset
            offset += _input_count(plan) if s == 0 else plan.levels[s - 1].nodes * tile * plan.levels[s - 1].positions
        senders = graph.senders[edge]
        source_level = level[senders]
        first_row = base[senders] + np.array([start.get(s, 0) for s in range(last + 1)])[source_level]
        _, layer = np.unique(layer_key[node], return_inverse=True)
        triples = _attention_sources(graph, attention, local)
        heads = layer_key[attention] * (int(graph.nodes["head"].max()) + 1) + graph.nodes["head"][attention]
        _, head = np.unique(heads, return_inverse=True)
        schedule.append(
            LevelSchedule(
                node=_pad(node, spec.nodes, pad_node),
                graph=_pad(owner[node], spec.nodes, plan.graphs),
                layer=_pad(layer, spec.nodes, spec.nodes - 1),
                edge=_pad(edge, spec.edges, pad_edge),
                receiver=_pad(local[graph.receivers[edge]], spec.edges, spec.nodes - 1),
                base=_pad(first_row, spec.edges, 0),
                source_grid=_pad(grid[senders], spec.edges, 1),
                source_positions=_pad(positions[senders], spec.edges, 1),
                attention_node=_pad(local[attention], spec.attention, spec.nodes - 1),
                attention_source=_pad(triples, spec.attention, 0),
                attention_head=_pad(head, spec.attention, max(spec.attention - 1, 0)),
            )
        )
    padded = jraph.pad_with_graphs(graph, total_nodes, total_edges, plan.graphs + 1)
    return Batch(padded, tuple(schedule), plan)


def _pad(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    padded = np.full((size, *values.shape[1:]), fill, np.int32)
    padded[: len(values)] = values
    return padded


def _tiles(units: int, tile: int) -> int:
    return -(-units // tile)


def _position_count(plan: Plan) -> int:
    return plan.position_embedding[0] * plan.position_embedding[1] if plan.position_embedding else 0


def _input_count(plan: Plan) -> int:
    """Rows of the inputs: one a pixel and channel, then the one-hot positions."""
    height, width, channels = plan.input_shape
    return height * width * channels + _position_count(plan) ** 2


def _input_rows(graph: jraph.GraphsTuple, plan: Plan, level: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row of each tile within its level, rows a neuron, and map after pooling."""
    nodes, tile = graph.nodes, plan.tile
    size = np.array([0] + [p.positions for p in plan.levels])
    positions = np.where(level == 0, nodes["grid"].prod(-1), size[level])
    rank = np.zeros(len(level), np.int64)
    for i in range(1, len(plan.levels) + 1):
        at = np.flatnonzero(level == i)
        rank[at] = np.arange(len(at))
    height, width, channels = plan.input_shape
    first = np.where(nodes["op"] == OPS.index("position"), height * width * channels, 0)
    base = np.where(level == 0, first + nodes["index"] * tile * positions, rank * tile * positions)
    grid = np.where(nodes["pool"][:, None] == 1, 1, nodes["grid"])
    return base, positions, grid


def _attention_sources(graph: jraph.GraphsTuple, attention: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Query, key and value tile of each attention node: [attention, 3] places within their level."""
    edge = np.flatnonzero(graph.edges["part"] >= 0)
    found = np.zeros((len(local), 3), np.int32)
    found[graph.receivers[edge], graph.edges["part"][edge]] = local[graph.senders[edge]]
    return found[attention]
