"""Which of the programs that a file allows is the network's: its weights say so when they run on natural images.

Two signs speak for a program. Batch norms keep the mean and variance that their inputs had in training. With images of
another kind these are others in the first norm; but where each norm's output is brought to its mean and deviation
again, as in training, the means behind it follow from the activation, padding and pooling alone. Without norms: weights
that were trained for one activation fit each other under it, so that predictions tell more of the image, by mutual
information, than those of the same weights with hidden units in random order.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits

from wsrl.arrays import softmax
from wsrl.checkpoint import Checkpoint
from wsrl.encoder.dense_layers import DenseLayer, DenseLink, dense_layers
from wsrl.encoder.dense_sweep import Inputs, Trace, sweep_network
from wsrl.encoder.dense_windows import State
from wsrl.encoder.readout import entropy
from wsrl.program.layers import View
from wsrl.program.network import read_network
from wsrl.program.program import Program

DRIFT_IMAGES = 32  # the norms' means are over many positions of each
IMAGES = 128
SHUFFLES = 4
SMALL = 1e-6


def norm_drift(checkpoint: Checkpoint, program: Program, images: Inputs) -> float | None:
    """How far the means of what batch norms are given lie from those that they keep, in deviations that they keep.

    The first norm of the network, which shows the kind of the images, does not count.

    Args:
      checkpoint: holds the tensors of the network.
      program: that it may be.
      images: as the network is fed.

    Returns:
      Mean square over units and norms; None where the network has fewer than two norms.
    """
    drifts: list[float] = []

    def renormalize(layer: int, state: State) -> State:
        norm = program.layers[layer].norm
        if norm is None or norm.mean is None:
            return state
        gain, shift = (_vector(checkpoint, view, default) for view, default in ((norm.gain, 1.0), (norm.bias, 0.0)))
        alive = np.abs(gain) > SMALL
        scale = np.where(alive, gain, np.float32(1))
        middle = state.mean((0, 1, 3), keepdims=True)
        centered = state - middle
        spread = np.sqrt(np.square(centered).mean((0, 1, 3), keepdims=True))
        mean = (middle - shift) / scale  # in the deviations and from the means that the norm keeps
        known = alive & np.ones_like(mean, bool)
        drifts.append(float(np.square(mean)[known].mean()) if known.any() else 0.0)
        centered /= spread / np.abs(scale) + np.float32(SMALL)
        centered += shift
        return centered

    Trace(dense_layers(read_network(checkpoint, program)), images, slice(0, images.probes), adjust=renormalize)
    return float(np.mean(drifts[1:])) if len(drifts) > 1 else None


def _vector(checkpoint: Checkpoint, view: View | None, default: float) -> Float32[np.ndarray, "units 1"]:
    if view is None:
        return np.full((1, 1), default, np.float32)
    return view.vector(np.asarray(checkpoint.tensors[view.tensor], np.float32))[:, None]


def information(network: Sequence[DenseLayer], images: Inputs) -> float:
    """Mutual information of the predicted class and the image, in nats."""
    logits, _ = sweep_network(network, images, None, gradients=False)
    probability = softmax(logits.T.astype(np.float64), axis=1)
    return float(entropy(probability.mean(0, keepdims=True))[0] - entropy(probability).mean())


def shuffled(network: Sequence[DenseLayer], rng: np.random.Generator) -> list[DenseLayer]:
    """The network with what each layer reads in another order of units, but for the input's channels."""

    def shuffle(link: DenseLink) -> DenseLink:
        if link.weight is None or link.source == 0:
            return link
        return link._replace(weight=link.weight[:, :, rng.permutation(link.weight.shape[2])])

    return [layer._replace(links=tuple(map(shuffle, layer.links))) for layer in network]


def learned_information(network: Sequence[DenseLayer], images: Inputs) -> float:
    """Mutual information that is lost when hidden units are put in random order, in nats."""
    rng = np.random.default_rng(0)
    chance = np.mean([information(shuffled(network, rng), images) for _ in range(SHUFFLES)])
    return information(network, images) - float(chance)


def likeliest(
    checkpoint: Checkpoint, programs: Sequence[Program], images_of: Callable[[tuple[int, int, int], int], Inputs]
) -> Program:
    """Returns the program that the weights speak for.

    The size of the images is the most usual one that the shapes allow: other sizes look the same to a network as
    sharper or softer images. Where batch norms say nothing, so is the geometry, and the activation alone is compared.

    Args:
      checkpoint: whose programs these are; its values are read.
      programs: the most usual first; see `wsrl.program.read.read_programs`.
      images_of: gives natural images of a shape [height, width, channels], as many as asked for at most.
    """
    first = programs[0]
    candidates = [p for p in programs if p.input_shape == first.input_shape]
    if len(candidates) == 1:
        return first
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):  # weights that are too large are reported elsewhere
        few = images_of(first.input_shape, DRIFT_IMAGES)
        if (drift := norm_drift(checkpoint, first, few)) is not None:
            drifts = [drift, *(norm_drift(checkpoint, program, few) or 0.0 for program in candidates[1:])]
            return candidates[min(range(len(drifts)), key=drifts.__getitem__)]
        candidates = [p for p in candidates if differs_in(first, p) <= {"activation"}]
        networks = [dense_layers(read_network(checkpoint, program)) for program in candidates]
        images = images_of(first.input_shape, IMAGES)
        scores = [learned_information(network, images) for network in networks]
        return candidates[int(np.argmax(scores))]


def differs_in(one: Program, other: Program) -> set[str]:
    """Names of the facts that two programs of a checkpoint do not share."""
    return {name for name, value in one.values.items() if value != other.values[name]}


def beside(chosen: Program, programs: Sequence[Program]) -> list[Program]:
    """Programs that differ from the chosen one in nothing but the activation, or nothing but the size of the images."""
    return [p for p in programs if differs_in(chosen, p) in ({"activation"}, {"input"})]
