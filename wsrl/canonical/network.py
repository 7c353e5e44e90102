"""Removes the scale and sign symmetries of a network analytically; permutations are left to the encoder.

For positively homogeneous activations (ReLU, leaky ReLU) every hidden unit's incoming weights and bias are divided by
their norm and its outgoing weights multiplied by it (Neyshabur et al., Path-SGD, 2015, eq. 3). For odd activations the
sum of incoming weights and bias is made positive.
"""

from dataclasses import replace

import numpy as np

from wsrl.checkpoint import Checkpoint, CheckpointError
from wsrl.program.groups import Group
from wsrl.program.layers import Program
from wsrl.program.network import Network, read_network

SMALLEST = 1e-30  # units whose incoming weights have a smaller norm are dead and left as they are


def canonical_network(checkpoint: Checkpoint, program: Program) -> Network:
    """Checkpoint and program -> canonical weights, all of them finite in float32.

    Raises:
      CheckpointError: products of its weights are beyond float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        network = canonicalize(read_network(checkpoint, program))
        arrays = [w for layer in network.layers for w in (*layer.weights, layer.bias, layer.gain) if w is not None]
        if all(np.isfinite(array.astype(np.float32)).all() for array in arrays):
            return network
    reason = "its weights are too large for their norms to be folded in float32"
    raise CheckpointError(checkpoint.path, reason, "retrain the model or leave it out")


def canonicalize(network: Network) -> Network:
    """Returns a network with the same function whose positive scales and signs are fixed.

    Groups are taken in topological order, so the incoming weights of a group are canonical up to its own factors when
    its turn comes. A group with several layers (a residual stream) is measured by its first one: the later ones depend
    on the group's own scale.
    """
    weights = [list(layer.weights) for layer in network.layers]
    biases = [layer.bias for layer in network.layers]
    for group in network.groups:
        factors = _factors(group, weights[group.members[0]], biases[group.members[0]])
        if factors is None:
            continue
        for member in group.members:
            weights[member] = [None if w is None else w / factors for w in weights[member]]
            biases[member] = biases[member] / factors
        for i, layer in enumerate(network.layers):
            for j, link in enumerate(layer.layer.links):
                if link.source in group.members and weights[i][j] is not None:
                    weights[i][j] = weights[i][j] * factors[:, None]
    layers = tuple(
        replace(layer, weights=tuple(w), bias=b) for layer, w, b in zip(network.layers, weights, biases, strict=True)
    )
    return Network(layers, network.groups)


def _factors(group: Group, weights: list, bias: np.ndarray) -> np.ndarray | None:
    """What each unit's incoming weights are divided by; None where the group has no scale symmetry."""
    incoming = [w for w in weights if w is not None]
    if group.scale == "positive":
        norm = np.sqrt(sum(np.square(w).sum(axis=(0, 1)) for w in incoming) + bias**2)
        return np.where(norm > SMALLEST, norm, 1.0)
    if group.scale == "sign":
        return np.where(sum(w.sum(axis=(0, 1)) for w in incoming) + bias < 0, -1.0, 1.0)
    return None
