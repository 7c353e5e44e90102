"""A network's layers as plain matrices in float32, for the sweeps in NumPy."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from wsrl.program.network import Network, WeightedLayer


class DenseLink(NamedTuple):
    """What one layer carries to another; output position (y, x) reads from (offset + stride * (y, x)) on.

    Attributes:
      source: layer that is read.
      weight: of each tap (y, x) of the window; None for a link without weights.
      kernel: (height, width) of the window.
      offset: (y, x) of its first tap; negative where it begins in the padding.
      stride: in both directions.
    """

    source: int
    weight: Float32[np.ndarray, "height width fan_in units"] | None
    kernel: tuple[int, int]
    offset: tuple[int, int]
    stride: int


class DenseLayer(NamedTuple):
    """One layer of a network.

    Attributes:
      op: one of `wsrl.graph.tiles.OPS`.
      grid: (height, width) of the units' maps, before the mean over them.
      links: that it reads.
      bias, gain: of the units; the gain is that of a layer norm.
      activation: one of `wsrl.program.layers.ACTIVATIONS`.
      pool: whether the mean over its maps is taken after the activation.
      heads: of attention.
    """

    op: str
    grid: tuple[int, int]
    links: tuple[DenseLink, ...]
    bias: Float32[np.ndarray, "units"]
    gain: Float32[np.ndarray, "units"]
    activation: str
    pool: bool
    heads: int

    @property
    def units(self) -> int:
        """Neurons, padding not counted."""
        return len(self.bias)


def dense_layers(network: Network) -> list[DenseLayer]:
    """Layers of a network, in topological order."""
    return [_layer(layer) for layer in network.layers]


def _layer(layer: WeightedLayer) -> DenseLayer:
    spec = layer.layer
    links = []
    for link, weight in zip(spec.links, layer.weights, strict=True):
        placed = (link.origin[0] - link.padding, link.origin[1] - link.padding)
        own = None if weight is None else weight.astype(np.float32).reshape(*link.kernel, *weight.shape[1:])
        links.append(DenseLink(link.source, own, link.kernel, placed, link.stride))
    return DenseLayer(
        op=spec.pooling if spec.op == "pool" else spec.op,
        grid=spec.grid,
        links=tuple(links),
        bias=layer.bias.astype(np.float32),
        gain=layer.gain.astype(np.float32),
        activation=spec.activation,
        pool=spec.pool,
        heads=spec.heads,
    )
