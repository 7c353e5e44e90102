"""A network's layers as plain matrices, put together again from its graph of tiles."""

import numpy as np

from wsrl.encoder.dense_layers import DenseLayer, DenseLink
from wsrl.graph.tiles import OPS, TileGraph, TileNodes
from wsrl.program.layers import ACTIVATIONS


def dense_network(graph: TileGraph) -> list[DenseLayer]:
    """Layers of the one network of a graph from `wsrl.graph.tiles.to_graph`, in topological order."""
    nodes, edges = graph.nodes, graph.edges
    tile = nodes.bias.shape[1]
    count = int(nodes.layer[-1]) + 1
    start = np.searchsorted(nodes.layer, np.arange(count + 1))
    exists = nodes.mask.reshape(-1) > 0
    unit = np.cumsum(exists) - 1  # place of each slot's neuron among those of the whole network
    first = np.append(0, np.cumsum(exists))[start * tile]  # first neuron of each layer
    to = nodes.layer[graph.receivers]
    key = np.stack([to, edges.link], 1)
    bounds = [*np.flatnonzero(np.any(key[1:] != key[:-1], 1)) + 1, len(key)]  # edges of one link lie side by side
    links: list[list[DenseLink]] = [[] for _ in range(count)]
    begin = 0
    for end in bounds:
        at, layer = slice(begin, end), int(to[begin])
        source = int(nodes.layer[graph.senders[begin]])
        filled = edges.unit[at] >= 0
        taps = edges.tap[at][filled]
        offset = taps.min(0)
        height, width = (int(n) for n in taps.max(0) - offset + 1)
        weight = None
        if edges.weighted[begin]:
            sender = graph.senders[at][:, None] * tile + edges.unit[at]
            place = unit[sender[filled]] - first[source]
            column = np.broadcast_to((graph.receivers[at] - start[layer])[:, None], filled.shape)[filled]
            fan_in, columns = int(first[source + 1] - first[source]), int(start[layer + 1] - start[layer])
            matrix = np.zeros((height, width, fan_in, columns, tile), np.float32)
            matrix[*(taps - offset).T, place, column] = edges.weight[at][filled]
            own = exists[start[layer] * tile : start[layer + 1] * tile]
            weight = matrix.reshape(height, width, fan_in, -1)
            weight = weight if own.all() else np.ascontiguousarray(weight[..., own])
        placed = (int(offset[0]), int(offset[1]))
        links[layer].append(DenseLink(source, weight, (height, width), placed, int(edges.stride[begin])))
        begin = end
    return [_layer(nodes, slice(*start[i : i + 2]), tuple(links[i])) for i in range(count)]


def _layer(nodes: TileNodes, at: slice, links: tuple[DenseLink, ...]) -> DenseLayer:
    exists = nodes.mask[at] > 0
    op, activation, pool = (int(values[at.start]) for values in (nodes.op, nodes.activation, nodes.pool))
    height, width = (int(n) for n in nodes.grid[at.start])
    return DenseLayer(
        op=OPS[op],
        grid=(height, width),
        links=links,
        bias=nodes.bias[at][exists],
        gain=nodes.gain[at][exists],
        activation=ACTIVATIONS[activation],
        pool=bool(pool),
        heads=int(nodes.head[at.stop - 1]) + 1,
    )
