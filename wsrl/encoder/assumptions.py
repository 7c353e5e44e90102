"""Which of the programs that a file allows is the network's: its weights say so when they run on natural images.

Two signs speak for a program. Batch norms keep the mean and variance that their inputs had in training. With images of
another kind these are others in the first norm; but where each norm's output is brought to its mean and deviation
again, as in training, the means behind it follow from the activation, padding and pooling alone. Without norms: weights
that were trained for one activation fit each other under it, so that predictions tell more of the image, by mutual
information, than those of the same weights with hidden units in random order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from wsrl.arrays import softmax
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.forward import Maps, run
from wsrl.encoder.readout import entropy
from wsrl.program.layers import View
from wsrl.program.network import Network, WeightedLayer, read_network
from wsrl.program.program import Program

DRIFT_IMAGES = 32  # the norms' means are over many positions of each
IMAGES = 128
SHUFFLES = 4
SMALL = 1e-6


def norm_drift(checkpoint: Checkpoint, network: Network, images: Maps) -> float | None:
    """How far the means of what batch norms are given lie from those that they keep, in deviations that they keep.

    The first norm of the network, which shows the kind of the images, does not count.

    Args:
      checkpoint: holds the tensors of the norms.
      network: as read from it, without further changes.
      images: [images, height, width, channels] as the network is fed.

    Returns:
      Mean square over units and norms; None where the network has fewer than two norms.
    """
    drifts: list[float] = []

    def renormalize(layer: WeightedLayer, maps: Maps) -> Maps:
        norm = layer.layer.norm
        if norm is None or norm.mean is None:
            return maps
        gain, shift = (_vector(checkpoint, view, default) for view, default in ((norm.gain, 1.0), (norm.bias, 0.0)))
        alive = np.abs(gain) > SMALL
        scale = np.where(alive, gain, 1.0)
        inputs = (maps - shift) / scale  # in the deviations and from the means that the norm keeps
        mean, deviation = inputs.mean((0, 1, 2)), inputs.std((0, 1, 2)) + SMALL
        drifts.append(float(np.square(mean)[alive].mean()) if alive.any() else 0.0)
        return ((inputs - mean) / deviation * scale + shift).astype(np.float32)

    for _ in run(network, images, renormalize):
        pass
    return float(np.mean(drifts[1:])) if len(drifts) > 1 else None


def _vector(checkpoint: Checkpoint, view: View | None, default: float) -> np.ndarray | float:
    return np.float64(default) if view is None else view.vector(np.asarray(checkpoint.tensors[view.tensor]))


def information(network: Network, images: Maps) -> float:
    """Mutual information of the predicted class and the image, in nats."""
    *_, output = run(network, images)
    probability = softmax(output.after[:, 0, 0].astype(np.float64), axis=1)
    return float(entropy(probability.mean(0, keepdims=True))[0] - entropy(probability).mean())


def shuffled(network: Network, rng: np.random.Generator) -> Network:
    """The network with what each layer reads in another order of units, but for the input's channels."""

    def shuffle(layer: WeightedLayer) -> WeightedLayer:
        weights = tuple(
            weight if weight is None or link.source == 0 else weight[:, rng.permutation(weight.shape[1])]
            for link, weight in zip(layer.layer.links, layer.weights, strict=True)
        )
        return replace(layer, weights=weights)

    return Network(tuple(map(shuffle, network.layers)))


def learned_information(network: Network, images: Maps) -> float:
    """Mutual information that is lost when hidden units are put in random order, in nats."""
    rng = np.random.default_rng(0)
    chance = np.mean([information(shuffled(network, rng), images) for _ in range(SHUFFLES)])
    return information(network, images) - float(chance)


def likeliest(
    checkpoint: Checkpoint, programs: Sequence[Program], images_of: Callable[[tuple[int, int, int]], Maps]
) -> Program:
    """Returns the program that the weights speak for.

    The size of the images is the most usual one that the shapes allow: other sizes look the same to a network as
    sharper or softer images. Where batch norms say nothing, so is the geometry, and the activation alone is compared.

    Args:
      checkpoint: whose programs these are; its values are read.
      programs: the most usual first; see `wsrl.program.read.read_programs`.
      images_of: gives natural images [images, height, width, channels] of a shape [height, width, channels].
    """
    first = programs[0]
    candidates = [p for p in programs if p.input_shape == first.input_shape]
    if len(candidates) == 1:
        return first
    images = images_of(first.input_shape)
    few = images[:: max(1, len(images) // DRIFT_IMAGES)]
    with np.errstate(over="ignore", invalid="ignore"):  # of weights that are too large, which is said elsewhere
        if norm_drift(checkpoint, read_network(checkpoint, first), few) is not None:
            return min(candidates, key=lambda p: norm_drift(checkpoint, read_network(checkpoint, p), few) or 0.0)
        candidates = [p for p in candidates if differs_in(first, p) <= {"activation"}]
        return max(candidates, key=lambda p: learned_information(read_network(checkpoint, p), images))


def differs_in(one: Program, other: Program) -> set[str]:
    """Names of the facts that two programs of a checkpoint do not share."""
    return {name for name, value in one.values.items() if value != other.values[name]}


def beside(chosen: Program, programs: Sequence[Program]) -> list[Program]:
    """Programs that differ from the chosen one in nothing but the activation, or nothing but the size of the images."""
    return [p for p in programs if differs_in(chosen, p) in ({"activation"}, {"input"})]
