"""Shapes of batches: what one network needs of each level, and what a batch provides.

Networks that fit one plan share a compiled program.
"""

from dataclasses import dataclass

import numpy as np

from wsrl.graph.tiles import OPS, TileGraph

NORM, ATTENTION, MAX = OPS.index("norm"), OPS.index("attention"), OPS.index("max")


@dataclass(frozen=True)
class LevelPlan:
    """Shapes of one level.

    Attributes:
      nodes, edges: tiles of neurons and of weights, padding included.
      attention: attention tiles among the nodes.
      positions: longest map of a neuron.
      norm: whether there are layer norms.
      pool: whether there are maps to average.
      maximum: whether there are windows of which the largest value is taken.
      activations: the activations that occur, as indices.
      sources: levels that the edges come from; 0 is the inputs.
    """

    nodes: int
    edges: int
    attention: int
    positions: int
    norm: bool
    pool: bool
    maximum: bool
    activations: tuple[int, ...]
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
      classes: its neurons.
      levels: the levels after the inputs.
    """

    graphs: int
    tile: int
    outputs: int
    classes: int
    input_shape: tuple[int, int, int]
    position_embedding: tuple[int, int] | None
    levels: tuple[LevelPlan, ...]


@dataclass(frozen=True)
class Profile:
    """What one network needs of each level after the inputs.

    Attributes:
      nodes, edges, attention: tiles, [levels] int.
      positions: longest map of a neuron, [levels] int.
      norm, pool, maximum: whether there is a layer norm, a map to average, a window to take the largest value of,
        [levels] bool.
      activations: of each level, the activations that occur.
      sources: of each level, the levels that its edges come from; 0 is the inputs.
      outputs, classes: tiles of the output layer, and its neurons.
      input_shape, position_embedding: as in `Plan`.
    """

    nodes: np.ndarray
    edges: np.ndarray
    attention: np.ndarray
    positions: np.ndarray
    norm: np.ndarray
    pool: np.ndarray
    maximum: np.ndarray
    activations: tuple[frozenset[int], ...]
    sources: tuple[frozenset[int], ...]
    outputs: int
    classes: int
    input_shape: tuple[int, int, int]
    position_embedding: tuple[int, int] | None

    @property
    def key(self) -> tuple:
        """Equal for networks of equal shapes."""
        arrays = (self.nodes, self.edges, self.attention, self.positions, self.norm, self.pool, self.maximum)
        rest = (self.activations, self.sources, self.outputs, self.classes, self.input_shape, self.position_embedding)
        return (*(tuple(a.tolist()) for a in arrays), *rest)

    def compatible(self, other: "Profile") -> bool:
        """Whether the two are fed the same inputs."""
        return (self.input_shape, self.position_embedding) == (other.input_shape, other.position_embedding)


def profile(graph: TileGraph) -> Profile:
    """Counts the tiles of one network's graph, level by level."""
    nodes = graph.nodes
    level = nodes.level
    last = int(level.max())
    to, source = level[graph.receivers], level[graph.senders]
    positions = np.zeros(last + 1, np.int64)
    np.maximum.at(positions, level, nodes.grid.prod(-1))
    inputs = nodes.op == OPS.index("input")
    embedding = nodes.op == OPS.index("position")
    shape = nodes.grid[embedding][0] if embedding.any() else (0, 0)
    height, width = (int(n) for n in nodes.grid[inputs][0])

    def count(levels: np.ndarray) -> np.ndarray:
        return np.bincount(levels, minlength=last + 1)[1:]

    return Profile(
        nodes=count(level),
        edges=count(to[nodes.op[graph.receivers] != ATTENTION]),
        attention=count(level[nodes.op == ATTENTION]),
        positions=positions[1:],
        norm=count(level[nodes.op == NORM]) > 0,
        pool=count(level[nodes.pool == 1]) > 0,
        maximum=count(level[nodes.op == MAX]) > 0,
        activations=tuple(frozenset(nodes.activation[level == i].tolist()) for i in range(1, last + 1)),
        sources=tuple(frozenset(source[to == i].tolist()) for i in range(1, last + 1)),
        outputs=int(nodes.output.sum()),
        classes=int(nodes.mask[nodes.output == 1].sum()),
        input_shape=(height, width, int(nodes.mask[inputs].sum())),
        position_embedding=(int(shape[0]), int(shape[1])) if embedding.any() else None,
    )


def merge(a: Profile, b: Profile) -> Profile:
    """Least profile that holds either of two compatible networks; the output is the last level of both."""
    levels = max(len(a.nodes), len(b.nodes))

    def fit(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:-1], np.zeros(levels - len(values), values.dtype), values[-1:]])

    def sets(p: Profile, key: str) -> list[frozenset[int]]:
        values = getattr(p, key)
        return [*values[:-1], *[frozenset[int]()] * (levels - len(values)), values[-1]]

    arrays = ("nodes", "edges", "attention", "positions", "norm", "pool", "maximum")
    return Profile(
        **{key: np.maximum(fit(getattr(a, key)), fit(getattr(b, key))) for key in arrays},
        **{
            key: tuple(x | y for x, y in zip(sets(a, key), sets(b, key), strict=True))
            for key in ("activations", "sources")
        },
        outputs=max(a.outputs, b.outputs),
        classes=max(a.classes, b.classes),
        **_inputs(a),
    )


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
            pool=bool(profile.pool[i]),
            maximum=bool(profile.maximum[i]),
            activations=tuple(sorted(profile.activations[i])),
            sources=tuple(sorted(profile.sources[i])),
        )
        for i in range(len(profile.nodes))
    )
    return Plan(graphs, tile, profile.outputs, profile.classes, levels=levels, **_inputs(profile))
