"""The layers of a network, by the names of the tensors that hold their weights.

A network is a list of layers in topological order. A layer has `units` neurons, each with a map of `grid`
positions (the pixels of a convolution's output, the tokens of a transformer; 1 x 1 for a plain neuron):

    input      what the network is fed: channels with an image as map
    position   one-hot positions; a learned position embedding is a link from it
    linear     sum over its links, plus bias, then activation
    norm       layer norm over the units of its one identity link, then gain and bias
    attention  softmax(q k^T / sqrt(dim)) v over positions, from three layers of heads x dim units
    pool       largest or mean value in each window of its one identity link, whose kernel, stride and padding say where
               the windows lie; then activation

A link carries another layer's maps through a kernel: output position (y, x) reads the input positions
(oy + stride y - padding + ky, ox + stride x - padding + kx), where (oy, ox) is the link's origin. A dense layer has a
1 x 1 kernel; one that follows a flatten has a kernel as large as the map. So flatten, convolution and dense layer are
one thing. Layers may share tensors, as the steps of a recurrent network do.
Positions outside of a map are zero, and never the largest of a window; a mean divides by the kernel's size, padding
included, as PyTorch and Flax do by default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float

# gelu is the tanh approximation; leaky_relu has the slope 0.01
ACTIVATIONS = ("identity", "relu", "tanh", "gelu", "silu", "leaky_relu")
POOLINGS = ("max", "mean")


@dataclass(frozen=True)
class View:
    """How a tensor holds a matrix or a vector: every axis is a product of named dimensions, slowest first.

    Names: `out` (or `heads`, `dim`) and `in` (or `heads_in`, `dim_in`) are neurons, `ky` and `kx` are kernel
    taps, `part` tells the matrices of a fused tensor apart.
    PyTorch's dense layer after a flatten of [channel, y, x] is `(("out",), ("in", "ky", "kx"))`.
    """

    tensor: str
    axes: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]
    part: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that the tensor must have."""
        return tuple(prod(self.sizes[name] for name in axis) for axis in self.axes)

    def _arrange(self, tensor: np.ndarray, order: tuple[str, ...]) -> np.ndarray:
        names = [name for axis in self.axes for name in axis]
        array = tensor.reshape([self.sizes[name] for name in names])
        if "part" in names:
            array = np.take(array, self.part, axis=names.index("part"))
            names.remove("part")
        kept = [name for name in order if name in names]
        return array.transpose([names.index(name) for name in kept])

    def matrix(self, tensor: np.ndarray) -> Float[np.ndarray, "taps fan_in units"]:
        """Returns the weights with taps in row-major order of the kernel."""
        array = self._arrange(tensor, ("one", "ky", "kx", "heads_in", "dim_in", "in", "heads", "dim", "out"))
        inputs = prod(self.sizes.get(name, 1) for name in ("in", "heads_in", "dim_in"))
        units = prod(self.sizes.get(name, 1) for name in ("out", "heads", "dim"))
        return array.reshape(-1, inputs, units)

    def vector(self, tensor: np.ndarray) -> Float[np.ndarray, "units"]:
        """Returns one value a unit."""
        return self._arrange(tensor, ("heads", "dim", "out")).reshape(-1)


@dataclass(frozen=True)
class Link:
    """Weights from one layer to another; without weights, the identity (a residual connection, or windows to pool)."""

    source: int
    weight: View | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    origin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Norm:
    """Tensors of a batch norm (with `mean` and `variance`) or a layer norm (without)."""

    gain: View | None
    bias: View | None
    mean: View | None = None
    variance: View | None = None
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Layer:
    """One layer; see the module's docstring.

    Attributes:
      units: neurons.
      grid: (height, width) of each neuron's map, before pooling.
      biases: their sum is added to what the links carry.
      activation: one of `ACTIVATIONS`.
      pool: the map is averaged over all its positions after the activation (global average pooling).
      pooling: of a `pool` layer, one of `POOLINGS`.
      heads: of an attention layer and of its three sources.
      norm: batch norm between the links and the activation, or the layer norm of a `norm` layer.
    """

    name: str
    op: str
    units: int
    grid: tuple[int, int] = (1, 1)
    links: tuple[Link, ...] = ()
    biases: tuple[View, ...] = ()
    norm: Norm | None = None
    activation: str = "identity"
    pool: bool = False
    pooling: str = "max"
    heads: int = 1
