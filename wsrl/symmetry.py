"""Random transforms of a checkpoint that leave its function unchanged: tests of invariance, and augmentations.

Permutations of neuron groups, positive scales (ReLU), signs (tanh), and rescaled statistics of batch norms.
"""

import numpy as np
from jaxtyping import Float64, Int

from wsrl.canonical.norms import find_folds
from wsrl.checkpoint import Checkpoint
from wsrl.wiring.permute import permuted, reordered, rescaled
from wsrl.wiring.wiring import Wiring

Arrays = dict[str, Float64[np.ndarray, "..."]]


def random_symmetry(
    checkpoint: Checkpoint,
    wiring: Wiring,
    rng: np.random.Generator,
    permute: bool = True,
    scale: bool = True,
    max_scale: float = 64.0,
) -> Checkpoint:
    """Returns a checkpoint with the same function, its neurons permuted and rescaled at random.

    Args:
      checkpoint: not changed.
      wiring: names the symmetries; that of a program shows most of them.
      rng: draws them.
      permute: also draw permutations.
      scale: also draw positive scales, signs and statistics of batch norms.
      max_scale: positive factors are log-uniform in [1 / max_scale, max_scale].
    """
    tensors = _float64(checkpoint)
    if scale:
        tensors = _with_other_statistics(tensors, wiring, rng, max_scale)
        tensors = rescaled(tensors, wiring, int(rng.integers(2**32)), largest=max_scale)
    if permute:
        tensors = permuted(tensors, wiring, int(rng.integers(2**32)))
    return _float32(checkpoint, tensors)


def reorder_outputs(checkpoint: Checkpoint, wiring: Wiring, order: Int[np.ndarray, "classes"]) -> Checkpoint:
    """Returns the checkpoint with output neuron i taken from `order[i]`: another network, unless classes are a set."""
    outputs = {name: order for name, group in wiring.groups.items() if group.role == "output"}
    return _float32(checkpoint, reordered(_float64(checkpoint), wiring, outputs))


def _float64(checkpoint: Checkpoint) -> Arrays:
    return {name: np.asarray(tensor).astype(np.float64) for name, tensor in checkpoint.tensors.items()}


def _float32(checkpoint: Checkpoint, tensors: Arrays) -> Checkpoint:
    return Checkpoint(checkpoint.path, {n: t.astype(np.float32) for n, t in tensors.items()}, checkpoint.metadata)


def _with_other_statistics(tensors: Arrays, wiring: Wiring, rng: np.random.Generator, max_scale: float) -> Arrays:
    """Scales the weights before each batch norm and its statistics alike."""
    changed = dict(tensors)
    for fold in find_folds(wiring):
        mean, variance = fold.fields["mean"], fold.fields["variance"]
        stored = changed[variance] + fold.epsilon
        # the stored variance, factor^2 (variance + epsilon) - epsilon, must stay positive
        smallest = np.sqrt(2 * fold.epsilon / np.maximum(stored, 2 * fold.epsilon))
        drawn = np.exp(rng.uniform(-np.log(max_scale), np.log(max_scale), len(stored)))
        factor = np.maximum(drawn, smallest)
        changed[variance] = stored * factor**2 - fold.epsilon
        for name, axis in ((mean, 0), (fold.bias, 0), (fold.weight, fold.axis)):
            if name is not None:
                changed[name] = changed[name] * factor.reshape(-1, *[1] * (changed[name].ndim - axis - 1))
    return changed
