"""Batches of tile graphs with a schedule: which tiles are computed at which level, from which.

All arrays of a batch have shapes that depend on its `Plan` alone, so networks of one plan share a compiled program.
"""

from collections.abc import Sequence
from typing import Any, cast

import flax.struct
import jraph
import numpy as np

from wsrl.annotations import Leaf
from wsrl.graph.plans import ATTENTION, Plan
from wsrl.graph.tiles import OPS, TileGraph


@flax.struct.dataclass
class LevelSchedule:
    """Indices of one level, int32; padding points to padding nodes and edges.

    Attributes:
      node: [nodes] in the graph.
      graph: [nodes] network of each node.
      layer: [nodes] an id shared by the tiles of one layer.
      edge: [edges] in the graph.
      receiver: [edges] among this level's nodes.
      slot_row: [edges, tile, positions] what feeds each slot at each output position: a row of the states of the
        level's sources put after one another, one row a neuron and position; the row after the last is zero.
      attention_node: [attention] among this level's nodes.
      attention_source: [attention, 3] query, key and value tiles among the nodes of the source level.
      attention_head: [attention] an id shared by the tiles of one head.
    """

    node: Leaf
    graph: Leaf
    layer: Leaf
    edge: Leaf
    receiver: Leaf
    slot_row: Leaf
    attention_node: Leaf
    attention_source: Leaf
    attention_head: Leaf


@flax.struct.dataclass
class Batch:
    """Networks of one plan, as one padded graph.

    Attributes:
      graph: GraphsTuple of all networks and one padding graph.
      schedule: one entry a level.
      plan: static.
    """

    graph: Leaf
    schedule: Leaf
    plan: Plan = flax.struct.field(pytree_node=False)


def node_levels(graph: TileGraph, last: int) -> np.ndarray:
    """Level of every node; output nodes are moved to level `last`, so that networks of other depths fit together."""
    return np.where(graph.nodes.output == 1, last, graph.nodes.level)


def make_batch(graphs: Sequence[TileGraph], plan: Plan) -> Batch:
    """Batches and pads networks and schedules their tiles.

    Raises:
      ValueError: they do not fit into the plan.
    """
    if len(graphs) > plan.graphs:
        raise ValueError(f"{len(graphs)} networks do not fit into a plan for {plan.graphs}")
    last, tile = len(plan.levels), plan.tile
    graph = cast(TileGraph, jraph.batch_np(cast(Any, graphs)))
    inputs = _tiles(plan.input_shape[2], tile) + _tiles(_position_count(plan), tile)
    total_nodes = plan.graphs * inputs + sum(p.nodes for p in plan.levels) + 1
    total_edges = sum(p.edges + 3 * p.attention for p in plan.levels) + 1
    owner = np.repeat(np.arange(len(graphs)), graph.n_node)
    level = node_levels(graph, last)
    to = level[graph.receivers]
    summed = graph.nodes.op[graph.receivers] != ATTENTION  # edges whose messages are summed, or the largest taken
    local = np.zeros(len(level), np.int64)  # place of each node within its level
    layer_key = owner.astype(np.int64) * (int(graph.nodes.layer.max()) + 1) + graph.nodes.layer
    for i in range(1, last + 1):
        at = np.flatnonzero(level == i)
        local[at] = np.arange(len(at))

    pad_node, pad_edge = len(level), len(to)  # the first of the padding graph
    base, positions, grid = _node_rows(graph, plan, level, local)
    schedule = []
    for i, spec in enumerate(plan.levels, start=1):
        node = np.flatnonzero(level == i)
        edge = np.flatnonzero((to == i) & summed)
        attention = node[graph.nodes.op[node] == ATTENTION]
        if len(node) >= spec.nodes or len(edge) > spec.edges or len(attention) > spec.attention:
            raise ValueError(f"level {i} does not fit into the plan")
        start, rows = {}, 0
        for source in spec.sources:
            start[source] = rows
            rows += _row_count(plan, source)
        offset = np.array([start.get(source, 0) for source in range(last + 1)])
        first = base[graph.senders[edge]] + offset[level[graph.senders[edge]]]
        slot_row = _slot_rows(graph, edge, first, positions, grid, spec.positions, empty=rows)
        _, layer = np.unique(layer_key[node], return_inverse=True)
        triples = _attention_sources(graph, attention, local)
        heads = layer_key[attention] * (int(graph.nodes.head.max()) + 1) + graph.nodes.head[attention]
        _, head = np.unique(heads, return_inverse=True)
        schedule.append(
            LevelSchedule(
                node=_pad(node, spec.nodes, pad_node),
                graph=_pad(owner[node], spec.nodes, plan.graphs),
                layer=_pad(layer, spec.nodes, spec.nodes - 1),
                edge=_pad(edge, spec.edges, pad_edge),
                receiver=_pad(local[graph.receivers[edge]], spec.edges, spec.nodes - 1),
                slot_row=_pad(slot_row, spec.edges, rows),
                attention_node=_pad(local[attention], spec.attention, spec.nodes - 1),
                attention_source=_pad(triples, spec.attention, 0),
                attention_head=_pad(head, spec.attention, max(spec.attention - 1, 0)),
            )
        )
    padded = jraph.pad_with_graphs(cast(Any, graph), total_nodes, total_edges, plan.graphs + 1)
    return Batch(padded, tuple(schedule), plan)


def _pad(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    padded = np.full((size, *values.shape[1:]), fill, np.int32)
    padded[: len(values)] = values
    return padded


def _tiles(units: int, tile: int) -> int:
    return -(-units // tile)


def _position_count(plan: Plan) -> int:
    return plan.position_embedding[0] * plan.position_embedding[1] if plan.position_embedding else 0


def _row_count(plan: Plan, level: int) -> int:
    """Rows of a level's states; those of the inputs are one a pixel and channel, then the one-hot positions."""
    if level > 0:
        return plan.levels[level - 1].nodes * plan.tile * plan.levels[level - 1].positions
    height, width, channels = plan.input_shape
    return height * width * channels + _position_count(plan) ** 2


def _slot_rows(
    graph: TileGraph,
    edge: np.ndarray,
    first: np.ndarray,
    positions: np.ndarray,
    grid: np.ndarray,
    size: int,
    empty: int,
) -> np.ndarray:
    """Row that feeds each slot of some edges at each output position: [edges, tile, size].

    Args:
      graph: the whole batch.
      edge: the edges.
      first: first row of each edge's sender.
      positions, grid: of each node, rows between two of its neurons and (height, width) as its readers see it.
      size: output positions.
      empty: the row for what lies outside of a map.
    """
    sender, receiver = graph.senders[edge], graph.receivers[edge]
    own = graph.edges
    unit, tap, stride = own.unit[edge], own.tap[edge], own.stride[edge]
    height, width = graph.nodes.grid[receiver].T
    y, x = np.divmod(np.arange(size), width[:, None])  # [edges, size]
    source_y = (y * stride[:, None])[:, None] + tap[:, :, :1]  # [edges, tile, size]
    source_x = (x * stride[:, None])[:, None] + tap[:, :, 1:]
    source_height, source_width = grid[sender].T[:, :, None, None]
    inside = (source_y >= 0) & (source_y < source_height) & (source_x >= 0) & (source_x < source_width)
    inside &= (unit >= 0)[:, :, None] & (np.arange(size) < (height * width)[:, None])[:, None]
    row = first[:, None] + unit * positions[sender][:, None]
    return np.where(inside, row[:, :, None] + source_y * source_width + source_x, empty)


def _node_rows(
    graph: TileGraph, plan: Plan, level: np.ndarray, local: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row of each tile within its level, rows a neuron, and map after pooling."""
    nodes, tile = graph.nodes, plan.tile
    size = np.array([0] + [p.positions for p in plan.levels])
    positions = np.where(level == 0, nodes.grid.prod(-1), size[level])
    height, width, channels = plan.input_shape
    first = np.where(nodes.op == OPS.index("position"), height * width * channels, 0)
    base = np.where(level == 0, first + nodes.index * tile * positions, local * tile * positions)
    grid = np.where(nodes.pool[:, None] == 1, 1, nodes.grid)
    return base, positions, grid


def _attention_sources(graph: TileGraph, attention: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Query, key and value tile of each attention node: [attention, 3] places within their level."""
    edge = np.flatnonzero(graph.nodes.op[graph.receivers] == ATTENTION)
    found = np.zeros((len(local), 3), np.int32)
    found[graph.receivers[edge], graph.edges.link[edge]] = local[graph.senders[edge]]
    return found[attention]
