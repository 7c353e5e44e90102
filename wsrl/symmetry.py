"""Random transforms of a checkpoint that leave its function unchanged: tests of invariance, and augmentations.

Permutations of neuron groups, positive scales (ReLU), signs (tanh), and rescaled statistics of batch norms.
"""

import numpy as np

from wsrl.checkpoint import Checkpoint
from wsrl.program.groups import claim
from wsrl.program.layers import Program


def random_symmetry(
    checkpoint: Checkpoint,
    program: Program,
    rng: np.random.Generator,
    permute: bool = True,
    scale: bool = True,
    max_scale: float = 64.0,
) -> Checkpoint:
    """Returns a checkpoint with the same function, its neurons permuted and rescaled at random.

    Args:
      scale: also draw positive scales, signs and batch-norm statistics.
      max_scale: positive factors are log-uniform in [1 / max_scale, max_scale].
    """
    claimed = claim(program, checkpoint)
    tensors = {name: np.asarray(t).astype(np.float64) for name, t in checkpoint.tensors.items()}
    if scale:
        _rescale_batch_norms(tensors, program, rng, max_scale)
    draws = {}
    for key, group in claimed["groups"].items():
        order = rng.permutation(group["size"]) if permute and group["permutable"] else np.arange(group["size"])
        factor = np.ones(group["size"])
        if scale and group["scale"] == "positive":
            factor = _log_uniform(rng, max_scale, group["size"])
        elif scale and group["scale"] == "sign":
            factor = rng.choice([-1.0, 1.0], group["size"])
        draws[key] = order, factor
    for name, tensor in claimed["tensors"].items():
        for axis, segments in enumerate(tensor["axes"]):
            for segment in segments or ():
                tensors[name] = _apply(tensors[name], axis, segment, *draws[segment["group"]])
    return Checkpoint(checkpoint.path, {n: t.astype(np.float32) for n, t in tensors.items()}, checkpoint.metadata)


def _log_uniform(rng: np.random.Generator, max_scale: float, size: int) -> np.ndarray:
    return np.exp(rng.uniform(-np.log(max_scale), np.log(max_scale), size))


def _apply(tensor: np.ndarray, axis: int, segment: dict, order: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Permutes and scales the units of one axis that is a single segment."""
    split = (*tensor.shape[:axis], segment["outer"], segment["size"], segment["inner"], *tensor.shape[axis + 1 :])
    scales = (factor ** segment["power"]).reshape(-1, *[1] * (len(split) - axis - 2))
    return (tensor.reshape(split) * scales).take(order, axis=axis + 1).reshape(tensor.shape)


def _rescale_batch_norms(tensors: dict, program: Program, rng: np.random.Generator, max_scale: float) -> None:
    """Scales the weights before each batch norm and its statistics alike, in place."""
    for layer in program.layers:
        norm = layer.norm
        if norm is None or norm.mean is None or norm.variance is None:
            continue
        variance = tensors[norm.variance.tensor] + norm.epsilon
        # the stored variance, factor^2 (variance + epsilon) - epsilon, must stay positive
        smallest = np.sqrt(2 * norm.epsilon / np.maximum(variance, 2 * norm.epsilon))
        factor = np.maximum(_log_uniform(rng, max_scale, layer.units), smallest)
        tensors[norm.variance.tensor] = variance * factor**2 - norm.epsilon
        tensors[norm.mean.tensor] = tensors[norm.mean.tensor] * factor
        views = [*layer.biases] + [link.weight for link in layer.links]
        for view in views:
            if view is not None:
                axis = next(i for i, names in enumerate(view.axes) if "out" in names)
                shape = [-1 if i == axis else 1 for i in range(len(view.axes))]
                tensors[view.tensor] = tensors[view.tensor] * factor.reshape(shape)


def reorder_outputs(checkpoint: Checkpoint, program: Program, order: np.ndarray) -> Checkpoint:
    """Returns the checkpoint with output neuron i taken from `order[i]`: another network, unless classes are a set."""
    claimed = claim(program, checkpoint)
    tensors = {name: np.asarray(t) for name, t in checkpoint.tensors.items()}
    factor = np.ones(len(order))
    for name, tensor in claimed["tensors"].items():
        for axis, segments in enumerate(tensor["axes"]):
            for segment in segments or ():
                if claimed["groups"][segment["group"]]["role"] == "output":
                    tensors[name] = _apply(tensors[name], axis, segment, order, factor).astype(np.float32)
    return Checkpoint(checkpoint.path, tensors, checkpoint.metadata)
