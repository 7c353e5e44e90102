"""Sets of descriptors as vectors: kernel mean embeddings by random Fourier features.

The scalar product of the vectors of two networks is about the mean of exp(-|x - y|^2 / 2) over all pairs of a tensor x
of one and a tensor y of the other (Rahimi and Recht 2007; Smola et al. 2007). A narrow kernel counts tensors that are
the same but for rounding, a wide one tensors and architectures that are alike.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64

from wsrl.signature.descriptor import Descriptor
from wsrl.signature.hashing import gaussian

SAME = 1e-6  # difference of the numbers of tensors that are one tensor, stored twice


@dataclass(frozen=True)
class Kernel:
    """A Gaussian kernel on descriptors: what a difference of 1 in each number counts.

    Attributes:
      purpose: names the random numbers.
      features: dimensions of the embedding.
      entries, lengths, taps: of the logarithms of a tensor's entries, of its two longest axes, and of the rest.
      moments, spreads: see `Descriptor`; its gain counts as entries do.
      network: of the logarithms of the network's entries and of its number of tensors.
      size_power: a tensor of n entries has the weight n ** size_power; parts of one share its weight.
    """

    purpose: str
    features: int
    entries: float
    lengths: float
    taps: float
    moments: float
    spreads: float
    network: float
    size_power: float


def distinct(descriptors: Mapping[str, Descriptor]) -> dict[str, Descriptor]:
    """Keeps the first of repeated tensors, so that a tied matrix counts once whether a file repeats it or not."""
    kept: dict[str, Descriptor] = {}
    alike: dict[tuple[int, ...], list[Descriptor]] = {}
    for name, own in descriptors.items():
        others = alike.setdefault(own.lengths, [])
        if not any(np.abs(own.values - other.values).max() < SAME for other in others):
            others.append(own)
            kept[name] = own
    return kept


def embed(descriptors: Collection[Descriptor], kernel: Kernel) -> Float64[np.ndarray, "features"]:
    """Returns the kernel mean embedding of a network's tensors, of length 1; zeros where there are none."""
    if not descriptors:
        return np.zeros(kernel.features)
    entries = np.array([d.entries for d in descriptors], np.float64)
    longest = np.array([d.lengths[:2] for d in descriptors], np.float64)
    network = np.log([entries.sum(), len(entries)])
    points = np.concatenate(
        [
            np.log(entries)[:, None] * kernel.entries,
            np.log(longest) * kernel.lengths,
            np.log(entries / longest.prod(1))[:, None] * kernel.taps,
            np.stack([d.moments for d in descriptors]) * kernel.moments,
            np.stack([d.spreads for d in descriptors]) * kernel.spreads,
            np.array([[d.gain] for d in descriptors]) * kernel.entries,
            np.tile(network * kernel.network, (len(entries), 1)),
        ],
        axis=1,
    )
    phases = points @ _frequencies(kernel.purpose, points.shape[1], kernel.features // 2)
    parts = np.array([d.parts for d in descriptors])
    weights = (entries * parts) ** kernel.size_power / parts
    mean = weights @ np.concatenate([np.cos(phases), np.sin(phases)], axis=1)
    return mean / np.linalg.norm(mean)


def embed_lengths(descriptors: Collection[Descriptor], features: int, scale: float) -> Float64[np.ndarray, "features"]:
    """Returns the kernel mean embedding of the lengths that axes of a network's tensors have, each counted once.

    Args:
      descriptors: of the tensors.
      features: dimensions of the embedding.
      scale: what a difference of 1 in the logarithm of a length counts.
    """
    lengths = np.unique([length for own in descriptors for length in own.lengths])
    phases = scale * np.log(lengths)[:, None] @ _frequencies("lengths", 1, features // 2)
    mean = np.concatenate([np.cos(phases), np.sin(phases)], axis=1).sum(0)
    return mean / np.linalg.norm(mean)


@lru_cache
def _frequencies(purpose: str, numbers: int, count: int) -> Float64[np.ndarray, "numbers count"]:
    return gaussian(f"{purpose} frequencies", numbers, count)
