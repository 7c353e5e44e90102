"""The weights of a network, arranged layer by layer, with batch norms folded into the layer before them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wsrl.canonical.norms import norm_as_affine
from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.program.layers import Layer, Link
from wsrl.program.program import Program


@dataclass(frozen=True)
class WeightedLayer:
    """A layer with its weights.

    Attributes:
      layer: units, grid, links and activation.
      weights: one array [taps, fan_in, units] a link; None for an identity link.
      bias: [units].
      gain: [units], after the normalization of a layer norm; ones elsewhere.
    """

    layer: Layer
    weights: tuple[Float[np.ndarray, "_taps _fan_in units"] | None, ...]
    bias: Float[np.ndarray, "units"]
    gain: Float[np.ndarray, "units"]


@dataclass(frozen=True)
class Network:
    """Layers in topological order."""

    layers: tuple[WeightedLayer, ...]


def read_network(checkpoint: Checkpoint, program: Program) -> Network:
    """Arranges the weights of a checkpoint by its program; arrays are float64."""
    return Network(tuple(_weighted(layer, checkpoint) for layer in program.layers))


def canonical_network(checkpoint: Checkpoint, program: Program) -> Network:
    """As `read_network`, of the checkpoint in canonical form: scales and signs of units are fixed.

    Raises:
      CheckpointError: a tensor, or its canonical form, holds what is not finite in float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            network = read_network(program.canonicalizer(checkpoint), program)
        except CheckpointError:
            network = read_network(checkpoint, program)  # raises what concerns the file rather than its scales
            arrays = [np.array([np.inf])]
        else:
            arrays = [a for layer in network.layers for a in (*layer.weights, layer.bias, layer.gain) if a is not None]
        if all(np.isfinite(array.astype(np.float32)).all() for array in arrays):
            return network
    reason = "its weights are too large for their norms to be folded in float32"
    raise CheckpointError(checkpoint.path, reason, "retrain the model or leave it out")


def _weighted(layer: Layer, checkpoint: Checkpoint) -> WeightedLayer:
    def vector(view, default: float) -> np.ndarray:
        if view is None:
            return np.full(layer.units, default)
        return view.vector(np.asarray(checkpoint.tensors[view.tensor])).astype(np.float64)

    def matrix(link: Link) -> np.ndarray | None:
        if link.weight is None:
            return None
        return link.weight.matrix(np.asarray(checkpoint.tensors[link.weight.tensor])).astype(np.float64)

    weights = tuple(matrix(link) for link in layer.links)
    bias = sum((vector(view, 0.0) for view in layer.biases), np.zeros(layer.units))
    gain = np.ones(layer.units)
    norm = layer.norm
    if norm is not None and layer.op == "norm":
        gain, bias = vector(norm.gain, 1.0), vector(norm.bias, 0.0)
    elif norm is not None:
        fields = {"gain": norm.gain, "shift": norm.bias, "mean": norm.mean, "variance": norm.variance}
        held = {name: vector(view, 0.0) for name, view in fields.items() if view is not None}
        scale, bias = norm_as_affine(held, norm.epsilon, bias)
        weights = tuple(None if w is None else w * scale for w in weights)
    return WeightedLayer(layer, weights, bias, gain)
