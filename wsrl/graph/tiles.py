"""A network as a jraph graph: a node is a tile of T neurons, an edge a tile of T x T weights.

The fan-in of a layer is cut into slots. A slot is one (neuron, kernel tap) of the layer before; a tile of weights joins
T slots, all of one sender tile, to the T units of one receiver tile:

    units of sender tile --(unit, tap of each slot)--> T slots --weight [T, T]--> T units of receiver tile

so a message is a matrix product whatever the kernel, and what does not fill a tile is padded with zeros. A link without
weights has one edge for each tile and tap, whose matrix is the identity (of a mean over a window, its share); a node
that takes the largest of a window takes it of its edges' messages.
"""

from math import prod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
import jraph
import numpy as np

from wsrl.annotations import Leaf
from wsrl.program.layers import ACTIVATIONS, Layer, Link
from wsrl.program.network import Network, WeightedLayer

OPS = ("input", "position", "linear", "norm", "attention", "max", "mean")  # the last two: `pool` layers
TILE = 16  # neurons; vectors do not depend on it
EMPTY = -1  # unit of a slot that carries nothing


@flax.struct.dataclass
class TileNodes:
    """Tiles of neurons, in a graph of N of them.

    Attributes:
      bias, gain: [N, T] float32.
      mask: [N, T] float32, 1 where there is a neuron.
      level, layer: [N] int32.
      op, activation: [N] int32, places in `OPS` and `ACTIVATIONS`.
      pool: [N] int32, 1 where the map is averaged over its positions.
      index: [N] int32, place among the tiles of its layer.
      head: [N] int32, of attention.
      output: [N] int32, 1 in the last layer.
      grid: [N, 2] int32, the (height, width) of each neuron's map before pooling.
    """

    bias: Leaf
    gain: Leaf
    mask: Leaf
    level: Leaf
    layer: Leaf
    op: Leaf
    activation: Leaf
    pool: Leaf
    index: Leaf
    head: Leaf
    output: Leaf
    grid: Leaf


@flax.struct.dataclass
class TileEdges:
    """Tiles of weights, in a graph of E of them.

    Attributes:
      weight: [E, T slots, T units] float32.
      unit: [E, T] int32, place in the sender's tile, `EMPTY` for a slot that carries nothing.
      tap: [E, T, 2] int32, (y, x) offset including origin and padding.
      stride: [E] int32.
      link: [E] int32, place among the links of the receiver's layer (0 to 2: query, key and value of attention).
      weighted: [E] int32, 0 for links without weights.
    """

    weight: Leaf
    unit: Leaf
    tap: Leaf
    stride: Leaf
    link: Leaf
    weighted: Leaf


@runtime_checkable
class TileGraph(Protocol):
    """What a `jraph.GraphsTuple` of tiles holds; of one network, n_node = [N] and n_edge = [E]."""

    nodes: Any  # TileNodes
    edges: Any  # TileEdges
    senders: Leaf
    receivers: Leaf
    n_node: Leaf
    n_edge: Leaf

    def _replace(self, **changes: Any) -> "TileGraph": ...


class Slots(NamedTuple):
    """The edges of one link: the first three fields as of `TileEdges`, and the tiles that they join, [E] int."""

    weight: np.ndarray
    unit: np.ndarray
    tap: np.ndarray
    sender: np.ndarray
    receiver: np.ndarray


def place_units(layer: WeightedLayer, tile: int) -> tuple[np.ndarray, int]:
    """Returns where each unit lies, as tile * T + place, and the number of tiles.

    Heads of attention start tiles of their own, so that a head is a whole number of tiles.
    """
    spec = layer.layer
    dim = spec.units // spec.heads
    tiles = -(-dim // tile)
    unit = np.arange(spec.units)
    return (unit // dim) * tiles * tile + unit % dim, spec.heads * tiles


def depths(network: Network) -> np.ndarray:
    """Level of each layer: the length of the longest path from the inputs."""
    level = np.zeros(len(network.layers), np.int32)
    for i, layer in enumerate(network.layers):
        level[i] = max((level[link.source] + 1 for link in layer.layer.links), default=0)
    return level


def to_graph(network: Network, tile: int) -> TileGraph:
    """Builds the graph of tiles: a GraphsTuple of NumPy arrays."""
    levels = depths(network)
    nodes, edges, senders, receivers, first = [], [], [], [], []
    for i, layer in enumerate(network.layers):
        places, tiles = place_units(layer, tile)
        first.append(sum(len(n.layer) for n in nodes))
        nodes.append(_nodes(layer, i, int(levels[i]), places, tiles, tile, output=i == len(network.layers) - 1))
        for j, (link, weight) in enumerate(zip(layer.layer.links, layer.weights, strict=True)):
            if weight is None:
                slots = _identity(nodes[-1].mask, link, layer.layer)
            else:
                source, source_tiles = place_units(network.layers[link.source], tile)
                slots = _tiles(weight, link, source, source_tiles, places, tiles, tile)
            fixed = (np.full(len(slots.sender), n, np.int32) for n in (link.stride, j, int(weight is not None)))
            edges.append(TileEdges(slots.weight, slots.unit, slots.tap, *fixed))
            senders.append(slots.sender + first[link.source])
            receivers.append(slots.receiver + first[i])
    graphs_tuple: Any = jraph.GraphsTuple  # whose annotations know arrays of JAX alone
    return graphs_tuple(
        nodes=_joined(nodes),
        edges=_joined(edges),
        senders=np.concatenate(senders).astype(np.int32),
        receivers=np.concatenate(receivers).astype(np.int32),
        globals=None,
        n_node=np.array([sum(len(n.level) for n in nodes)], np.int32),
        n_edge=np.array([sum(len(e.stride) for e in edges)], np.int32),
    )


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _nodes(
    layer: WeightedLayer, index: int, level: int, places: np.ndarray, tiles: int, tile: int, output: bool
) -> TileNodes:
    spec = layer.layer

    def spread(values: np.ndarray) -> np.ndarray:
        padded = np.zeros(tiles * tile, np.float32)
        padded[places] = values
        return padded.reshape(tiles, tile)

    def fill(value: int) -> np.ndarray:
        return np.full(tiles, value, np.int32)

    return TileNodes(
        bias=spread(layer.bias),
        gain=spread(layer.gain),
        mask=spread(np.ones(spec.units)),
        level=fill(level),
        layer=fill(index),
        op=fill(OPS.index(spec.pooling if spec.op == "pool" else spec.op)),
        activation=fill(ACTIVATIONS.index(spec.activation)),
        pool=fill(spec.pool),
        index=np.arange(tiles, dtype=np.int32),
        head=np.arange(tiles, dtype=np.int32) // (tiles // spec.heads),
        output=fill(output),
        grid=np.tile(np.array(spec.grid, np.int32), (tiles, 1)),
    )


def _identity(mask: np.ndarray, link: Link, layer: Layer) -> Slots:
    """Edges that carry each tile of a layer to the same tile of another, one for each tap of the link's kernel."""
    tiles, tile = mask.shape
    tap, place = (a.ravel() for a in np.indices((prod(link.kernel), tiles)))
    share = 1 / prod(link.kernel) if layer.op == "pool" and layer.pooling == "mean" else 1.0
    return Slots(
        weight=(mask[:, :, None] * np.eye(tile, dtype=np.float32) * np.float32(share))[place],
        unit=np.where(mask > 0, np.arange(tile), EMPTY).astype(np.int32)[place],
        tap=np.repeat(_offsets(tap, link)[:, None], tile, axis=1),
        sender=place,
        receiver=place,
    )


def _offsets(tap: np.ndarray, link: Link) -> np.ndarray:
    """(y, x) of taps, given by row-major places in the kernel, from where the link's origin and padding put it."""
    return (np.stack([tap // link.kernel[1], tap % link.kernel[1]], -1) + link.origin - link.padding).astype(np.int32)


def _tiles(
    weight: np.ndarray, link: Link, source: np.ndarray, source_tiles: int, places: np.ndarray, tiles: int, tile: int
) -> Slots:
    """Cuts weights [taps, fan_in, units] into edges, one a block of slots and tile of units."""
    taps, fan_in, _ = weight.shape
    tap, unit = (a.ravel() for a in np.meshgrid(np.arange(taps), np.arange(fan_in), indexing="ij"))
    sender = source[unit] // tile
    order = np.argsort(sender, kind="stable")  # slots of one sender tile stay in the order (tap, unit)
    tap, unit, sender = tap[order], unit[order], sender[order]
    count = np.bincount(sender, minlength=source_tiles)
    blocks = -(-count // tile)
    within = np.arange(len(sender)) - (np.cumsum(count) - count)[sender]
    row = (np.cumsum(blocks) - blocks)[sender] * tile + within
    total = int(blocks.sum())

    matrix = np.zeros((total * tile, tiles * tile), np.float32)
    matrix[np.ix_(row, places)] = weight[tap, unit]
    slot_unit = np.full(total * tile, EMPTY, np.int32)
    slot_unit[row] = source[unit] % tile
    slot_tap = np.zeros((total * tile, 2), np.int32)
    slot_tap[row] = _offsets(tap, link)

    block, column = (a.ravel() for a in np.meshgrid(np.arange(total), np.arange(tiles), indexing="ij"))
    return Slots(
        weight=matrix.reshape(total, tile, tiles, tile).transpose(0, 2, 1, 3).reshape(-1, tile, tile),
        unit=slot_unit.reshape(total, tile)[block],
        tap=slot_tap.reshape(total, tile, 2)[block],
        sender=np.repeat(np.arange(source_tiles), blocks)[block],
        receiver=column,
    )
