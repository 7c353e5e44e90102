"""Raw weights: cosine of the weights as they stand in the file."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32


def raw_weight_features(
    weights: Sequence[Mapping[str, np.ndarray]], dim: int = 1024, seed: int = 0
) -> Float32[np.ndarray, "n features"]:
    """All tensors of a model flattened, in the natural order of their names, and put after one another.

    Shorter vectors count as padded with zeros: the i-th weight of one model meets the i-th of another, which
    means something within one architecture and width, and little elsewhere. That is what comparing raw
    weights amounts to.

    Vectors longer than `dim` are reduced by a sparse random projection with one entry in each row (count
    sketch, Charikar, Chen and Farach-Colton 2002), which keeps inner products in expectation; the same for
    all models.

    Args:
      weights: finite tensors of each model by name.
      dim: features at most.
      seed: of the projection.

    Returns:
      Zero-padded vectors, or their projections to `dim` numbers.
    """
    lengths = [sum(int(np.size(tensor)) for tensor in tensors.values()) for tensors in weights]
    longest = max(lengths, default=0)
    rng = np.random.default_rng(seed)
    bucket = rng.integers(dim, size=longest)
    sign = rng.choice([-1.0, 1.0], size=longest)
    features = np.zeros((len(lengths), min(longest, dim)), np.float32)
    for row, tensors, length in zip(features, weights, lengths, strict=True):
        flat = np.concatenate([np.ravel(tensors[name]) for name in natural_order(tensors)] or [np.zeros(0)])
        if longest <= dim:
            row[:length] = flat
        else:
            row[:] = np.bincount(bucket[:length], weights=sign[:length] * flat, minlength=dim)
    return features


def natural_order(names: Iterable[str]) -> list[str]:
    """Names sorted with their numbers as numbers: layer_2 before layer_10."""
    return sorted(
        names,
        key=lambda name: [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)],
    )
