"""Chance: vectors that know nothing of the models."""

import numpy as np
from jaxtyping import Float32


def chance_features(count: int, seed: int, dim: int = 128) -> Float32[np.ndarray, "count dim"]:
    """Normal vectors, so that every ranking is a random order of the gallery."""
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
